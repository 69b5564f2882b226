# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports that the host itself answers for machines: firewalld is told of them, and of no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from acting import apply
from fakes import FakeHost
from machines.model.machine import Machine, Publish
from machines.operations.firewall import allow
from machines.operations.fleetplan import fleet_plan
from machines.plan import steps
from machines.plan.bridges import FIREWALL_UNIT
from machines.plan.firewalld import plan_left_open, plan_opened, proxied_ports
from machines.plan.gc import plan_gc
from machines.plan.machine import plan_machine
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths
from samples import edited, host_with, machine, shown

SOCKET = f"{paths.UNIT_DIRECTORY}/machctl-port-web_8080.socket"
RESTART = f"restart {FIREWALL_UNIT}"


class Firewalld(FakeHost):
    """A host with firewalld; ``zones`` are what is open in each, as it runs and for good."""

    def __init__(self) -> None:
        super().__init__()
        self.zones: dict[tuple[str, bool], set[str]] = {(zone, p): set() for zone in ("home", "public") for p in (1, 0)}
        self.calls = self.limit = 0
        self.active_zones = "home\n  interfaces: eth1\ntrusted\n  interfaces: br0\n"
        self.default_zone = "public"
        self.tools.which = lambda tool: "/usr/bin/firewall-cmd" if tool == "firewall-cmd" else None

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        zone = next((word.split("=")[1] for word in argv if word.startswith("--zone=")), "")
        ports = self.zones.get((zone, "--permanent" in argv), set())
        text = ""
        for word in argv:
            option, _, value = word.partition("=")
            match option:
                case "--get-active-zones":
                    text = self.active_zones
                case "--get-default-zone":
                    text = f"{self.default_zone}\n"
                case "--list-ports":
                    text = " ".join(sorted(port for port in ports if not port.startswith("rule")))
                case "--list-rich-rules":
                    text = "\n".join(sorted(port for port in ports if port.startswith("rule")))
                case "--add-port" | "--remove-port" | "--add-rich-rule" | "--remove-rich-rule":
                    self.calls += 1
                    if self.limit and self.calls > self.limit:
                        raise KeyboardInterrupt
                    (ports.add if option.startswith("--add") else ports.discard)(value)
        return SimpleNamespace(returncode=0, stdout=text, stderr="")

    def listen(self, *lines: str) -> None:
        self.files.texts.pop(SOCKET, None)
        if lines:
            self.files.texts[SOCKET] = "\n".join(f"ListenStream={line}" for line in lines)


def test_ports_are_open_in_all_zones_of_links_while_they_are_published() -> None:
    host = Firewalld()
    host.listen("0.0.0.0:8080", "[::]:8080")
    allow(host)
    assert all(ports == {"8080/tcp"} for ports in host.zones.values())
    assert host.files.texts[paths.FIREWALLD_PORTS] == "home 8080/tcp\npublic 8080/tcp\n"
    host.calls = 0
    allow(host)
    assert host.calls == 0
    # Somebody reloaded it, and what was not for good is gone.
    host.zones["home", False].clear()
    allow(host)
    assert host.zones["home", False] == {"8080/tcp"}
    host.listen()
    allow(host)
    assert not any(host.zones.values())
    assert paths.FIREWALLD_PORTS not in host.files.texts


def test_port_that_was_open_before_stays_so() -> None:
    host = Firewalld()
    host.zones["public", False].add("8080/tcp")
    host.listen("0.0.0.0:8080")
    allow(host)
    assert host.files.texts[paths.FIREWALLD_PORTS] == "=public 8080/tcp\nhome 8080/tcp\n"
    host.listen()
    allow(host)
    assert host.zones["public", False] == {"8080/tcp"}
    assert host.zones["home", False] == set()
    assert paths.FIREWALLD_PORTS not in host.files.texts


