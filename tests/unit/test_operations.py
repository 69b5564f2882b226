# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs leave on a host when they succeed, fail and are stopped half-way."""

from __future__ import annotations

import asyncio
import dataclasses
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from acting import REPORTER, Meanwhile, Once, apply, create, declare, nothing_left, see, web
from fakes import FakeHost
from machines.declare.fleet import FLEET_FILE, own_file
from machines.declare.values import parse_publish
from machines.errors import CommandFailed, Conflict, InvalidFile, MachctlError, NotFound
from machines.model.base import Payload
from machines.model.machine import Publish
from machines.model.observed import Link, Listener, Record
from machines.model.tree import Tree
from machines.operations import applying, fleet, fleetplan
from machines.operations.garbage import collect_garbage
from machines.operations.observe import observe
from machines.operations.records import read_records, write_record
from machines.operations.remove import remove
from machines.plan.check import check_machine
from machines.render import paths
from samples import PAYLOAD, machine

pytestmark = pytest.mark.usefixtures("as_root")


def test_create_leaves_a_declared_machine_that_apply_has_nothing_to_do_for() -> None:
    host = FakeHost()
    create(host, web())
    assert "web" in host.placed
    assert own_file("web") in host.files.texts
    plans = fleetplan.fleet_plan([], host, verb="plan").plans
    assert plans == {"web": [], "": []}


def test_a_source_that_fails_leaves_nothing() -> None:
    host = FakeHost(source_fails=True)
    with pytest.raises(CommandFailed, match="no space"):
        create(host, web())
    assert nothing_left(host)
    assert list(Path(host.storage.room).iterdir()) == []


@pytest.mark.parametrize(
    "failing",
    ["copy web", "reload networkd", "reload systemd", "start machctl-bridge@br0.service", "nft -f"],
)
@pytest.mark.parametrize("driver", ["copy", "overlay"])
@pytest.mark.usefixtures("seen")
def test_a_create_that_fails_once_it_has_its_base_leaves_that_alone(driver: str, failing: str, host: FakeHost) -> None:
    host.storage.driver = driver
    # Somebody has asked for its state: systemd keeps that until its files are read again.
    host.loaded = {"systemd-nspawn@web.service"}
    # What takes back must not fail on the same thing again.
    calls = iter([True])
    host.failing = Once(failing, calls)  # type: ignore[assignment]
    with pytest.raises(MachctlError, match="failed"):
        create(host, web())
    assert nothing_left(host)
    assert host.bridges == {}
    assert [base.source for base in host.storage.bases().values()] == ["debian:trixie"]
    create(host, web())
    assert host.done.count("make debian:trixie") == 1


def test_a_killed_create_is_cleaned_by_the_next() -> None:
    host = FakeHost()
    create(host, web())
    killed = {path: text for path, text in host.files.texts.items() if path != own_file("web")}
    host.files.texts = dict(killed)
    host.placed.clear()
    create(host, web())
    assert "web" in host.placed


def test_gc_takes_away_what_a_killed_create_left() -> None:
    host = FakeHost()
    create(host, web())
    del host.files.texts[own_file("web")]
    host.placed.clear()
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert host.files.texts == {}
    assert host.bridges == {}


def test_gc_leaves_a_machine_whose_declaration_was_deleted() -> None:
    host = FakeHost()
    create(host, web())
    del host.files.texts[own_file("web")]
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert "web" in host.placed


def test_two_machines_of_one_bridge_get_different_addresses_and_it_goes_with_the_last() -> None:
    host = FakeHost()
    create(host, web())
    create(host, machine("db", origin=own_file("db")))
    observed = observe(host)
    assert observed.records["web"].addresses["br0"] != observed.records["db"].addresses["br0"]
    asyncio.run(remove("web", host, REPORTER, force=False, dry_run=False))
    assert "br0" in host.bridges
    asyncio.run(remove("db", host, REPORTER, force=False, dry_run=False))
    assert host.bridges == {}
    assert host.files.texts == {}


def test_a_name_that_is_taken_changes_nothing() -> None:
    host = FakeHost()
    create(host, web())
    before = dict(host.files.texts)
    with pytest.raises(Conflict, match="exists already"):
        create(host, web())
    assert host.files.texts == before


def test_that_addresses_have_run_out_is_said_before_minutes_are_spent_on_a_base() -> None:
    host = FakeHost()
    host.subnets["lan"] = (IPv4Network("0.0.0.0/1"), None)
    host.subnets["wan"] = (IPv4Network("128.0.0.0/1"), None)
    with pytest.raises(Conflict, match="no free"):
        create(host, machine("web", bridges=("br0",)))
    assert host.done == []
    # One of its own it has.
    host.files.texts[FLEET_FILE] = "[networks.br0]\nsubnet = '100.64.3.0/24'\n"
    private = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    host.subnets = {f"vpn{number}": (IPv4Network(subnet), None) for number, subnet in enumerate(private)}
    create(host, machine("web", bridges=("br0",)))


