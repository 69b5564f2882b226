# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known to go wrong before the first change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from machines.declare.values import parse_publish
from machines.model.machine import Bind
from machines.model.observed import Host, Link, Listener, Record, Tree
from machines.plan.check import TOOLS, check_bootstrap, check_host, check_machine, check_new
from machines.render import paths
from samples import empty_host, host_with, machine, running


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
    assert check_new(machine(), empty_host(**values), {})[0].message == error.message


def test_host_that_has_what_it_takes() -> None:
    assert check_new(machine(), empty_host(), {}) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_missing_tool_names_its_package(tool: str) -> None:
    (error,) = check_new(machine(), empty_host(tools=empty_host().tools - {tool}), {})
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
    errors = check_new(machine(bootstrapper=bootstrapper), empty_host(tools=frozenset({*TOOLS, *tools})), {})
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
    (error,) = check_new(machine(), host, declared)
    assert error.message == message
    assert error.exit_code == 5
    assert error.hint


def test_suggested_name_is_free() -> None:
    trees = {name: Tree(name, f"/var/lib/machines/{name}") for name in ("web", "web2", "web3")}
    (error,) = check_new(machine(), empty_host(trees=trees), {})
    assert "such as web4" in error.hint


def test_suggested_name_is_one() -> None:
    name = "a" * 64
    (error,) = check_new(machine(name), empty_host(trees={name: Tree(name, f"/var/lib/machines/{name}")}), {})
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
    assert error.message == "bind /srv/nothing:/srv: the host has no /srv/nothing"
    assert error.exit_code == 4


def test_disk_that_is_nearly_full() -> None:
    (error,) = check_new(machine(), empty_host(free_bytes=100 * 2**20), {})
    assert error.message == "/var/lib/machines has 100 MB free; a new tree needs 600 MB"


@pytest.mark.parametrize(("trees", "free", "message"), [
    (1, 600, None),
    (2, 1200, None),
    (2, 1000, "/var/lib/machines has 1000 MB free; 2 new trees need 1200 MB"),
])  # fmt: skip
def test_disk_has_to_hold_all_new_trees(trees: int, free: int, message: str | None) -> None:
    errors = check_bootstrap(machine(), empty_host(free_bytes=free * 2**20), trees=trees)
    assert [error.message for error in errors] == ([message] if message else [])


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
    assert len(check_new(declared, host, {})) == 1 + len(TOOLS) + 1 + 1 + 2 + 1 + 1