@pytest.mark.parametrize("span", ["8000-8100/tcp", "1025-65535/tcp", "8080/tcp"])
@pytest.mark.parametrize("kinds_of", [(True, False), (False,), (True,)])
def test_port_in_a_range_of_the_admins_is_left_to_that(span: str, kinds_of: tuple[bool, ...]) -> None:
    host = Firewalld()
    for permanent in kinds_of:
        host.zones["public", permanent].add(span)
    host.listen("0.0.0.0:8080")
    allow(host)
    assert host.files.texts[paths.FIREWALLD_PORTS] == "=public 8080/tcp\nhome 8080/tcp\n"
    # What is open for good only would be so with the next reload.
    assert host.zones["public", False] == ({span} if False in kinds_of else {"8080/tcp"})
    assert host.zones["public", True] == ({span} if True in kinds_of else set())
    host.listen()
    host.calls = 0
    allow(host)
    # In both of the other zone, and in no other.
    assert host.calls == 2
    assert not host.zones["home", True] | host.zones["home", False]


@pytest.mark.parametrize("span", ["8000-8100/udp", "1-8079/tcp", "8081-9000/tcp", "http/tcp"])
def test_port_beside_what_is_open_is_opened(span: str) -> None:
    host = Firewalld()
    host.zones["public", False].add(span)
    host.zones["public", True].add(span)
    host.listen("0.0.0.0:8080")
    allow(host)
    assert host.files.texts[paths.FIREWALLD_PORTS] == "home 8080/tcp\npublic 8080/tcp\n"
    assert host.zones["public", True] == {span, "8080/tcp"}
    host.zones["public", True].discard("8080/tcp")
    allow(host)
    assert host.zones["public", True] == {span, "8080/tcp"}


@pytest.mark.parametrize(("address", "family"), [("192.0.2.1", "ipv4"), ("[2001:db8::1]", "ipv6")])
def test_port_of_one_address_is_open_at_that_only(address: str, family: str) -> None:
    host = Firewalld()
    host.listen(f"{address}:8080")
    allow(host)
    plain = address.strip("[]")
    rule = f'rule family="{family}" destination address="{plain}" port port="8080" protocol="tcp" accept'
    assert all(ports == {rule} for ports in host.zones.values())
    assert host.files.texts[paths.FIREWALLD_PORTS] == f"home 8080/tcp {plain}\npublic 8080/tcp {plain}\n"
    host.calls = 0
    allow(host)
    assert host.calls == 0
    host.listen()
    allow(host)
    assert not any(host.zones.values())


def test_nothing_is_to_be_opened_where_all_zones_are_trusted() -> None:
    host = Firewalld()
    host.active_zones, host.default_zone = "trusted\n  interfaces: eth0\n", "trusted"
    host.listen("0.0.0.0:8080")
    allow(host)
    assert host.calls == 0
    assert host.files.texts[paths.FIREWALLD_PORTS] == "=trusted 8080/tcp\n"
    seen = host_with(active=frozenset({"firewalld.service"}), files=host.files.texts)
    assert plan_opened(seen, seen.files, machine="web") == []
    host.default_zone = "public"
    allow(host)
    assert host.files.texts[paths.FIREWALLD_PORTS] == "public 8080/tcp\n"
    host.listen()
    allow(host)
    assert paths.FIREWALLD_PORTS not in host.files.texts


def test_port_that_a_killed_run_opened_in_some_zones_is_neither_open_nor_forgotten() -> None:
    files = {SOCKET: "ListenStream=0.0.0.0:80\n", paths.FIREWALLD_PORTS: "+public 80/tcp\nhome 80/tcp\n"}
    seen = host_with(active=frozenset({"firewalld.service"}), files=files)
    assert restarts(plan_opened(seen, files, machine="web"))
    assert restarts(plan_opened(edited(seen, paths.FIREWALLD_PORTS, "+public 80/tcp\n"), {}, machine="web"))


