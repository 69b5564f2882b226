# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known to go wrong before the first change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from machines.declare.values import parse_publish
from machines.model.machine import Bind
from machines.model.observed import Host, Link, Listener, Record
from machines.model.source import Source, parse_source
from machines.model.tree import Tree
from machines.plan.check import check_machine, check_new, check_tree
from machines.plan.check_host import PACKAGES, TOOLS, check_host
from machines.render import paths
from samples import BASE, TRIXIE, empty_host, host_with, machine, running


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"euid": 1000}, 6, "create needs root"),
        ({"booted": False}, 7, "systemd is not PID 1"),
        ({"machined": "masked"}, 7, "systemd-machined is masked"),
        ({"machined": "not-found"}, 7, "this host has no systemd-machined"),
        ({"machined": "failed"}, 7, "systemd-machined is failed"),
    ],
)
def test_host_on_which_nothing_can_be_changed(values: dict[str, Any], code: int, message: str) -> None:
    (error,) = check_host(empty_host(**values), verb="create")
    assert message in error.message
    assert error.exit_code == code
    assert error.hint
    assert check_new(machine(), empty_host(**values), {}, None)[0].message == error.message


def test_host_that_has_what_it_takes() -> None:
    assert check_new(machine(), empty_host(), {}, None) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_missing_tool_names_its_package(tool: str) -> None:
    (error,) = check_new(machine(), empty_host(tools=empty_host().tools - {tool}), {}, None)
    assert (error.message, error.hint) == (f"{tool} is not installed", f"apt install {TOOLS[tool]}")
    assert error.exit_code == 7


@pytest.mark.parametrize(
    ("bootstrapper", "tools", "wrong"),
    [
        ("auto", {"mmdebstrap"}, False),
        ("auto", {"debootstrap"}, False),
        ("auto", set(), True),
        ("debootstrap", {"mmdebstrap"}, True),
        ("mmdebstrap", {"debootstrap"}, True),
    ],
)
def test_bootstrapper_that_is_not_installed(bootstrapper: str, tools: set[str], *, wrong: bool) -> None:
    errors = check_new(machine(bootstrapper=bootstrapper), empty_host(tools=frozenset({*TOOLS, *tools})), {}, None)
    assert bool(errors) is wrong


@pytest.mark.parametrize(
    ("host", "declared", "message"),
    [
        (
            host_with(machine()),
            {"web": machine()},
            "machine web exists already (declared in /etc/machctl/fleet.d/web.toml)",
        ),
        (
            host_with(machine(), trees={}),
            {"web": machine()},
            "machine web is declared in /etc/machctl/fleet.d/web.toml already, without a tree",
        ),
        (
            empty_host(trees={"web": Tree("web", "/var/lib/machines/web")}),
            {},
            "machine web exists already: /var/lib/machines/web",
        ),
        (running(empty_host(), "web"), {}, "a machine web is running already"),
        (
            empty_host(files={paths.settings_file("web"): "[Exec]\n"}),
            {},
            "/etc/systemd/nspawn/web.nspawn is there already and machctl did not write it",
        ),
        (
            empty_host(files={"/etc/machctl/fleet.d/web.toml": "x"}),
            {},
            "/etc/machctl/fleet.d/web.toml is there already",
        ),
    ],
)
def test_name_that_is_taken(host: Host, declared: dict[str, Any], message: str) -> None:
    (error,) = check_new(machine(), host, declared, None)
    assert error.message == message
    assert error.exit_code == 5
    assert error.hint


def test_suggested_name_is_free() -> None:
    trees = {name: Tree(name, f"/var/lib/machines/{name}") for name in ("web", "web2", "web3")}
    (error,) = check_new(machine(), empty_host(trees=trees), {}, None)
    assert "such as web4" in error.hint


def test_suggested_name_is_one() -> None:
    name = "a" * 64
    (error,) = check_new(machine(name), empty_host(trees={name: Tree(name, f"/var/lib/machines/{name}")}), {}, None)
    assert "a" * 64 + "2" not in error.hint


