# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bridges that come up on a host with Docker or firewalld, and the nft table of several machctls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.errors import Canceled, MachctlError
from machines.host.bus.errors import job_failed
from machines.model.network import Network
from machines.operations.bridge import bridge_up
from machines.operations.execute import execute
from machines.operations.firewall import UNIT, allow
from machines.operations.records import write_network
from machines.plan import steps
from machines.render import paths


class FirewalldHost(FakeHost):
    """A host with firewalld, and nothing else; ``asked`` is what firewall-cmd was told."""

    def __init__(self, *networks: str) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.killed = False
        self.tools.which = lambda tool: "/usr/bin/firewall-cmd" if tool == "firewall-cmd" else None
        self.active.add("firewalld.service")
        self.facts.set_sysctl = lambda name, value: None
        self.links.make_bridge = lambda bridge, addresses, mtu: self.call(f"make {bridge}")
        for number, name in enumerate(networks):
            self.add(name, number)

    def add(self, name: str, number: int) -> None:
        network = Network(name, IPv4Network(f"10.1.{number}.0/24"))
        self.files.texts[paths.network_record(name)] = write_network(network)

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        if "--state" not in argv and self.killed:
            raise KeyboardInterrupt
        self.asked += [list(argv[2:])] if "--state" not in argv else []
        return SimpleNamespace(returncode=0, stdout="", stderr="")


def changed(host: FirewalldHost) -> set[str]:
    return {word.split("=")[1] for words in host.asked for word in words if word.startswith("--change-interface=")}


def test_bridge_that_an_admin_moved_to_another_zone_stays_there() -> None:
    host = FirewalldHost("a")
    allow(host)
    assert changed(host) == {"a"}
    host.asked.clear()
    host.add("b", 1)
    allow(host)
    assert changed(host) == {"b"}
    host.asked.clear()
    allow(host)
    assert host.asked == []
    assert host.files.texts[paths.FIREWALLD_FILE] == "a\nb\n"


def test_killed_run_leaves_nothing_in_the_zone_that_nobody_knows_of() -> None:
    host = FirewalldHost("a")
    allow(host)
    host.add("b", 1)
    host.killed, host.asked = True, []
    with pytest.raises(KeyboardInterrupt):
        allow(host)
    assert host.files.texts[paths.FIREWALLD_FILE].split() == ["+b", "a"]
    host.killed = False
    allow(host)
    assert changed(host) == {"b"}
    host.killed = True
    host.add("c", 2)
    with pytest.raises(KeyboardInterrupt):
        allow(host)
    for name in ("a", "b", "c"):
        del host.files.texts[paths.network_record(name)]
    host.killed, host.asked = False, []
    allow(host)
    gone = [f"--remove-interface={name}" for name in ("c", "a", "b")]
    assert host.asked == [["--permanent", "--zone=trusted", *gone], ["--zone=trusted", *gone]]
    assert paths.FIREWALLD_FILE not in host.files.texts


def test_bridge_is_made_whatever_the_firewall_says() -> None:
    host = FirewalldHost("a")
    assert bridge_up("a", host) == ""
    assert host.done == ["make a", f"restart {UNIT}"]
    host.failing.add(f"restart {UNIT}")
    assert bridge_up("a", host) == f"packets of a may not pass the host's firewall: restart {UNIT} failed"
    host.failing = {"make a"}
    with pytest.raises(MachctlError):
        bridge_up("a", host)


def test_many_networks_in_a_row_are_no_crash_loop() -> None:
    unit = (Path(__file__).parents[2] / "units" / UNIT).read_text().splitlines()
    assert {"StartLimitIntervalSec=0", "SuccessExitStatus=SIGTERM"} <= set(unit)


def test_many_machines_in_a_row_all_have_nat() -> None:
    unit = (Path(__file__).parents[2] / "units/machctl-nat.service").read_text().splitlines()
    assert "StartLimitIntervalSec=0" in unit


def test_nft_table_is_loaded_by_one_at_a_time() -> None:
    host = FakeHost()
    held = []

    def run(argv: Sequence[str], **_: Any) -> None:
        held.append(host.files.is_locked("nat"))

    host.tools.run = run
    plan: list[steps.Step] = [steps.LoadNat(reason=""), steps.LoadNat(reason="", drop=True)]
    asyncio.run(execute(plan, host, reporter=REPORTER))
    assert held == [True, True]
    assert not host.files.is_locked("nat")


def test_unit_is_restarted_by_one_at_a_time() -> None:
    host = FakeHost()
    held = []

    async def restart(unit: str) -> None:
        held.append(host.files.is_locked("firewall"))

    host.jobs.restart = restart
    plan: list[steps.Step] = [steps.StartUnit(reason="", unit=UNIT, restart=True)]
    asyncio.run(execute(plan, host, reporter=REPORTER))
    assert held == [True]


def test_restart_that_another_took_the_place_of_has_not_failed() -> None:
    host = FirewalldHost("a")

    async def restart(unit: str) -> None:
        raise Canceled(f"restart {unit} was canceled")

    def run_jobs(verb: str, units: Sequence[str]) -> None:
        raise Canceled(f"{verb} {units[0]} was canceled")

    host.jobs.restart, host.units.run_jobs = restart, run_jobs
    assert bridge_up("a", host) == ""
    plan: list[steps.Step] = [steps.StartUnit(reason="", unit=UNIT, restart=True)]
    asyncio.run(execute(plan, host, reporter=REPORTER))
    assert isinstance(job_failed("restart it", UNIT, "canceled"), Canceled)
    assert not isinstance(job_failed("restart it", UNIT, "failed"), Canceled)
    with pytest.raises(Canceled):
        asyncio.run(execute([steps.StartUnit(reason="", unit="b.service", restart=True)], host, reporter=REPORTER))
