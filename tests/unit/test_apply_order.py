# SPDX-License-Identifier: LGPL-2.1-or-later
"""apply and down along what comes after what; what depends on a failure is left, all else goes on."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER, declare
from fakes import FakeHost
from machines.declare.after import check_after, check_order, parse_after, with_groups
from machines.errors import CommandFailed, InvalidFile, InvalidValue, MachctlError, NotFound
from machines.model.after import After, find_circle, order_of, reverse
from machines.model.names import machine_unit
from machines.operations import applying, fleetplan
from machines.operations.down import down, plan_down
from machines.operations.fleetplan import PLAIN
from machines.operations.reporter import Reporter
from machines.operations.resuming import LATER_UNIT, UNIT, resume, resume_later
from machines.operations.unfinished import Unfinished, read_unfinished, write_unfinished
from machines.plan import steps
from machines.render import paths
from samples import machine

pytestmark = pytest.mark.usefixtures("as_root")


class Ended(Reporter):
    def __init__(self) -> None:
        self.names: list[tuple[str, bool]] = []

    def ended(self, machine: str, error: MachctlError | None) -> None:
        self.names.append((machine, error is None))


class Running(FakeHost):
    """A host whose machines start and stop; starting takes a moment."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.up: dict[str, str] = {}
        self.units.start = self._start
        self.jobs.dispatch = self._dispatch
        self.jobs.wait_started = self._wait_started
        self.machines = SimpleNamespace(power_off=self._power_off, kill=self._power_off)
        self.enabled: list[list[str]] = []
        self.units.enable = self.enabled.append
        self.facts.enabled_machines = lambda: {
            unit.removeprefix("systemd-nspawn@").removesuffix(".service"): True
            for units in self.enabled
            for unit in units
        }
        self.storage.driver = "btrfs"

    def running(self) -> dict[str, str]:
        return dict(self.up)

    def _start(self, unit: str) -> str:
        self.call(f"dispatch {unit}")
        return unit

    async def _dispatch(self, unit: str) -> str:
        return self._start(unit)

    async def _wait_started(self, unit: str, job: str) -> None:
        await asyncio.sleep(0)
        name = unit.removeprefix("systemd-nspawn@").removesuffix(".service")
        if f"start {name}" in self.failing:
            raise CommandFailed(f"{unit} failed")
        self.done.append(f"started {name}")
        self.up[name] = unit

    async def _power_off(self, name: str) -> None:
        await asyncio.sleep(0)
        if f"stop {name}" in self.failing:
            raise CommandFailed(f"{name} does not stop")
        self.done.append(f"stopped {name}")
        del self.up[name]


def applied(host: FakeHost, reporter: Reporter = REPORTER, *names: str, **wishes: bool) -> dict[str, MachctlError]:
    return asyncio.run(applying.apply(names, host, reporter, PLAIN._replace(**wishes)))[1]


def started(host: FakeHost) -> list[str]:
    return [line.split()[1] for line in host.done if line.startswith("started ")]


def chain(host: FakeHost) -> None:
    declare(host, "web", "autostart = true", 'after = ["app", "cache"]')
    declare(host, "app", "autostart = true", 'after = ["db"]')
    declare(host, "db", "autostart = true")
    declare(host, "cache", "autostart = true")


def test_machines_start_after_those_they_come_after() -> None:
    host = Running()
    chain(host)
    assert applied(host) == {}
    order = started(host)
    assert sorted(order) == ["app", "cache", "db", "web"]
    assert order.index("db") < order.index("app") < order.index("web")
    assert order.index("cache") < order.index("web")


def test_what_comes_after_a_failure_is_made_and_not_started_and_the_rest_goes_on() -> None:
    host, ended = Running(failing=["start db"]), Ended()
    chain(host)
    failed = applied(host, ended)
    assert sorted(failed) == ["app", "db", "web"]
    assert failed["app"].message == "machine app is made and not started: it comes after db"
    assert failed["web"].message == "machine web is made and not started: it comes after app"
    assert started(host) == ["cache"]
    assert set(host.placed) == {"app", "cache", "db", "web"}
    assert dict(ended.names) == {"db": False, "app": False, "web": False, "cache": True}
    host.failing = set()
    assert applied(host) == {}
    assert started(host) == ["cache", "db", "app", "web"]


