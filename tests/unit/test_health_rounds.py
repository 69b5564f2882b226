# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rounds of probes on a host in memory."""

from __future__ import annotations

import pytest

from fakehealth import FAILED, HTTP, LEADER, OK, host
from machines.errors import NotRunning
from machines.model.frozen import replace
from machines.model.health import STARTING, UNHEALTHY, State, write_state
from machines.operations.health import describe_health, health_row, results_of
from machines.render import paths

pytestmark = pytest.mark.usefixtures("its_clock")


def test_a_machine_that_starts_is_probed_until_it_is_healthy() -> None:
    there = host(FAILED, FAILED, FAILED, OK)
    assert there.health() == STARTING
    assert there.round() == "healthy"
    assert there.now - 1_000_000 < 2
    assert there.said == ["machine web is healthy"]
    assert [result["ok"] for result in results_of("web", there)] == [False, False, False, True]
    assert there.closed == 1


def test_a_healthy_machine_is_probed_once_a_round() -> None:
    there = host(OK, OK)
    there.round()
    there.now += 10
    before = there.files.texts[paths.health_file("web")]
    assert there.round() == "healthy"
    assert len(there.tried.begun) == 2
    assert there.files.texts[paths.health_file("web")] == before


def test_failures_make_it_unhealthy_and_restart_it_once() -> None:
    there = host(OK, FAILED, FAILED, FAILED)
    seen = []
    for _ in range(4):
        seen.append(there.round())
        there.now += 10
    assert seen == ["healthy", "healthy", "unhealthy", "unhealthy"]
    assert there.done == ["restart systemd-nspawn@web.service"]
    assert there.said[-2:] == ["machine web is unhealthy: refused", "machine web is unhealthy: restart it"]


def test_a_restarted_machine_starts_anew() -> None:
    there = host(OK, OK)
    there.round()
    there.leaders["web"] = LEADER + 1
    assert there.health() == STARTING
    assert there.round() == "healthy"


def test_the_start_period_ends_over_rounds() -> None:
    there = host(*[FAILED] * 100, web=replace(HTTP, start_period=5, on_failure="stop"))
    assert there.round() == STARTING
    assert 5 <= there.now - 1_000_000 < 8
    there.now += 10
    assert there.round() == STARTING
    there.now += 10
    assert there.round() == UNHEALTHY
    assert there.done == ["stop systemd-nspawn@web.service"]


def test_a_machine_that_boots_long_has_its_start_period_afterwards() -> None:
    there = host(*[FAILED] * 100, web=replace(HTTP, start_period=5))
    there.units.states = lambda patterns: dict.fromkeys(patterns, "activating")
    there.round()
    for _ in range(5):
        there.now += 10
        assert there.round() == STARTING


def test_one_failure_is_enough_only_once_it_has_booted() -> None:
    there = host(*[FAILED] * 100, web=replace(HTTP, start_period=5, retries=1))
    there.units.states = lambda patterns: dict.fromkeys(patterns, "activating")
    for _ in range(4):
        assert there.round() == STARTING
        there.now += 10
    assert there.done == []


@pytest.mark.parametrize("state", ["deactivating", "inactive"])
def test_a_machine_that_is_told_to_stop_has_not_failed(state: str) -> None:
    there = host(OK, *[FAILED] * 9)
    there.round()
    there.units.states = lambda patterns: dict.fromkeys(patterns, state)
    for _ in range(4):
        there.now += 10
        assert there.round() == "healthy"
    assert there.done == []


def test_what_cannot_be_restarted_keeps_nobody_else_from_it() -> None:
    there = host(OK, OK, *[FAILED] * 9, web=HTTP, db=HTTP)
    there.round()
    tried = []

    def dispatch(verb: str, unit: str) -> None:
        tried.append(unit)
        raise NotRunning(f"{unit} is masked")

    there.units.dispatch = dispatch
    for _ in range(2):
        there.now += 10
        there.round()
    assert len(tried) == 2


def test_a_clock_that_is_set_back_keeps_nobody_from_being_probed() -> None:
    there = host(OK, FAILED, FAILED)
    there.round()
    there.now -= 86400
    there.round()
    assert len(there.tried.begun) == 2
    there = host(*[FAILED] * 100, web=replace(HTTP, start_period=5))
    there.round()
    there.now -= 86400
    for _ in range(4):
        there.now += 10
        there.round()
    assert there.health() == UNHEALTHY