@pytest.mark.parametrize(
    ("address", "listener", "taken"),
    [
        ("8080:80", Listener("0.0.0.0", 8080), True),
        ("8080:80", Listener("127.0.0.1", 8080), True),
        ("8080:80", Listener("::", 8080), True),
        ("8080:80", Listener("0.0.0.0", 80), False),
        ("127.0.0.1:8080:80", Listener("0.0.0.0", 8080), True),
        ("127.0.0.1:8080:80", Listener("127.0.0.1", 8080), True),
        ("127.0.0.1:8080:80", Listener("192.0.2.1", 8080), False),
        ("[::1]:8080:80", Listener("::1", 8080), True),
        ("[::1]:8080:80", Listener("127.0.0.1", 8080), False),
        ("[::1]:8080:80", Listener("0.0.0.0", 8080), False),
    ],
)
def test_port_on_which_a_process_listens(address: str, listener: Listener, *, taken: bool) -> None:
    errors = check_machine(machine(publish=(parse_publish(address),)), empty_host(listeners=(listener,)), {})
    assert bool(errors) is taken
    for error in errors:
        assert error.exit_code == 5
        assert "a process of this host listens on it" in error.message


def test_own_port_of_a_running_machine_is_not_taken() -> None:
    declared = machine(publish=(parse_publish("8080:80"),))
    host = running(host_with(declared, listeners=(Listener("127.0.0.1", 8080),)), "web")
    assert check_machine(declared, host, {"web": declared}) == []


def test_port_of_another_machine_is_answered_with_a_free_one() -> None:
    declared = machine(publish=(parse_publish("8080:80"),))
    others = {"db": machine("db", publish=(parse_publish("8080:5432"), parse_publish("8081:81")))}
    (error,) = check_machine(declared, empty_host(listeners=(Listener("0.0.0.0", 8082),)), others)
    assert error.message == "port 8080 belongs to machine db"
    assert error.hint == "publish another port of the host: --publish 8083:80"


def test_port_of_a_machine_that_is_being_made_is_taken() -> None:
    declared = machine(publish=(parse_publish("8080:80"),))
    (error,) = check_machine(declared, empty_host(records={"db": Record("db", {}, ("8080:5432",))}), {})
    assert error.message == "port 8080 belongs to machine db, which is being made"


@pytest.mark.parametrize(("mine", "theirs", "taken"), [
    ("8080:80", "127.0.0.1:8080:80", True),
    ("127.0.0.1:8080:80", "8080:80", True),
    ("127.0.0.1:8080:80", "192.0.2.1:8080:80", False),
    ("8080:80", "80:8080", False),
])  # fmt: skip
def test_claim_of_one_address_leaves_the_others(mine: str, theirs: str, *, taken: bool) -> None:
    host = empty_host(records={"db": Record("db", {}, (theirs,))})
    assert bool(check_machine(machine(publish=(parse_publish(mine),)), host, {})) is taken


def test_port_that_another_machine_still_has_and_no_longer_declares_can_be_taken_over() -> None:
    port = parse_publish("8080:80")
    before = running(host_with(machine("db", publish=(port,)), listeners=(Listener("127.0.0.1", 8080),)), "db")
    declared = {"db": machine("db"), "web": machine(publish=(port,))}
    assert check_machine(declared["web"], before, declared) == []


@pytest.mark.parametrize(
    ("name", "port", "active", "taken"),
    [
        ("web", "8080:80", True, False),
        ("web", "127.0.0.1:8080:80", True, False),
        ("web", "8080:80", False, True),
        ("db", "18080:80", True, True),
        ("db", "808:80", True, True),
        ("db-8080", "9:80", True, True),
    ],
)
def test_listener_is_no_conflict_where_it_is_a_socket_unit_of_machctls(
    name: str, port: str, *, active: bool, taken: bool
) -> None:
    before = host_with(machine(name, publish=(parse_publish(port),)), listeners=(Listener("0.0.0.0", 8080),))
    units = {path.rsplit("/", 1)[1] for path in before.files if path.endswith(".socket")}
    host = dataclasses.replace(before, active=frozenset(units) if active else frozenset())
    declared = machine(publish=(parse_publish("8080:80"),))
    assert bool(check_machine(declared, host, {"web": declared})) is taken


def test_link_that_is_no_bridge() -> None:
    (error,) = check_machine(machine(), empty_host(links={"br0": Link("br0", "veth")}), {})
    assert error.message == "br0 is not a bridge, it is a veth link"


def test_bind_of_what_is_not_there() -> None:
    declared = machine(binds=(Bind("/srv/nothing", "/srv"),))
    (error,) = check_machine(declared, empty_host(missing_binds=frozenset({"/srv/nothing"})), {})
    assert error.message == "bind /srv/nothing:/srv of web: the host has no /srv/nothing"
    assert error.exit_code == 4


