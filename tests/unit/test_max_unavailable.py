# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of the replicas of a group no more are restarted at one time than it can do without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from acting import REPORTER, declare
from fakes import FakeHost
from machines.errors import CommandFailed, Conflict, MachctlError
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.operations import applying
from machines.operations.gates import Gates, limits_of
from samples import machine

pytestmark = pytest.mark.usefixtures("as_root")


class Restarting(FakeHost):
    """A host whose machines all run, and take some turns of the loop to restart."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()
        self.most = 0
        self.order: list[str] = []
        self.broken = ""
        self.jobs.restart = self._restart
        self.storage.driver = "btrfs"

    def running(self) -> dict[str, str]:
        return {name: machine_unit(name) for name in self.placed}

    async def _restart(self, unit: str) -> None:
        self.away.add(unit)
        self.order.append(unit)
        self.most = max(self.most, len(self.away))
        for _ in range(5):
            await asyncio.sleep(0)
        self.away.discard(unit)
        if unit == self.broken:
            raise CommandFailed(f"{unit} failed")


def group(host: FakeHost, *lines: str) -> None:
    declare(host, "web", "replicas = 4", *lines)


def apply(host: FakeHost) -> dict[str, MachctlError]:
    return asyncio.run(applying.apply([], host, REPORTER))[1]


@pytest.mark.parametrize(("said", "most"), [((), 4), (("max-unavailable = 1",), 1), (("max-unavailable = 3",), 3)])
def test_so_many_are_away_at_a_time(said: tuple[str, ...], most: int) -> None:
    host = Restarting()
    group(host, *said)
    assert apply(host) == {}
    group(host, 'hostname = "www"', *said)
    assert apply(host) == {}
    assert (host.most, len(host.order)) == (most, 4)


def test_after_one_that_failed_the_others_are_left_as_they_are() -> None:
    host = Restarting()
    group(host, "max-unavailable = 1")
    apply(host)
    group(host, "max-unavailable = 1", 'hostname = "www"')
    host.broken = machine_unit("web-2")
    failed = apply(host)
    assert host.order == [machine_unit("web-1"), machine_unit("web-2")]
    assert sorted(failed) == ["web-2", "web-3", "web-4"]
    assert "web-2 is of the same group" in str(failed["web-3"])


def test_what_one_group_waits_for_is_nothing_to_others() -> None:
    def replica(name: str, **values: Any) -> Machine:
        return machine(name, **{"group": name[:3], **values})

    machines = {each.name: each for each in (replica("web-1", max_unavailable=2), replica("api-1"), machine("alone"))}
    assert limits_of(machines) == {"web": 2}
    assert limits_of(machines, otherwise=1) == {"web": 2, "api": 1}

    async def one(gates: Gates, name: str, group: str) -> None:
        async with gates.through(name, group):
            if name == "web-1":
                raise CommandFailed("no")

    async def every() -> list[Any]:
        gates = Gates({"web": 1, "api": 1})
        names = [("web-1", "web"), ("web-2", "web"), ("api-1", "api"), ("alone", "")]
        return await asyncio.gather(*(one(gates, *each) for each in names), return_exceptions=True)

    found = asyncio.run(every())
    assert [type(each) for each in found] == [CommandFailed, Conflict, type(None), type(None)]
