# SPDX-License-Identifier: LGPL-2.1-or-later
"""The health of machines: what is declared, rendered and planned of it, and what is made of results of probes."""

from __future__ import annotations

import pytest

from machines.declare.fleet import parse_fleet
from machines.declare.health import health_values, make_health, parse_command, parse_file, parse_http, parse_unit
from machines.declare.keys import BY_NAME
from machines.declare.machine import read_word
from machines.declare.write import write_machine
from machines.errors import InvalidValue
from machines.model.frozen import replace
from machines.model.health import (
    HEALTHY,
    STARTING,
    UNHEALTHY,
    Health,
    Outcome,
    State,
    calls_for,
    judge,
    next_probe,
    read_state,
    write_state,
)
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.health import plan_probing
from machines.render import paths
from machines.render.health import read_probe
from machines.render.machine import render_machine
from samples import PAYLOAD, machine, placed

HTTP = Health("http", ("80", "/"), start_period=20, retries=3)
OK, FAILED = Outcome(ok=True, seconds=0.001, said="200 OK"), Outcome(ok=False, seconds=0.001, said="refused")
PROBES = [
    HTTP,
    Health("tcp", ("5432",), interval=3600),
    Health("exec", ("/bin/sh", "-c", "pg_isready -q | grep 'a b'"), start_period=0),
    Health("exec", ("pg_isready", "-q"), on_failure="stop"),
    Health("exec", ("/bin/sh", "-c", "test $1 = x", "sh", "x")),
    Health("exec", ("/bin/sh", "-c")),
    Health("unit", ("nginx.service",), timeout=90),
    Health("file", ("/run/ready",), retries=1),
]


def declared(*lines: str) -> tuple[Health | None, list[str]]:
    """Give what a declaration says of the health of its machine, and what is wrong with it."""
    text = "\n".join(["[machines.web]", 'source = "debian"', "[machines.web.health]", *lines]) + "\n"
    machines, errors = parse_fleet({"/f.toml": text})
    return machines["web"].health if "web" in machines else None, [error.message for error in errors]


def test_a_probe_is_read() -> None:
    found, errors = declared("http = 80", 'interval = "3s"', 'start-period = "0s"', 'on-failure = "restart"')
    assert (found, errors) == (
        Health("http", ("80", "/"), interval=3, start_period=0, on_failure="restart"), []
    )  # fmt: skip


