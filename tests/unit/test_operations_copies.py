# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of machines on a host in memory: what is declared of them, and what is done to networks and names."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.cli.verbs import run
from machines.declare.fleet import FLEET_FILE, own_file, parse_fleet
from machines.declare.links import parse_link
from machines.declare.write import write_machine
from machines.errors import Conflict, NotFound, Several
from machines.model.base import Payload
from machines.model.machine import Machine, Publish
from machines.model.observed import Link
from machines.model.snapshot import Origin, Snapshot
from machines.model.source import Source
from machines.operations import copies
from machines.operations.records import read_records, write_record
from machines.operations.transfer import bring
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths
from samples import machine

pytestmark = pytest.mark.usefixtures("as_root")

MAC = "02:00:00:00:00:05"
RESOLVED = "systemd-resolved.service"


@pytest.fixture
def host(host: FakeHost) -> FakeHost:
    host.storage.origin_of_machine = lambda name, storage, **_: Origin(f"/var/lib/machines/{name}", storage, "b", 0)
    host.storage.snapshots_of = lambda name: {"s": Snapshot("s", name, 0.0, "copy", "", None, "")}
    return host


def clone(host: FakeHost, made: Machine | None = None) -> tuple[Plan, list[str]]:
    return asyncio.run(copies.clone("web", "two", host, REPORTER, machine=made, dry_run=True))


async def making(host: Any, made: Machine, *, intent: str = "", command: list[str] | None = None) -> Plan:
    """What run does with a copy of web."""
    return await run._making(made, host, REPORTER, intent=intent, command=command or [], user=None, dry_run=True)


def declaration(plan: Plan) -> Machine:
    (text,) = [step.text for step in plan if isinstance(step, steps.WriteFile) and step.path == own_file("two")]
    machines, errors = parse_fleet({own_file("two"): text})
    assert errors == []
    return machines["two"]


def test_copy_of_a_machine_that_starts_on_demand_can_be_read(host: FakeHost) -> None:
    create(host, web(on_demand=True, idle_stop=600))
    plan, left_out = clone(host)
    copy = declaration(plan)
    assert (copy.publish, copy.on_demand, copy.idle_stop) == ((), False, None)
    assert left_out == ["port 8080:80", "its start on demand"]


def test_copy_has_no_address_and_no_mac_address_of_the_other(host: FakeHost) -> None:
    create(host, web(links=(parse_link(f"bridge:br0,ip=10.213.5.9,mac={MAC}"),), publish=()))
    plan, left_out = clone(host)
    assert declaration(plan).links == (parse_link("bridge:br0"),)
    assert left_out == ["address 10.213.5.9", f"MAC address {MAC}"]
    (record,) = [step.record for step in plan if isinstance(step, steps.Claim)]
    assert record.addresses["br0"] != "10.213.5.9"


def test_address_on_a_network_of_others_is_for_people_to_choose(host: FakeHost) -> None:
    host.bridges["lan0"] = Link("lan0", "bridge")
    create(host, web(links=(parse_link("bridge:lan0,ip=192.0.2.9/24"),), publish=()))
    with pytest.raises(Conflict, match=r"machine web has 192\.0\.2\.9 there"):
        clone(host)


def test_copy_is_put_on_a_declared_network_as_that_is_declared(host: FakeHost) -> None:
    create(host, web())
    host.files.texts[FLEET_FILE] = "[networks.lab]\nsubnet = '10.213.5.0/24'\nmode = 'isolated'\n"
    plan, _ = clone(host, machine("two", origin=own_file("two"), source=Source("machine", "web"), bridges=("lab",)))
    (network,) = {step.network for step in plan if isinstance(step, steps.ClaimNetwork)}
    assert (str(network.subnet), network.mode, network.origin) == ("10.213.5.0/24", "isolated", FLEET_FILE)


def test_copy_is_checked_with_what_the_fleet_has_for_all(host: FakeHost, tmp_path: Path) -> None:
    """A source that was made before the defaults were written does not have them, its copy does."""
    create(host, web())
    host.files.texts[FLEET_FILE] = f"[defaults]\nbinds = ['{tmp_path}/nowhere:/srv']\n"
    with pytest.raises(NotFound, match=f"{tmp_path}/nowhere"):
        clone(host, machine("two", origin=own_file("two"), source=Source("machine", "web")))


