# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rollout is made of: stand-ins, rules that lead ports to them and back, and what is kept meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from machines.model.link import Attachment
from machines.model.machine import Bind, Machine, Publish
from machines.model.names import HOST_NAME_MAX, is_machine_name, machine_unit
from machines.model.observed import Host, Record
from machines.model.rollout import (
    DONE,
    FAILED,
    REPLACING,
    TRYING,
    UNDOING,
    Before,
    Generation,
    Rollout,
    read_rollout,
    stand_in_name,
    write_rollout,
)
from machines.model.snapshot import Snapshot
from machines.operations import readiness
from machines.plan import rollout, steps
from machines.plan.gc import half_made
from machines.plan.machine import plan_machine
from machines.render import paths
from samples import edited, host_with, kinds, machine, placed, running, shown

PORTS = (Publish(8080, 80), Publish(5353, 53, None, "udp"), Publish(9000, 9000, None, "tcp", 3))


def web(**values: object) -> Machine:
    return machine(**{"publish": PORTS, **values})


def host_of(made: Machine) -> Host:
    return running(host_with(made), made.name)


def redirect(old: Machine, new: Machine) -> str:
    host = host_of(old)
    stand_in = rollout.stand_in_of(new, "web-next")
    there = placed(addresses={"br0": "10.64.7.9"}, addresses6={"br0": "fd00::9"})
    (write, load) = rollout.plan_move(new, stand_in, host.records["web"], there)
    assert isinstance(write, steps.WriteFile)
    assert isinstance(load, steps.LoadNat)
    return write.text


def test_what_is_kept_reads_back() -> None:
    before = Before({"/etc/x": "text\n"}, "{}", "rollout-1", enabled=True, ports=(80, 81))
    kept = Rollout("web", "shop", REPLACING, 1.5, "web-next", "recreate", current=Generation(2, "toml", before))
    assert read_rollout(write_rollout(kept)) == kept
    assert read_rollout(write_rollout(kept._replace(earlier=Generation()))) == kept._replace(earlier=Generation())
    for text in ("", "{}", "[1]", '{"name": "web", "current": 1, "earlier": null}'):
        assert read_rollout(text) is None


@pytest.mark.parametrize("length", [1, HOST_NAME_MAX - 5, HOST_NAME_MAX - 4, HOST_NAME_MAX])
def test_a_stand_in_has_a_name(length: int) -> None:
    name = stand_in_name("a" * length)
    assert is_machine_name(name)
    assert name.endswith("-next")
    assert name != stand_in_name("a" * (length - 1) + "b")


def test_a_stand_in_has_nothing_that_only_one_machine_can_have() -> None:
    link = Attachment("bridge", "br0", mac="52:54:00:00:00:01", addresses=("10.64.7.5",))
    made = rollout.stand_in_of(web(links=(link,), autostart=True, group="shop", memory=2**28), "web-next")
    assert made.links == (Attachment("bridge", "br0"),)
    assert (made.publish, made.autostart, made.group, made.memory) == ((), False, "", 2**28)
    # Whoever looks for what is no longer declared in the files of people does not find it.
    assert made.origin == "/var/lib/machctl/rollouts/web.json"


def test_ports_lead_to_the_stand_in() -> None:
    text = redirect(web(), web())
    assert "prerouting meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 8080 dnat ip to" in text
    assert "10.64.7.9:80 " in text
    # What the proxies of 127.0.0.1 ask, and whoever on this host knows the machine's own address.
    for chain in ("output", "prerouting"):
        assert f"{chain} ip daddr 10.64.7.2 tcp dport 80 dnat ip to 10.64.7.9 " in text
        assert f"{chain} ip daddr 10.64.7.2 udp dport 53 dnat ip to 10.64.7.9 " in text
        assert f"{chain} ip daddr 10.64.7.2 tcp dport 9000-9002 dnat ip to 10.64.7.9 " in text
    assert "[fd00::9]:80" in text


def test_a_port_that_leads_elsewhere_inside_is_followed() -> None:
    text = redirect(web(publish=(Publish(8080, 80),)), web(publish=(Publish(8080, 8000),)))
    assert "output ip daddr 10.64.7.2 tcp dport 80 dnat ip to 10.64.7.9:8000 " in text