def test_a_machine_that_ends_while_it_is_looked_at_lacks_no_links() -> None:
    host = FakeHost()
    create(host, web(publish=()))
    host.running = lambda: {"web": "systemd-nspawn@web.service"}  # type: ignore[method-assign]
    host.inner_links = lambda leader: frozenset()  # type: ignore[method-assign]
    assert fleetplan.fleet_plan([], host, verb="plan").plans == {"web": [], "": []}


def test_a_dry_run_changes_nothing() -> None:
    host = FakeHost()
    plan = asyncio.run(fleet.create(web(), host, REPORTER, dry_run=True))
    assert plan
    assert host.files.texts == {}
    assert host.done == []


def test_apply_goes_on_with_the_others_when_one_fails() -> None:
    host = FakeHost()
    for name, port in (("a", 1001), ("b", 1002)):
        host.files.texts[own_file(name)] = f'[machines.{name}]\nsource = "debian"\npublish = ["{port}:80"]\n'
    host.failing = {"copy a"}
    plans, failed = asyncio.run(applying.apply([], host, REPORTER))
    assert set(plans) == {"a", "b", ""}
    assert set(failed) == {"a"}
    assert set(host.placed) == {"b"}


def test_apply_goes_on_with_the_others_when_a_source_fails() -> None:
    host = FakeHost(failing=["make debian:trixie"])
    declare(host, "a")
    declare(host, "b", source="debian:bookworm")
    declare(host, "c")
    plans, failed = asyncio.run(applying.apply([], host, REPORTER))
    assert set(failed) == {"a", "c"}
    assert set(plans) == {"b", ""}
    assert set(host.placed) == {"b"}
    assert set(observe(host).records) == {"b"}


def theirs_appears(host: FakeHost) -> None:
    host.placed["web"] = Tree("web", "/var/lib/machines/web")


def test_a_tree_that_appeared_while_the_base_was_made_is_left_alone() -> None:
    host = Meanwhile(theirs_appears, when="make debian:trixie")
    with pytest.raises(Conflict, match="machine web exists already"):
        create(host, web())
    assert set(host.placed) == {"web"}
    assert host.files.texts == {}
    assert "copy web" not in host.done


