# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports that the host itself answers for machines: firewalld is told of them, and of no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.model.machine import Machine, Publish
from machines.operations.firewall import allow
from machines.plan import steps
from machines.plan.bridges import FIREWALL_UNIT
from machines.plan.firewalld import plan_opened, proxied_ports
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
        self.tools.which = lambda tool: "/usr/bin/firewall-cmd" if tool == "firewall-cmd" else None

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        zone = next((word.split("=")[1] for word in argv if word.startswith("--zone=")), "")
        ports = self.zones.get((zone, "--permanent" in argv), set())
        text = ""
        for word in argv:
            option, _, value = word.partition("=")
            match option:
                case "--get-active-zones":
                    text = "home\n  interfaces: eth1\ntrusted\n  interfaces: br0\n"
                case "--get-default-zone":
                    text = "public\n"
                case "--list-ports":
                    text = " ".join(sorted(ports))
                case "--add-port" | "--remove-port":
                    self.calls += 1
                    if self.limit and self.calls > self.limit:
                        raise KeyboardInterrupt
                    (ports.add if option == "--add-port" else ports.discard)(value)
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
    assert proxied_ports({SOCKET: "ListenStream=192.0.2.1:8080\n"}) == {"8080/tcp"}
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