def test_what_has_no_address_of_machctls_is_refused() -> None:
    record = Record("web", {"br0": "10.64.7.2"})
    assert rollout.check_rollout(web(), record, {}) == []
    for wrong, given in (
        (web(on_demand=True), record),
        (web(network="host", links=()), record),
        (web(), Record("web")),
        (web(), None),
        (web(links=(Attachment("bridge", "br0"), Attachment("interface", "eth1"))), record),
    ):
        (error,) = rollout.check_rollout(wrong, given, {})
        assert error.exit_code == 7
        assert error.hint


def test_nobody_writes_twice_into_what_only_one_machine_writes_into() -> None:
    record, data = Record("web", {"br0": "10.64.7.2"}), (Bind("/srv/data", "/data"),)
    made = web(binds=data)
    reader = machine("backup", binds=(Bind("/srv/data", "/data", read_only=True),))
    (error,) = rollout.check_rollout(made, record, {"web": made, "backup": reader})
    assert error.exit_code == 7
    assert "/srv/data" in error.message
    assert "machctl apply web" in (error.hint or "")
    # Replicas on one directory are used to others there.
    assert rollout.check_rollout(made, record, {"web": made, "web-2": machine("web-2", binds=data)}) == []
    only_read = web(binds=(Bind("/srv/data", "/data", read_only=True),))
    assert rollout.check_rollout(only_read, record, {"web": only_read}) == []


def test_only_what_answered_has_to_answer() -> None:
    assert rollout.expected_ports(web(), PORTS, (80, 9001)) == (80, 9001)
    # Nobody knows of a new one that it need not.
    assert rollout.expected_ports(web(publish=(Publish(8081, 81),)), PORTS, ()) == (81,)


def test_its_ports_stay_open_while_it_is_replaced() -> None:
    old, new = (
        web(publish=(Publish(8080, 80), Publish(8081, 81))),
        web(publish=(Publish(8080, 8000),), hostname="other"),
    )
    host = host_of(old)
    plan, later = rollout.replacing("web", plan_machine(new, host), host, snapshot="")
    (closed,) = [step for step in plan if isinstance(step, steps.ClosePorts)]
    assert closed.units
    assert all("8081" in unit for unit in closed.units)
    assert not any(isinstance(step, steps.OpenPorts) and step.restart for step in plan)
    assert shown(later) == ["stop machctl-port-web_8080.service"]
    assert isinstance(plan[-1], steps.StartMachine)


def test_a_machine_is_what_it_was() -> None:
    old, new = web(), web(publish=(*PORTS, Publish(8090, 90)), hostname="other", memory=2**28)
    before = rollout.before_of("web", host_of(old), record='{"disk": null}', snapshot="", ports=(80,))
    host = host_of(new)
    plan, later = rollout.plan_restore("web", before, host, snapshot=None, origin=None, why="asked for")
    assert plan[0] == steps.StopUnit(reason="asked for", machine="web", unit=machine_unit("web"))
    for step in plan:
        if isinstance(step, steps.WriteFile):
            host = edited(host, step.path, step.text)
        elif isinstance(step, steps.RemoveFile):
            host = edited(host, step.path, None)
    assert {path: host.files[path] for path in before.files} == before.files
    assert f"{paths.UNIT_DIRECTORY}/machctl-port-web_8090.socket" not in host.files
    assert {steps.ReloadUnits, steps.LoadNat, steps.StartMachine} <= set(kinds(plan))
    assert steps.RemoveTree not in kinds(plan)
    assert later == []


def test_proxies_know_the_new_way_before_the_stand_in_is_gone() -> None:
    old, new = web(publish=(Publish(8080, 80),)), web(publish=(Publish(8080, 8000),), hostname="other")
    host = host_of(old)
    stand_in = rollout.stand_in_of(new, "web-next")
    made = plan_machine(stand_in, host_with(old, stand_in))
    plan = rollout.shown(new, stand_in, made, plan_machine(new, host), host, 1.0, None)
    back = [isinstance(step, steps.RemoveFile) and step.path == paths.redirect_file("web") for step in plan].index(True)
    assert "stop machctl-port-web_8080.service" in shown(plan[:back])


def test_what_nobody_goes_back_to_is_removed() -> None:
    old = ["rollout-20260101-000000", "rollout-20260101-000000.2"]
    names = (*old, "rollout-20260102-000000", "rollout-mine", "before", "undone-20260102-000000")
    taken = {name: Snapshot("web", name, 1.0, "btrfs") for name in names}
    current = Generation(1, "", Before({}, "{}", names[2]))
    assert shown(rollout.plan_sweep("web", current, taken)) == [f"remove snapshot {name} of web" for name in old]


