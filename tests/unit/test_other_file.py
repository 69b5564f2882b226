# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines of a fleet file of their own (apply --file): seen by their ports, and changed where they are declared."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.cli import editing
from machines.cli.options import Options
from machines.errors import NotFound
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.operations import applying
from machines.operations.declared import other_file
from machines.operations.ports import list_ports
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")

FILE = "/srv/lab.toml"
TEXT = """\
# Mine.
[machines.web]
source = "debian"
bridges = ["br0"]
publish = ["8080:80", "53:53/udp"]
"""


@pytest.fixture
def host() -> Any:
    made: Any = FakeHost()
    usual = made.declarations
    made.files.texts[FILE] = TEXT
    made.declarations = (FILE,)
    assert asyncio.run(applying.apply([], made, REPORTER))[1] == {}
    made.declarations = usual
    return made


def test_ports_of_it_are_listed(host: Any) -> None:
    host.running = lambda: {"web": "systemd-nspawn@web.service"}
    host.active.add("machctl-port-web_8080.socket")
    host.declarations = (FILE,)
    wanted = {row["port"]: row for row in list_ports(host)}
    host.declarations = FakeHost().declarations
    assert list(wanted) == ["8080", "53/udp"]
    for name in (None, "web"):
        assert {row["port"]: row for row in list_ports(host, name)} == wanted
    with pytest.raises(NotFound):
        list_ports(host, "db")


def test_it_is_changed_in_its_file(
    host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(editing, "RealHost", lambda: host)

    def edit(machine: Machine) -> Machine:
        return replace(machine, memory=2**30)

    def change() -> None:
        editing.edit_machine("web", edit, Options(), verb="set", done="set it", nothing="nothing")

    change()
    assert host.files.texts[FILE] == TEXT + 'memory = "1G"\n'
    assert "MemoryMax" in host.files.texts[paths.dropin_file("web")]
    assert f"{FILE} says so now" in capsys.readouterr().err
    host.declarations = FakeHost().declarations
    assert other_file("web", host) == FILE
    assert other_file("db", host) == ""
    del host.files.texts[FILE]
    with pytest.raises(NotFound, match=f"was made of {FILE}, which is not there"):
        change()


def test_one_that_its_file_no_longer_declares_is_not_changed(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files.texts[FILE] = TEXT.replace("web", "db")
    monkeypatch.setattr(editing, "RealHost", lambda: host)
    with pytest.raises(NotFound, match=f"web is not declared in {FILE}"):
        editing.edit_machine("web", lambda machine: machine, Options(), verb="set", done="", nothing="")


def test_one_that_is_declared_on_the_host_is_none_of_a_file(host: Any) -> None:
    host.files.texts["/etc/machctl/fleet.d/web.toml"] = TEXT
    assert other_file("web", host) == ""