@pytest.mark.parametrize("step", [86400.0, -86400.0])
def test_a_clock_that_is_set_while_machines_start_takes_nothing_of_their_time(step: float) -> None:
    there = host(*[FAILED] * 5, OK, web=replace(HTTP, retries=1))

    def set_clock() -> None:
        if len(there.tried.begun) == 2:
            there.ahead = step

    there.meanwhile = set_clock
    assert there.round() == "healthy"
    assert not there.done
    assert there.now - 1_000_000 < 10


def test_who_is_there_is_asked_once_for_all_outcomes() -> None:
    there, asked = host(*[OK] * 9, **{f"m{number}": HTTP for number in range(9)}), list[int]()
    registered = there.registered
    there.registered = lambda: [asked.append(1), registered()][1]  # type: ignore[method-assign,func-returns-value]
    there.tried.wait = lambda seconds: [there.tried.done.pop() for _ in list(there.tried.done)]  # type: ignore[method-assign]
    there.round()
    assert len(there.tried.begun) == 9
    assert len(asked) < 5


def test_a_machine_that_is_changed_by_somebody_is_left_alone() -> None:
    there = host(OK)
    there.files.held.add("machine-web")
    there.meanwhile = lambda: there.files.held.clear() if there.now > 1_000_001 else None
    assert there.round() == "healthy"
    assert there.now > 1_000_001
    assert len(there.tried.begun) == 1


def test_each_round_has_machines_of_its_own() -> None:
    there = host(OK, web=HTTP, db=replace(HTTP, interval=60))
    there.round()
    assert there.tried.begun == ["web"]
    assert there.health("db") == STARTING


def test_a_machine_that_was_probed_just_now_waits_for_the_next_round() -> None:
    there = host(OK, OK)
    there.round()
    there.now += 2
    there.leaders["db"] = LEADER
    there.probed("db", HTTP)
    there.round()
    assert there.tried.begun == ["web", "db"]


def test_one_that_starts_during_a_round_is_in_it() -> None:
    there = host(FAILED, FAILED, OK, OK, OK)

    def meanwhile() -> None:
        if "db" not in there.leaders:
            there.leaders["db"] = LEADER
            there.probed("db", HTTP)

    there.meanwhile = meanwhile
    there.round()
    assert (there.health("web"), there.health("db")) == ("healthy", "healthy")


def test_a_probe_that_is_changed_during_a_round_is_begun_anew() -> None:
    there = host(FAILED, FAILED, OK)

    def meanwhile() -> None:
        if there.now > 1_000_000.2:
            there.probed("web", replace(HTTP, target=("81", "/")))

    there.meanwhile = meanwhile
    assert there.round() == "healthy"
    there.probed("web", replace(HTTP, interval=60))
    there.now += 10
    # It is another round's now.
    there.round()
    assert len(there.tried.begun) == 3


def test_a_round_ends_though_probes_take_as_long_as_the_interval() -> None:
    there = host(*[OK] * 50, web=replace(HTTP, interval=1), db=replace(HTTP, interval=1))
    there.round(1)
    there.now += 1
    there.tried.slow = 3.0
    before = len(there.tried.begun)
    there.round(1)
    assert sorted(there.tried.begun[before:]) == ["db", "web"]


def test_nothing_is_kept_of_a_machine_that_is_removed_meanwhile() -> None:
    there = host(FAILED, FAILED, OK)

    def meanwhile() -> None:
        there.leaders.clear()
        there.files.texts.clear()

    there.meanwhile = meanwhile
    there.round()
    assert there.files.texts == {}


def test_leftovers_of_removed_machines_go() -> None:
    there = host(OK)
    there.files.texts[paths.health_file("gone")] = write_state(State("healthy", 1, 2))
    there.files.texts[paths.results_file("gone")] = "{}"
    there.round()
    assert not [path for path in there.files.texts if path.endswith("/gone")]


def test_only_so_many_results_are_kept() -> None:
    there = host(*[OK] * 20)
    for _ in range(9):
        there.round()
        there.now += 10
    assert len(results_of("web", there)) == 5


def test_all_that_is_known_is_told() -> None:
    there = host(FAILED, OK)
    assert describe_health("web", there)["health"] == STARTING
    there.round()
    told = describe_health("web", there)
    assert (told["health"], told["probe"], told["on_failure"]) == ("healthy", "http 80/", "restart")
    assert health_row(told)["took"] == "2.0 ms"
    # A machine that has none, and one that does not run.
    assert describe_health("nope", there)["health"] is None
    there.leaders.clear()
    assert (describe_health("web", there)["health"], describe_health("web", there)["results"]) == (None, [])
