# SPDX-License-Identifier: LGPL-2.1-or-later
"""set --env and --secret: what a machine is given is changed by name, in its file too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from acting import create, web
from fakes import FakeHost
from machines.cli import editing
from machines.cli.editing import Given
from machines.cli.options import Options
from machines.cli.verbs import change
from machines.declare.fleet import own_file
from machines.errors import InvalidValue, MachctlError, NotFound
from machines.model.machine import Machine
from machines.model.secret import Secret
from samples import machine

WEB = machine(environment=(("A", "1"), ("B", "2")), secrets=(Secret("token", "file", "/t"),))


def environment(said: list[str], gone: list[str], of: Machine = WEB) -> tuple[tuple[str, str], ...]:
    return Given("environment", said, gone).edit(of).environment


def test_variables_change_in_their_place_and_go_by_name() -> None:
    assert environment(["B=x=y", "C="], ["A"]) == (("B", "x=y"), ("C", ""))
    assert environment(["A=3"], []) == (("A", "3"), ("B", "2"))
    assert environment([], ["A", "B", "A"]) == ()
    assert Given("secrets", ["token=credential:t"], []).edit(WEB).secrets == (Secret("token", "credential", "t"),)
    assert Given("secrets", [], ["token"]).edit(WEB).secrets == ()


@pytest.mark.parametrize("said", [["A"], ["1=2"], ["A=\n"]])
def test_words_that_are_wrong(said: list[str]) -> None:
    with pytest.raises(InvalidValue):
        environment(said, [])


def test_what_it_does_not_have_cannot_go() -> None:
    with pytest.raises(NotFound, match="C is not among the environment of web") as raised:
        environment([], ["C"])
    assert raised.value.hint == "it has A, B"


def test_values_are_not_said_again() -> None:
    assert Given("environment", ["PASSWORD=hunter2"], ["A"]).said == ["PASSWORD=", "no A"]


@pytest.mark.usefixtures("as_root")
def test_it_is_in_its_file_and_in_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = FakeHost()
    create(host, web())
    monkeypatch.setattr(editing, "RealHost", lambda: host)

    def set_(*assignments: str, **flags: list[str]) -> None:
        empty: dict[str, list[str]] = {"env": [], "unset_env": [], "secret": [], "unset_secret": []}
        change.set_(SimpleNamespace(obj=Options()), "web", list(assignments), **{**empty, **flags})  # type: ignore[arg-type]

    set_("memory=1G", env=["LANG=C.UTF-8", "MODE=a"])
    assert '[machines.web.environment]\nLANG = "C.UTF-8"\nMODE = "a"\n' in host.files.texts[own_file("web")]
    assert 'memory = "1G"' in host.files.texts[own_file("web")]
    assert any("MODE=a" in text for path, text in host.files.texts.items() if path.endswith("web.nspawn"))
    assert "set memory=1G LANG= MODE= on web" in capsys.readouterr().err
    set_(unset_env=["MODE"])
    assert "MODE" not in host.files.texts[own_file("web")]
    with pytest.raises(MachctlError, match="what of web is to be set"):
        set_()