@pytest.mark.parametrize("driver", ["copy", "overlay"])
def test_a_tree_that_appeared_meanwhile_is_left_alone(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Tree("web", "/var/lib/machines/web")
    host = Meanwhile(theirs_appears)
    host.storage.driver = driver
    see(host, monkeypatch)
    host.running = lambda: {"web": "systemd-nspawn@web.service"} if host.placed else {}  # type: ignore[method-assign]
    host.facts.enabled_machines = lambda: {"web": True} if host.placed else {}
    host.facts.journal_links = lambda trees: {tree.name: "/var/log/journal/0123" for tree in trees}
    host.files.texts["/var/log/journal/0123"] = "theirs"
    with pytest.raises(Conflict, match="has appeared in the meantime"):
        create(host, web())
    assert host.placed == {"web": theirs}
    assert (host.staged, host.storage.layers()) == (set(), [])
    assert host.files.texts == {"/var/log/journal/0123": "theirs"}
    assert not [what for what in host.done if "systemd-nspawn@web" in what]
    assert host.files.held == set()


def test_settings_that_appeared_meanwhile_are_left_alone() -> None:
    settings = paths.settings_file("web")
    host = Meanwhile(lambda host: host.files.texts.update({settings: "[Exec]\n"}))
    with pytest.raises(Conflict, match="has appeared in the meantime and machctl did not write it"):
        create(host, web())
    assert host.files.texts == {settings: "[Exec]\n"}
    assert (host.placed, host.staged) == ({}, set())


@pytest.mark.parametrize("path", [own_file("web"), paths.settings_file("web"), paths.NAT_FILE])
@pytest.mark.parametrize("driver", ["copy", "btrfs", "overlay"])
def test_a_create_that_fails_between_its_copy_and_the_place_leaves_no_staged_tree(path: str, driver: str) -> None:
    host = FakeHost()
    host.storage.driver = driver
    host.files.refused.add(path)
    with pytest.raises(MachctlError, match="cannot be written"):
        create(host, web())
    assert "copy web" in host.done
    assert nothing_left(host)


def test_an_apply_that_fails_between_a_copy_and_the_place_leaves_no_staged_tree() -> None:
    host = FakeHost()
    declare(host, "web")
    host.files.refused.add(paths.settings_file("web"))
    _, failed = asyncio.run(applying.apply([], host, REPORTER))
    assert set(failed) == {"web"}
    assert "copy web" in host.done
    assert (host.placed, host.staged) == ({}, set())
    host.files.refused.clear()
    apply(host)
    assert set(host.placed) == {"web"}


@pytest.mark.parametrize("driver", ["copy", "overlay"])
@pytest.mark.parametrize(("when", "bases"), [("make debian:trixie", 0), ("copy web", 1)])
def test_a_create_that_is_cancelled_leaves_nothing(when: str, bases: int, driver: str) -> None:
    def cancel(host: FakeHost) -> None:
        raise asyncio.CancelledError

    host = Meanwhile(cancel, when=when)
    host.storage.driver = driver
    with pytest.raises(asyncio.CancelledError):
        create(host, web())
    assert nothing_left(host)
    assert len(host.storage.bases()) == len(list(Path(host.storage.room).iterdir())) == bases


def test_a_create_waits_for_whoever_has_the_fleet() -> None:
    host = FakeHost()

    async def scenario() -> None:
        async with host.files.fleet_lock():
            waiting = asyncio.create_task(fleet.create(web(), host, REPORTER))
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done
            assert host.files.texts == {}
        await asyncio.wait_for(waiting, 10)

    asyncio.run(scenario())
    assert "web" in host.placed


@pytest.mark.parametrize("running", [False, True])
def test_a_port_that_moves_is_given_up_before_it_is_taken(*, running: bool) -> None:
    host = FakeHost()
    declare(host, "a")
    declare(host, "b", 'publish = ["8080:80"]')
    apply(host)
    host.active.add("machctl-port-b_8080.socket")
    host.facts.listeners = lambda: (Listener("127.0.0.1", 8080),)
    if running:
        host.running = lambda: {name: f"systemd-nspawn@{name}.service" for name in "ab"}  # type: ignore[method-assign]
    declare(host, "a", 'publish = ["8080:80"]')
    declare(host, "b")
    host.done.clear()
    apply(host)
    assert host.done[0] == "stop machctl-port-b_8080.socket"
    assert host.done.count("stop machctl-port-b_8080.socket") == 1
    assert host.done.count("start machctl-port-a_8080.socket") == running
    units = [path for path in host.files.texts if "machctl-port-" in path]
    assert sorted(units) == [f"{paths.UNIT_DIRECTORY}/machctl-port-a_8080.{kind}" for kind in ("service", "socket")]
    assert observe(host).records["a"].ports == ("8080:80",)
    assert observe(host).records["b"].ports == ()


def test_a_bridge_that_the_last_machine_left_goes_once_all_are_applied() -> None:
    host = FakeHost()
    for name in "ab":
        declare(host, name, 'bridges = ["br0"]')
    apply(host)
    declare(host, "a", 'bridges = ["br1"]')
    assert fleetplan.fleet_plan([], host, verb="plan").plans[""][:-1] == []
    declare(host, "b", 'bridges = ["br1"]')
    plans = fleetplan.fleet_plan([], host, verb="plan").plans
    assert not [step for name in "ab" for step in plans[name] if str(step) == "remove link br0"]
    assert "remove link br0" in map(str, plans[""])
    apply(host)
    assert set(host.bridges) == {"br1"}
    assert not [path for path in host.files.texts if "br0" in path]
    assert not any(fleetplan.fleet_plan([], host, verb="plan").plans[""])


def test_a_bridge_stays_for_the_machine_that_comes_to_it_in_the_same_apply() -> None:
    host = FakeHost()
    declare(host, "a", 'bridges = ["br0"]')
    apply(host)
    declare(host, "a", 'bridges = ["br1"]')
    declare(host, "b", 'bridges = ["br0"]')
    assert fleetplan.fleet_plan([], host, verb="plan").plans[""][:-1] == []
    apply(host)
    assert set(host.bridges) == {"br0", "br1"}


def test_the_disk_has_to_hold_every_new_tree_of_an_apply() -> None:
    host = FakeHost()
    declare(host, "b")
    declare(host, "c")
    host.pool.free_bytes = lambda: 1000 * 2**20
    with pytest.raises(MachctlError, match="2 new trees need 1800 MB"):
        apply(host)
    assert host.done == []
    host.pool.free_bytes = lambda: 10**12
    create(host, web("a"))
    # What their base takes is known by now.
    host.pool.free_bytes = lambda: 400 * 2**20
    with pytest.raises(MachctlError, match="2 new trees need 500 MB"):
        apply(host)
    assert set(host.placed) == {"a"}
    host.storage.driver = "btrfs"
    apply(host)
    assert set(host.placed) == {"a", "b", "c"}


def test_records_are_read_as_they_were_written() -> None:
    host = FakeHost()
    host.bridges["lan0"] = Link("lan0", "bridge")
    create(host, machine(origin=own_file("web"), bridges=("lan0", "br0"), publish=(Publish(53, 53, "::1"),)))
    record = observe(host).records["web"]
    assert (record.ports, record.foreign) == (("[::1]:53:53",), ("lan0",))
    assert set(record.addresses) == {"br0"}


RECORD = Record(
    "web",
    {"br0": "10.64.7.2"},
    ("8080:80",),
    ("lan0",),
    made={"source": "debian:trixie", "packages": ["less"]},
    storage="overlay",
    base="0123456789ab-1",
    uid=0x80000,
    payload=PAYLOAD,
    disk=2**30,
    intent="throwaway",
)


@pytest.mark.parametrize("record", [RECORD, Record("web"), Record("web", payload=Payload(("/x",)))])
def test_record_is_read_as_it_was_written(record: Record) -> None:
    host = FakeHost()
    host.files.texts[paths.machine_record("web")] = write_record(record)
    assert read_records(host) == {"web": record}


def test_record_of_an_earlier_machctl_is_read() -> None:
    host = FakeHost()
    host.files.texts[paths.machine_record("web")] = '{"addresses": {"br0": "10.64.7.2"}, "ports": []}'
    assert read_records(host) == {"web": Record("web", {"br0": "10.64.7.2"})}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"addresses": {}, "ports": ["x"]}', '{"addresses": {}, "ports": [], "payload": {"x": 1}}']
)
def test_record_that_is_none(text: str) -> None:
    host = FakeHost()
    host.files.texts[paths.machine_record("web")] = text
    with pytest.raises(InvalidFile, match="is not what machctl wrote there"):
        read_records(host)