def test_disk_that_is_nearly_full() -> None:
    (error,) = check_new(machine(), empty_host(free_bytes=100 * 2**20), {}, None)
    assert error.message == "/var/lib/machines has 100 MB free; a new tree needs 1200 MB"
    assert "machctl image prune" in error.hint


TAR = parse_source("tar:/srv/web.tar")


@pytest.mark.parametrize(
    ("source", "based", "driver", "trees", "needed"),
    [
        # The base, and then the copy of it.
        (None, False, "copy", 1, 1200),
        (None, False, "copy", 2, 1800),
        (None, False, "btrfs", 1, 600),
        (None, False, "overlay", 9, 600),
        (None, False, "reflink", 9, 600),
        (None, True, "copy", 1, 250),
        (None, True, "copy", 3, 750),
        (None, True, "btrfs", 3, 32),
        (TAR, False, "btrfs", 1, 32),
        (TAR, False, "copy", 1, 632),
    ],
)
def test_disk_has_to_hold_all_new_trees(
    source: Source | None, driver: str, trees: int, needed: int, *, based: bool
) -> None:
    declared = machine(source=source or TRIXIE)
    base = BASE if based else None
    enough = empty_host(free_bytes=needed * 2**20, storage={"auto": driver})
    assert check_tree(declared, enough, base, trees=trees) == []
    (error,) = check_tree(declared, dataclasses.replace(enough, free_bytes=needed * 2**20 - 1), base, trees=trees)
    what = "a new tree needs" if trees == 1 else f"{trees} new trees need"
    assert error.message == f"/var/lib/machines has {needed - 1} MB free; {what} {needed} MB"


@pytest.mark.parametrize(
    ("source", "driver", "wrong"),
    [
        ("debian", "btrfs", ""),
        ("debian", "overlay", "disk limit of web: overlay storage knows no limits"),
        ("debian", "reflink", "disk limit of web: reflink storage knows no limits"),
        ("debian", "copy", "disk limit of web: copy storage knows no limits"),
        ("raw:/srv/disk.raw", "btrfs", "disk limit of web: a raw image has the size it has"),
    ],
)
def test_disk_limit_only_where_something_keeps_it(source: str, driver: str, wrong: str) -> None:
    declared = machine(source=parse_source(source), disk=2**30)
    errors = check_tree(declared, empty_host(storage={"auto": driver}), BASE)
    assert [error.message for error in errors] == ([wrong] if wrong else [])
    for error in errors:
        assert error.exit_code == 7
        assert "machctl pool create --btrfs" in error.hint


@pytest.mark.parametrize(
    ("source", "bootstrapper", "tools", "missing"),
    [
        ("arch", "auto", {"pacstrap"}, ""),
        ("arch", "auto", {"mmdebstrap", "dnf"}, "pacstrap"),
        ("fedora:42", "auto", {"dnf"}, ""),
        ("fedora:42", "auto", {"dnf5"}, ""),
        ("fedora:42", "auto", {"pacstrap"}, "dnf"),
        ("ubuntu:noble", "auto", {"debootstrap"}, ""),
        ("ubuntu:noble", "mmdebstrap", {"debootstrap"}, "mmdebstrap"),
        ("tar:/srv/web.tar", "auto", set(), ""),
        ("dir:/srv/web", "auto", set(), ""),
        ("image:golden", "auto", set(), ""),
    ],
)
def test_tool_that_a_source_takes(source: str, bootstrapper: str, tools: set[str], missing: str) -> None:
    declared = machine(source=parse_source(source), bootstrapper=bootstrapper)
    host = empty_host(tools=frozenset({*TOOLS, *tools}))
    errors = check_tree(declared, host, None)
    assert [error.hint for error in errors] == ([f"apt install {PACKAGES[missing]}"] if missing else [])
    assert check_tree(declared, host, BASE) == []


def test_everything_wrong_is_found_at_once() -> None:
    declared = machine(
        bridges=("eth0",), publish=(parse_publish("80:80"), parse_publish("81:81")), binds=(Bind("/nowhere", "/x"),)
    )
    host = empty_host(
        tools=frozenset(),
        free_bytes=0,
        trees={"web": Tree("web", "/var/lib/machines/web")},
        links={"eth0": Link("eth0", "")},
        listeners=(Listener("0.0.0.0", 80), Listener("0.0.0.0", 81)),
        missing_binds=frozenset({"/nowhere"}),
    )
    assert len(check_new(declared, host, {}, None)) == 1 + len(TOOLS) + 1 + 1 + 2 + 1 + 1