def test_what_comes_after_a_machine_without_a_base_is_left() -> None:
    host = Running(failing=["make debian:bookworm"])
    declare(host, "web", "autostart = true", 'after = ["db"]')
    declare(host, "db", "autostart = true", source="debian:bookworm")
    failed = applied(host)
    assert sorted(failed) == ["db", "web"]
    assert started(host) == []


def test_one_that_is_to_run_and_does_not_is_started_again() -> None:
    host = Running()
    chain(host)
    applied(host)
    del host.up["db"]
    plans = fleetplan.fleet_plan([], host, verb="plan").plans
    assert {name: [str(step) for step in plan] for name, plan in plans.items() if plan} == {"db": ["start db"]}
    assert plans["db"][0].kind == "live"


def test_calls_that_are_the_same_for_all_are_made_once() -> None:
    host = Running()
    chain(host)
    applied(host)
    assert [line for line in host.done if line.startswith(("nft", "reload", "start machctl-bridge"))] == [
        "reload networkd", "start machctl-bridge@machctl0.service", "nft -f", "reload systemd",
    ]  # fmt: skip
    assert len(host.enabled) <= 3
    assert {unit for units in host.enabled for unit in units} == {*map(machine_unit, host.placed), "machines.target"}


def test_a_tree_whose_base_is_gone_is_said() -> None:
    host = Running()
    chain(host)
    applied(host)
    host.placed["db"] = host.placed["db"]._replace(kind="overlay")
    host.storage.layer_names = {"db"}
    assert fleetplan.fleet_plan([], host, verb="plan").lost == ()

    def mount(name: str) -> None:
        raise NotFound(f"the base of machine {name} is gone")

    host.storage.mount = mount  # type: ignore[method-assign]
    assert fleetplan.fleet_plan([], host, verb="plan").lost == ("db",)


def test_those_that_wait_are_made_while_others_boot() -> None:
    host = Running()
    chain(host)
    place = host.storage.place
    host.storage.place = lambda name, *rest: [host.call(f"place {name}"), place(name, *rest)]
    assert applied(host) == {}
    shown = [line.replace("systemd-nspawn@", "") for line in host.done if line.startswith(("place", "dispatch"))]
    assert sorted(shown[:2]) == ["place cache", "place db"]
    assert sorted(shown[2:4]) == ["dispatch cache.service", "dispatch db.service"]
    assert sorted(shown[4:6]) == ["place app", "place web"]


def test_nothing_is_left_of_an_apply_that_ended_and_all_of_one_that_was_killed() -> None:
    host = Running()
    chain(host)
    applied(host)
    assert read_unfinished(host) is None
    host.failing = {"dispatch systemd-nspawn@db.service"}
    del host.up["db"]

    async def kill(what: str) -> str:
        raise KeyboardInterrupt

    host.jobs.dispatch = kill
    with pytest.raises(KeyboardInterrupt):
        applied(host, REPORTER, "db", restart=False)
    assert read_unfinished(host) == Unfinished(["db"], PLAIN._replace(restart=False), host.declarations)
    host.files.texts[paths.APPLYING_FILE] = "{"
    assert read_unfinished(host) == Unfinished([], PLAIN, host.declarations)


def test_without_waiting_machines_are_only_told_to_start() -> None:
    host = Running()
    chain(host)
    assert applied(host, REPORTER, wait=False) == {}
    assert started(host) == []
    assert sum(line.startswith("dispatch ") for line in host.done) == 4


def test_down_stops_each_before_those_it_comes_after() -> None:
    host = Running()
    chain(host)
    applied(host)
    plans, order = plan_down([], host)
    assert list(plans) == ["web", "app", "cache", "db"]
    assert asyncio.run(down(plans, order, host, REPORTER, timeout=None)) == {}
    stopped = [line.split()[1] for line in host.done if line.startswith("stopped ")]
    assert stopped.index("web") < stopped.index("app") < stopped.index("db")
    assert plan_down([], host)[0] == {}