@pytest.mark.parametrize("health", PROBES, ids=str)
def test_a_probe_comes_back_as_it_was_written(health: Health) -> None:
    web = machine(health=health)
    machines, errors = parse_fleet({web.origin: write_machine(web)})
    assert (machines["web"].health, errors) == (health, [])
    # Into a file that people wrote as well.
    text = '# mine\n[machines.web]\nsource = "debian:trixie"\nbridges = ["br0"]\n'
    machines, errors = parse_fleet({web.origin: write_machine(web, text, before=replace(web, health=None))})
    assert (machines["web"].health, errors) == (health, [])


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["retries = 3"], "nothing to probe"),
        (["tcp = 80", "http = 80"], "tcp and http are two probes"),
        (["tcp = 70000"], "no port"),
        (['http = "80/a b"'], "path"),
        (['http = "/status"'], "no port"),
        (["exec = []"], "empty"),
        (['exec = "a\\nb"'], "more than a line"),
        (['unit = "a b"'], "not the name of a unit"),
        (['file = "run/ready"'], "not an absolute path"),
        (["tcp = 80", "retries = 0"], "number of failures"),
        (["tcp = 80", 'on-failure = "reboot"'], "nothing that can be done"),
        (["tcp = 80", "port = 80"], "not a key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(lines: list[str], wrong: str) -> None:
    found, errors = declared(*lines)
    assert found is None
    assert any("machines.web.health" in error and wrong in error for error in errors), errors


def test_values_are_plain() -> None:
    assert parse_http("8080/a?b=c") == ("8080", "/a?b=c")
    assert parse_unit("nginx") == ("nginx.service",)
    assert parse_unit("a@b.socket") == ("a@b.socket",)
    assert parse_file("//run//x") == ("/run/x",)
    assert parse_command(["a", "$b %c"]) == ("a", "$b %c")
    assert make_health({"tcp": ("80",)}) == Health("tcp", ("80",))
    assert health_values(PROBES[2]) == {"exec": "pg_isready -q | grep 'a b'", "start-period": "0s"}
    with pytest.raises(InvalidValue):
        parse_file("/run/../etc")


def test_a_probe_can_be_typed() -> None:
    def typed(text: str) -> object:
        return read_word(BY_NAME["health"], text)

    assert typed("http=80/a,b=c,interval=3s") == Health("http", ("80", "/a,b=c"), interval=3)
    assert typed("exec=test a,b = c,retries=1,on-failure=stop") == Health(
        "exec", ("/bin/sh", "-c", "test a,b = c"), retries=1, on_failure="stop"
    )
    for text in ("", "80", "htp=80", "interval=3s", "tcp=80,file=/x"):
        with pytest.raises(InvalidValue):
            typed(text)


def test_failures_do_not_count_while_it_starts() -> None:
    state = State(STARTING, 100.0, 7)
    assert judge(state, HTTP, FAILED, 119.0) == state._replace(why="refused")
    for count, expected in ((1, STARTING), (2, STARTING), (3, UNHEALTHY)):
        state = judge(state, HTTP, FAILED, 121.0 + count)
        assert (state.state, state.failures) == (expected, count)
    assert (state.since, state.why) == (124.0, "refused")


def test_one_success_is_healthy_and_forgets_failures() -> None:
    for before in (State(STARTING, 1, 7), State(UNHEALTHY, 1, 7, 9, "refused")):
        assert judge(before, HTTP, OK, 50) == State(HEALTHY, 50, 7)
    twice = State(HEALTHY, 5, 7, 2, "refused")
    assert judge(twice, HTTP, OK, 50) == State(HEALTHY, 5, 7, 0, "")
    assert judge(twice, HTTP, FAILED, 50) == State(UNHEALTHY, 50, 7, 3, "refused")


def test_what_is_done_is_done_once_and_then_again_after_as_many_failures() -> None:
    restart = replace(HTTP, on_failure="restart")
    acts = [calls_for(State(UNHEALTHY, 1, 7, failures), restart) for failures in range(3, 10)]
    assert acts == ["restart", "", "", "restart", "", "", "restart"]
    assert calls_for(State(UNHEALTHY, 1, 7, 3), HTTP) == ""
    assert calls_for(State(HEALTHY, 1, 7, 0), restart) == ""


def test_what_starts_is_looked_at_often() -> None:
    state, pauses, now = State(STARTING, 100.0, 7), [], 100.0
    pause = 0.0
    while now < 119:
        now, pause = next_probe(state, HTTP, now, pause)
        pauses.append(pause)
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert max(pauses) == 2.0
    assert next_probe(state, HTTP, 121.0, 2.0) == (131.0, 0.0)
    assert next_probe(State(HEALTHY, 100, 7), HTTP, 101.0, 0.1) == (111.0, 0.0)
    # Never less often than it would be otherwise.
    assert next_probe(state, replace(HTTP, interval=1), 105.0, 1.9) == (106.0, 1)


def test_a_state_comes_back_as_it_was_written() -> None:
    state = State(UNHEALTHY, 1732285200.125, 7, 3, "a=b refused")
    assert read_state(write_state(state)) == state
    for text in ("", "state=healthy\n", write_state(state).replace("leader=7", "leader=x")):
        assert read_state(text) is None


@pytest.mark.parametrize("health", PROBES, ids=str)
def test_a_probe_is_rendered_beside_what_counts_from_the_next_start_on(health: Health) -> None:
    web = machine(health=health)
    plain, files = render_machine(replace(web, health=None), placed()), render_machine(web, placed())
    new = {paths.probe_file("web"), paths.health_dropin("web")}
    assert {path: text for path, text in files.items() if path not in new} == plain
    assert all(paths.owner(path, files[path]) == ("machine", "web") for path in new)
    assert read_probe(files[paths.probe_file("web")]) == (health, None)
    assert f"Wants=machctl-health@{health.interval}.timer" in files[paths.health_dropin("web")]


def test_a_machine_without_an_init_is_probed_as_what_it_runs() -> None:
    files = render_machine(machine(health=PROBES[3]), placed(payload=PAYLOAD))
    assert read_probe(files[paths.probe_file("web")]) == (PROBES[3], PAYLOAD)


def test_what_is_no_probe_is_none() -> None:
    for text in ("", "# x\n", "# x\n{}", "# x\n[1]", '# x\n{"payload": false, "kind": "tcp"}'):
        assert read_probe(text) is None


def planned(host: Host, *changed: str, health: Health | None = HTTP) -> list[str]:
    return [str(step) for step in plan_probing(machine(health=health), changed, host)]


def test_a_machine_that_runs_is_probed_from_now_on() -> None:
    running, probe = {"web": "systemd-nspawn@web.service"}, paths.probe_file("web")
    timer = "machctl-health@10.timer"
    state = {paths.health_file("web"): "state=healthy\n", paths.results_file("web"): ""}
    assert planned(Host(), probe) == []
    assert planned(Host(running=running), probe) == [f"start {timer}"]
    # One that was stopped by hand.
    assert planned(Host(running=running)) == [f"start {timer}"]
    assert planned(Host(running=running, active=frozenset([timer]), files=state)) == []
    # What another probe said is of no use.
    host = Host(running=running, active=frozenset([timer]), files=state)
    assert planned(host, probe)[:2] == [f"remove {path}" for path in state]
    assert planned(host, health=None) == [f"remove {path}" for path in state]
    (step,) = plan_probing(machine(health=HTTP), [probe], Host(running=running))
    assert isinstance(step, steps.StartProbing)
    assert step.unit == "machctl-health@10.service"