def test_setting_writes_only_what_was_set() -> None:
    host = FakeHost()
    declare(host, "web", 'memory = "1024M"  # enough', "cpus = 1")
    apply(host)
    text = host.files.texts[own_file("web")]
    asyncio.run(fleet.change("web", lambda made: dataclasses.replace(made, cpus=2.0), host, REPORTER, dry_run=False))
    assert host.files.texts[own_file("web")] == text.replace("cpus = 1", "cpus = 2")


def test_setting_what_is_not_declared() -> None:
    with pytest.raises(NotFound, match="not declared"):
        asyncio.run(fleet.change("web", lambda made: made, FakeHost(), REPORTER, dry_run=False))


@pytest.mark.parametrize(("ports", "looks"), [(("8080:80",), 0), (("8080-8090:80-90",), 1), (("8081:80",), 1)])
def test_who_listens_is_asked_where_other_ports_are_to_be_published(ports: tuple[str, ...], looks: int) -> None:
    host = FakeHost()
    create(host, web(publish=(parse_publish("8080:80"),)))
    host.active.add("machctl-port-web_8080.socket")
    asked: list[int] = []
    host.facts.listeners = lambda: asked.append(1) or ()
    observe(host, [web(publish=tuple(map(parse_publish, ports)))])
    assert len(asked) == looks


SOCKET = "machctl-port-web_8080.socket"


@pytest.mark.parametrize(
    ("later", "stays", "error"),
    [
        ({SOCKET}, True, []),
        (set(), False, []),
        (set(), True, ["port 8080 is taken: a process of this host listens on it"]),
    ],
)
def test_a_socket_of_ours_that_begins_to_listen_while_the_host_is_looked_at_is_ours(
    later: set[str], *, stays: bool, error: list[str]
) -> None:
    host = FakeHost()
    create(host, web())
    asked: list[list[str]] = []
    heard = iter([(Listener("127.0.0.1", 8080),), (Listener("127.0.0.1", 8080),) if stays else ()])
    host.facts.listeners = lambda: next(heard)

    def states(patterns: list[str]) -> dict[str, str]:
        asked.append(patterns)
        return dict.fromkeys(host.active | (later if len(asked) > 1 else set()), "active")

    host.units.states = states
    observed = observe(host, [web()])
    assert asked[1:] == [[SOCKET]]
    errors = [each.message for each in check_machine(web(), observed, {"web": web()})]
    assert [each for each in errors if "port" in each] == error


def test_units_are_asked_for_once_where_others_listen() -> None:
    host = FakeHost()
    asked: list[int] = []
    states = host.units.states
    host.units.states = lambda patterns: asked.append(1) or states(patterns)
    host.facts.listeners = lambda: (Listener("0.0.0.0", 22),)
    observe(host, [web()])
    assert len(asked) == 1
