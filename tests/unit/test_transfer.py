# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives that become machines again: what their trees are made of, and what is left out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER, web
from fakes import FakeHost
from machines.declare.write import write_machine
from machines.host.interfaces import Progress, SourceRequest
from machines.model.machine import Machine
from machines.operations.transfer import bring

pytestmark = pytest.mark.usefixtures("as_root")

PATH = "/dev/null"
NETWORKD = "/usr/lib/systemd/system/systemd-networkd.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
THEIRS = {"/etc/machine-id": "0123\n", "/etc/hostname": "theirs\n", "/root/mine": "mine\n", NETWORKD: "x"}


@pytest.fixture
def host(host: FakeHost) -> FakeHost:
    async def make(request: SourceRequest, progress: Progress) -> None:
        host.maker.requests.append(request)
        for path, text in THEIRS.items():
            host.guests.write_file(str(request.target), path, text)

    host.maker.make = make  # type: ignore[method-assign]
    return host


def brought(
    host: FakeHost, said: Machine | None, *, name: str = "two", forget: bool = False, trust: bool = False
) -> Any:
    text = write_machine(said) if said else ""
    host.archives = SimpleNamespace(kind=lambda path: "tar", declaration=lambda path, form: text)
    return asyncio.run(bring(PATH, name, host, REPORTER, forget=forget, form=None, trust=trust, dry_run=False))


def tree(host: FakeHost, name: str = "two") -> dict[str, str]:
    root = f"/var/lib/machines/{name}"
    return {path.removeprefix(root): text for path, text in host.guests.texts.items() if path.startswith(f"{root}/")}


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("said", [web(), web(hostname="theirs"), None])
def test_tree_is_the_archives_with_either_identity(host: FakeHost, said: Machine | None, *, forget: bool) -> None:
    brought(host, said, forget=forget)
    assert [str(request.source) for request in host.maker.requests] == [f"tar:{PATH}"]
    made = tree(host)
    assert made["/root/mine"] == "mine\n"
    assert made["/etc/machine-id"] == ("" if forget else "0123\n")
    assert ("/etc/hostname" in made) is not forget
    # What machctl exported is a machine already; of a tree that came from elsewhere a base is made.
    assert (WANTED in made) is (forget and said is None)
    (base,) = host.storage.bases().values()
    assert base.source == (f"tar:{PATH}" if forget and said is None else "import:two")


def test_another_machine_has_not_the_declared_host_name(host: FakeHost) -> None:
    kept, _, left_out = brought(host, web(hostname="theirs"))
    assert (kept.hostname, left_out) == ("theirs", [])
    other, _, left_out = brought(host, web(hostname="theirs", publish=()), name="three", forget=True)
    assert (other.hostname, left_out) == (None, ["host name theirs"])