def interrupted(phase: str, *names: str) -> Host:
    stand_in = rollout.stand_in_of(web(), "web-next")
    host = running(host_with(web(), stand_in), *names)
    records = {**host.records, "web-next": dataclasses.replace(host.records["web-next"], intent="standin web")}
    host = edited(host, paths.rollout_file("web"), write_rollout(Rollout("web", phase=phase, stand_in="web-next")))
    return dataclasses.replace(edited(host, paths.redirect_file("web"), "rules\n"), records=records)


def test_who_stands_in_for_nobody_goes() -> None:
    declared = {"web": web()}
    assert half_made(interrupted(TRYING, "web", "web-next"), declared) == []
    assert half_made(interrupted(DONE, "web", "web-next"), declared) == ["web-next"]
    gone = edited(interrupted(TRYING, "web", "web-next"), paths.rollout_file("web"), None)
    assert half_made(gone, declared) == ["web-next"]


@pytest.mark.parametrize(("phase", "ends"), [(REPLACING, False), (UNDOING, False), (TRYING, True)])
def test_gc_leaves_one_that_has_no_tree_to_whoever_brings_it_back(phase: str, *, ends: bool) -> None:
    host = dataclasses.replace(interrupted(phase), trees={})
    assert (rollout.plan_settle("web", host, ready=False) is not None) is ends


@pytest.mark.parametrize(
    ("phase", "names", "ready", "ends"),
    [
        (TRYING, ("web", "web-next"), True, True),
        (TRYING, ("web-next",), False, True),
        (REPLACING, ("web", "web-next"), True, True),
        (REPLACING, ("web-next",), False, False),
        # After a boot nobody stands in for it any more.
        (REPLACING, (), False, True),
    ],
)
def test_gc_ends_what_nobody_needs(phase: str, names: tuple[str, ...], ready: bool, ends: bool) -> None:
    plan = rollout.plan_settle("web", interrupted(phase, *names), ready=ready)
    if not ends:
        assert plan is None
        return
    assert plan is not None
    assert kinds(plan) == [steps.RemoveFile, steps.LoadNat, steps.WriteFile]
    (write,) = [step for step in plan if isinstance(step, steps.WriteFile)]
    state = read_rollout(write.text)
    assert state is not None
    assert state.phase == FAILED


@pytest.mark.parametrize(
    ("found", "lacks"),
    [(("refused", "unreachable"), True), (("open", "silent"), True), (("refused", "refused"), False),
     (("silent", "silent"), False)],
)  # fmt: skip
def test_an_address_of_ipv6_that_a_machine_never_took_is_not_waited_for(found: tuple[str, str], *, lacks: bool) -> None:
    record = Record("web", {"br0": "10.64.7.2"}, addresses6={"br0": "fd00::2"})

    def connects(address: str, port: int, *, leader: int, timeout: float) -> str:
        return found[":" in address]

    probes, entry = SimpleNamespace(connects=connects), SimpleNamespace(leader=1)
    host: Any = SimpleNamespace(probes=probes, registered=lambda: {"web": entry})
    assert asyncio.run(readiness.lacks_ipv6(record, host)) is lacks
    assert not asyncio.run(readiness.lacks_ipv6(Record("other"), host))
    (wait,) = rollout.await_ready("web", None, record, (80,), None, why="", without6=lacks)
    assert isinstance(wait, steps.AwaitReady)
    assert wait.addresses == (("10.64.7.2",) if lacks else ("10.64.7.2", "fd00::2"))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Record("db", {"br0": "10.64.7.2"}), "address 10.64.7.2"),
        (Record("db", addresses6={"br0": "fd00::2"}), "address fd00::2"),
        (Record("db", ports=("8080:81",)), "port 8080"),
        (Record("db", uid=524288), "user ID 524288"),
        (Record("db", {"br0": "10.64.7.3"}, ("8081:80",), uid=589824), ""),
        (Record("web", {"br0": "10.64.7.2"}), ""),
    ],
)
def test_nobody_gets_back_what_another_machine_has_by_now(other: Record, what: str) -> None:
    text = '{"addresses": {"br0": "10.64.7.2"}, "addresses6": {"br0": "fd00::2"}, "ports": ["8080:80"], "uid": 524288}'
    errors = rollout.check_given("web", Before({}, text), {other.name: other})
    assert [what in error.message and "db" in error.message for error in errors] == ([True] if what else [])
