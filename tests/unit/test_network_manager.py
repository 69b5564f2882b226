# SPDX-License-Identifier: LGPL-2.1-or-later
"""NetworkManager is told of bridges once, again where a run was killed before that, and may be out of reach."""

from __future__ import annotations

import asyncio

from acting import apply, declare
from fakes import FakeHost
from machines.operations.execute import execute
from machines.operations.fleetplan import fleet_plan
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.check_host import NETWORK_MANAGER
from machines.render import paths

RELOAD = f"reload {NETWORK_MANAGER}"


class Hearing(Reporter):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def managed(*names: str) -> FakeHost:
    """A host with NetworkManager, and machines declared on one bridge that nobody declared."""
    host = FakeHost()
    host.missing.clear()
    host.active.add(NETWORK_MANAGER)
    for name in names:
        declare(host, name)
    return host


def test_it_is_told_once_by_an_apply_and_before_the_first_bridge_is_there() -> None:
    host = managed("a", "b", "c")
    apply(host)
    assert host.done.count(RELOAD) == 1
    assert host.done.index(RELOAD) < next(n for n, what in enumerate(host.done) if what.startswith("start machctl-br"))
    bridge = next(iter(host.bridges))
    assert paths.unmanaged_file(bridge) in host.files.texts


def test_apply_finishes_what_was_killed_before_it_was_told() -> None:
    host = managed("a")
    apply(host)
    bridge = next(iter(host.bridges))
    host.active.discard(f"machctl-bridge@{bridge}.service")
    plan = fleet_plan([], host, verb="apply").plans["a"]
    assert [type(step) for step in plan[:2]] == [steps.ReloadNetworkManager, steps.StartUnit]
    apply(host)
    assert host.done.count(RELOAD) == 2


def test_it_may_be_on_its_way_up() -> None:
    host = managed()
    host.failing.add(RELOAD)
    reporter = Hearing()
    plan: list[steps.Step] = [steps.ReloadNetworkManager(reason=""), steps.ReloadUnits(reason="")]
    asyncio.run(execute(plan, host, reporter=reporter))
    assert host.done == [RELOAD, "reload systemd"]
    assert len(reporter.warned) == 1
    assert f"{RELOAD} failed" in reporter.warned[0]