def test_copy_for_one_command_is_recorded_as_such_until_that_ends(host: FakeHost) -> None:
    create(host, web())
    made = machine("two", origin=own_file("two"), source=Source("machine", "web"), bridges=("br0",))
    plan = asyncio.run(making(host, made, intent="throwaway 7"))
    records = [step.record for step in plan if isinstance(step, (steps.Claim, steps.Keep))]
    assert [record.intent for record in records] == ["throwaway 7"]
    assert declaration(plan).source == web().source


@pytest.mark.parametrize(("command", "runs"), [(["date"], ("date",)), ([], ("serve",))])
def test_copy_without_an_init_runs_what_it_is_told_to(
    host: FakeHost, command: list[str], runs: tuple[str, ...]
) -> None:
    create(host, web())
    record = read_records(host)["web"]
    host.files.texts[paths.machine_record("web")] = write_record(
        dataclasses.replace(record, payload=Payload(("serve",)))
    )
    made = machine("two", origin=own_file("two"), source=Source("machine", "web"), bridges=("br0",))
    (claim,) = [step for step in asyncio.run(making(host, made, command=command)) if isinstance(step, steps.Claim)]
    assert claim.record.payload == Payload(runs)


def test_what_cannot_be_a_machine_is_not_there(host: FakeHost) -> None:
    host.files.texts[FLEET_FILE] = "[defaults]\nmemory = '1G'\n"
    with pytest.raises(NotFound, match="no machine No such"):
        asyncio.run(copies.clone("No such", "two", host, REPORTER, dry_run=True))


@pytest.mark.parametrize("resolved", [False, True])
def test_tree_that_is_restored_gets_the_names_of_now(host: FakeHost, *, resolved: bool) -> None:
    create(host, web())
    host.running = lambda: {"web": "systemd-nspawn@web.service"}  # type: ignore[method-assign]
    if resolved:
        host.active.add(RESOLVED)
    plan, _ = asyncio.run(copies.restore("web", "s", host, REPORTER, dry_run=True, keep=False))
    kinds = [type(step) for step in plan]
    names = [] if resolved else [steps.KeepNames]
    assert kinds == [steps.StopMachine, steps.RestoreTree, *names, steps.StartMachine]


@pytest.mark.parametrize(("ports", "wakes"), [((), False), ((Publish(8081, 81),), True)])
def test_archive_whose_ports_are_taken_starts_on_demand_by_those_that_are_left(
    host: FakeHost, ports: tuple[Publish, ...], *, wakes: bool
) -> None:
    create(host, web())
    said = web("two", on_demand=True, idle_stop=600, publish=(Publish(8080, 80), *ports))
    made = brought(host, said)
    assert (made[0].on_demand, made[0].idle_stop) == (wakes, 600 if wakes else None)
    assert made[2] == ["port 8080:80", *(["its start on demand"] if not wakes else [])]


def brought(host: FakeHost, said: Machine) -> Any:
    host.archives = SimpleNamespace(kind=lambda path: "tar", declaration=lambda path, form: write_machine(said))
    return asyncio.run(bring("/dev/null", None, host, REPORTER, forget=True, form=None, trust=False, dry_run=True))


def test_a_rename_names_all_that_stands_in_the_way_at_once(host: FakeHost) -> None:
    create(host, web())
    host.files.texts[FLEET_FILE] = host.files.texts.pop(own_file("web"))
    host.running = lambda: {"web": "systemd-nspawn@web.service"}  # type: ignore[method-assign]
    with pytest.raises(Several) as caught:
        asyncio.run(copies.rename("web", "site", host, REPORTER, dry_run=False))
    assert [error.message for error in caught.value.errors] == [
        f"machine web is declared in {FLEET_FILE}, which is not its own file",
        "machine web is running",
    ]
    assert caught.value.exit_code == 5
    host.files.texts[FLEET_FILE] = host.files.texts[FLEET_FILE].replace("[machines.web]", "[machines.site]")
    with pytest.raises(Conflict, match=r"^machine web is running$"):
        asyncio.run(copies.rename("web", "site", host, REPORTER, dry_run=False))
    host.running = dict  # type: ignore[method-assign]
    assert asyncio.run(copies.rename("web", "site", host, REPORTER, dry_run=True))