def test_down_leaves_running_what_others_still_depend_on() -> None:
    host = Running()
    chain(host)
    applied(host)
    host.failing = {"stop app"}
    failed = asyncio.run(down(*plan_down([], host), host, REPORTER, timeout=None))
    assert sorted(failed) == ["app", "db"]
    assert sorted(host.up) == ["app", "db"]


def test_waiting_for_nobody_is_refused() -> None:
    host = Running()
    declare(host, "web", 'after = ["nobody"]')
    with pytest.raises(NotFound, match="waits for nobody") as caught:
        fleetplan.fleet_plan([], host, verb="plan")
    assert caught.value.message.startswith("/etc/machctl/fleet.d/web.toml:3: machines.web.after: machine web waits")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("db", After("db")),
        ("db/postgresql.service", After("db", "postgresql.service")),
        ("db/getty@tty1.service", After("db", "getty@tty1.service")),
        ("db:healthy", After("db", healthy=True)),
    ],
)
def test_what_can_be_waited_for(text: str, wanted: After) -> None:
    assert parse_after(text) == wanted
    assert str(wanted) == text


@pytest.mark.parametrize(
    "text", ["", "/x.service", "db/", "db/x", "db/x.service; rm", "db:sick", "db:", "db/x.service:healthy", "a b", "-x"]
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_after(text)


def test_circles_are_found_and_named() -> None:
    assert find_circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert find_circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    found = {
        "a": machine("a", after=(After("b"),)),
        "b": machine("b", after=(After("a"),)),
    }
    errors = check_order(found)
    assert [error.exit_code for error in errors] == [InvalidFile.exit_code]
    assert "a after b, b after a" in errors[0].message
    assert check_after(machine("a", after=(After("a"),)))


def test_a_long_chain_is_no_circle() -> None:
    names = [f"m{number}" for number in range(2000)]
    order = {one: [other] for one, other in itertools.pairwise(names)} | {names[-1]: []}
    assert find_circle(order) == []
    assert reverse(order)[names[1]] == {names[0]}


def test_the_name_of_several_stands_for_each() -> None:
    fleet = {
        "db-1": machine("db-1", group="db"),
        "db-2": machine("db-2", group="db"),
        "web": machine("web", after=(After("db", healthy=True),)),
    }
    assert with_groups(fleet)["web"].after == (After("db-1", healthy=True), After("db-2", healthy=True))
    assert order_of(with_groups(fleet))["web"] == {"db-1", "db-2"}


def test_a_start_step_is_one_of_what_runs() -> None:
    host = Running()
    chain(host)
    plan = fleetplan.fleet_plan(["db"], host, verb="plan").plans["db"]
    assert isinstance(plan[-1], steps.StartMachine)
    assert {step.kind for step in plan} == {"create"}
    assert machine_unit("db") not in host.active


def test_what_a_killed_apply_was_to_do_is_done_when_the_host_comes_up() -> None:
    host = Running()
    chain(host)
    write_unfinished([], PLAIN, host)
    found = read_unfinished(host)
    assert found is not None
    # What they are copied from is not there, and no network to get it by: that is for later.
    assert asyncio.run(resume(found, host, REPORTER)) == {}
    assert host.done == [f"dispatch {LATER_UNIT}"]
    assert read_unfinished(host) == found
    assert asyncio.run(resume_later(found, host, REPORTER)) == {}
    assert host.done[1:] == ["make debian:trixie", f"dispatch {UNIT}"]
    assert asyncio.run(resume(found, host, REPORTER)) == {}
    assert sum(line.startswith("dispatch systemd-nspawn@") for line in host.done) == 4
    assert read_unfinished(host) is None


def test_what_can_never_be_made_is_not_tried_for_ever() -> None:
    host = Running(failing=["make debian:trixie"])
    chain(host)
    write_unfinished([], PLAIN, host)
    found = read_unfinished(host)
    assert found is not None
    assert len(asyncio.run(resume_later(found, host, REPORTER))) == 4
    assert read_unfinished(host) is None