def test_port_of_a_machine_whose_removal_was_killed_is_closed() -> None:
    host = host_with(machine(), active=host_with().active | {"firewalld.service"})
    left = edited(host, paths.FIREWALLD_PORTS, "public 8080/tcp\n")
    assert restarts(plan_remove("web", left, {}))
    assert not restarts(plan_remove("web", host, {}))
    going = dataclasses.replace(left, records={"web": dataclasses.replace(left.records["web"], intent="remove")})
    assert restarts(plan_gc(going, {}, {}, busy=frozenset()))
    # Nothing else is left of it.
    bare = dataclasses.replace(left, records={}, trees={}, networks={})
    assert [plan_left_open(bare, [])[0].reason] == ["firewalld is to let 8080/tcp in no more"]
    assert plan_left_open(bare, plan_left_open(bare, [])) == []


def test_apply_closes_what_is_nobodys() -> None:
    host = FakeHost()
    host.active.add("firewalld.service")
    host.files.texts[paths.FIREWALLD_PORTS] = "public 8080/tcp\n"
    assert restarts(fleet_plan([], host, verb="apply").plans[""])
    apply(host)
    assert host.done == [RESTART]
    host.files.texts[paths.FIREWALLD_PORTS] = ""
    assert fleet_plan([], host, verb="apply").plans[""] == []


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_killed_run_leaves_no_port_open_that_nobody_knows_of(limit: int) -> None:
    host = Firewalld()
    host.listen("0.0.0.0:8080")
    host.limit = limit
    with pytest.raises(KeyboardInterrupt):
        allow(host)
    host.limit = 0
    host.listen()
    allow(host)
    assert not any(host.zones.values())


def test_only_what_others_can_reach_has_to_be_let_in() -> None:
    assert proxied_ports({SOCKET: "ListenStream=127.0.0.1:8080\nListenStream=[::1]:8080\n"}) == set()
    assert proxied_ports({SOCKET: "ListenStream=127.0.0.1:8080\nListenStream=[::]:8080\n"}) == {"8080/tcp"}
    assert proxied_ports({SOCKET: "ListenStream=192.0.2.1:8080\n"}) == {"8080/tcp 192.0.2.1"}
    assert proxied_ports({SOCKET: "ListenStream=[fe80::1%eth0]:8080\n"}) == {"8080/tcp fe80::1"}
    assert proxied_ports({SOCKET.replace(".socket", ".service"): "ListenStream=0.0.0.0:1\n"}) == set()


def restarts(plan: Plan) -> bool:
    return any(isinstance(step, steps.StartUnit) and step.unit == FIREWALL_UNIT and step.restart for step in plan)


@pytest.fixture
def demanded() -> Machine:
    return machine(publish=(Publish(8080, 80),), on_demand=True)


def test_firewalld_is_told_when_a_port_is_published_on_demand_and_when_it_goes(demanded: Machine) -> None:
    host = dataclasses.replace(host_with(machine()), active=host_with().active | {"firewalld.service"})
    plan = plan_machine(demanded, host)
    assert restarts(plan)
    assert "firewalld is to let 8080/tcp in" in [step.reason for step in plan]
    # A port that DNAT leads to the machine it lets through by itself; one that has no IPv6 address is behind a proxy.
    plain = machine(publish=(Publish(8080, 80),))
    assert restarts(plan_machine(plain, host))
    assert not restarts(plan_machine(plain, dataclasses.replace(host, ipv6_loopback=False)))
    told = edited(host_with(demanded), paths.FIREWALLD_PORTS, "=home 8080/tcp\npublic 8080/tcp\n")
    told = dataclasses.replace(told, active=host.active)
    assert not restarts(plan_machine(demanded, told))
    assert restarts(plan_machine(machine(), told))
    assert restarts(plan_remove("web", told, {"web": demanded}))
    # Killed between the record and the zones, the next run finishes it.
    assert restarts(plan_machine(demanded, edited(told, paths.FIREWALLD_PORTS, "+public 8080/tcp\n")))


def test_nobody_is_told_where_firewalld_does_not_run(demanded: Machine) -> None:
    assert RESTART not in shown(plan_machine(demanded, host_with(machine())))
    assert plan_opened(host_with(), {SOCKET: "ListenStream=0.0.0.0:8080\n"}, machine="web") == []
