# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of machines: which lines they are, and that nothing else of a hosts(5) file changes."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.model.network import Network
from machines.model.observed import Host, Record
from machines.model.tree import Tree
from machines.plan import steps
from machines.plan.names import (
    BEGIN,
    END,
    block_of,
    guest_lines,
    host_lines,
    name_servers,
    plan_names,
    search_domain,
    stale_guests,
    with_block,
)
from machines.render import paths
from machines.render.networks import render_resolver
from samples import empty_host

V4 = ipaddress.IPv4Network
V6 = ipaddress.IPv6Network
LAB = Network("lab", V4("10.1.0.0/24"), V6("fd00:1::/64"))
BACK = Network("back", V4("10.2.0.0/24"), reach=("lab",))
MUTE = Network("mute", V4("10.3.0.0/24"), dns=False)
NETWORKS = {"lab": LAB, "back": BACK, "mute": MUTE}
WEB = Record("web", {"lab": "10.1.0.2"}, addresses6={"lab": "fd00:1::2"})
DB = Record("db", {"back": "10.2.0.2"})
BOTH = Record("both", {"back": "10.2.0.3", "lab": "10.1.0.3"})
RECORDS = {"web": WEB, "db": DB, "both": BOTH}
DEBIAN = "127.0.0.1\tlocalhost\n127.0.1.1 box\n::1 localhost\n"


def test_every_address_has_its_names() -> None:
    lines = host_lines(RECORDS, NETWORKS, "box")
    assert lines == (
        "10.2.0.3 both.machctl.internal both",
        "10.1.0.3 both.machctl.internal both",
        "10.2.0.2 db.machctl.internal db",
        "10.1.0.2 web.machctl.internal web",
        "fd00:1::2 web.machctl.internal web",
        "10.1.0.1 host.machctl.internal box.machctl.internal",
        "fd00:1::1 host.machctl.internal box.machctl.internal",
        "10.2.0.1 host.machctl.internal box.machctl.internal",
        "10.3.0.1 host.machctl.internal box.machctl.internal",
    )


def test_machine_called_as_the_host_is_keeps_its_name() -> None:
    lines = host_lines({"host": Record("host", {"lab": "10.1.0.2"})}, {"lab": LAB}, "box")
    assert [line for line in lines if "host.machctl.internal" in line] == ["10.1.0.2 host.machctl.internal host"]


def test_machine_knows_its_own_networks_and_those_it_reaches() -> None:
    inside = guest_lines("web", RECORDS, NETWORKS, "box")
    assert inside == (
        "10.1.0.3 both.machctl.internal both",
        "10.1.0.2 web.machctl.internal web",
        "fd00:1::2 web.machctl.internal web",
        "10.1.0.1 host.machctl.internal box.machctl.internal host box",
        "fd00:1::1 host.machctl.internal box.machctl.internal host box",
    )
    assert "10.1.0.2 web.machctl.internal web" in guest_lines("db", RECORDS, NETWORKS, "box")


def test_network_without_names_has_none() -> None:
    records = {"x": Record("x", {"mute": "10.3.0.2"})}
    assert guest_lines("x", records, NETWORKS, "box") == ()
    assert render_resolver([MUTE]) == ""


def test_block_stands_behind_the_lines_of_others_and_goes_without_a_trace() -> None:
    text = with_block(DEBIAN, ["10.1.0.2 web"])
    assert text == DEBIAN + f"{BEGIN}\n10.1.0.2 web\n{END}\n"
    assert block_of(text) == ("10.1.0.2 web",)
    assert with_block(text, ["10.1.0.2 web"]) == text
    assert with_block(text, ()) == DEBIAN
    assert with_block(DEBIAN, ()) == DEBIAN


def test_block_whose_end_was_deleted_ends_with_the_last_line_that_is_machctls() -> None:
    text = with_block(DEBIAN, ["10.1.0.2 web.machctl.internal web"]).replace(f"{END}\n", "192.0.2.1 mine\n")
    assert with_block(text, ()) == DEBIAN + "192.0.2.1 mine\n"


def test_line_without_an_end_gets_one() -> None:
    assert with_block("127.0.0.1 localhost", ["10.1.0.2 web"]).startswith(f"127.0.0.1 localhost\n{BEGIN}\n")


@given(
    st.lists(st.sampled_from(["127.0.0.1 localhost", "", "# note", "1.2.3.4 a b\t# x", "\xff\xfe", BEGIN + " no"])),
    st.lists(st.sampled_from(["10.1.0.2 web.machctl.internal web", "fd00::2 web.machctl.internal web"]), max_size=3),
    st.lists(st.sampled_from(["10.1.0.9 x.machctl.internal x"]), max_size=2),
)
def test_lines_of_others_stay(others: list[str], first: list[str], second: list[str]) -> None:
    text = "".join(f"{line}\n" for line in others)
    once = with_block(text, first)
    assert block_of(once) == tuple(first)
    assert block_of(with_block(once, second)) == tuple(second)
    assert with_block(with_block(once, second), ()) == text


@pytest.mark.parametrize(
    ("network", "resolved", "servers", "domain"),
    [
        (LAB, True, ("10.1.0.1", "fd00:1::1"), "machctl.internal"),
        (LAB, False, ("192.0.2.53",), ""),
        (MUTE, True, ("192.0.2.53",), ""),
        (None, True, ("192.0.2.53",), ""),
    ],
)
def test_machines_ask_the_gateway_where_somebody_answers_there(
    network: Network | None, resolved: bool, servers: tuple[str, ...], domain: str
) -> None:
    host = empty_host(resolved=resolved)
    assert name_servers(network, host) == servers
    assert search_domain(network, host) == domain


def test_resolver_answers_at_every_gateway_of_networks_with_names() -> None:
    text = render_resolver(NETWORKS.values())
    assert paths.owner(paths.RESOLVER_FILE, text) == ("fleet", "names")
    assert [line for line in text.splitlines() if "=" in line] == [
        "DNSStubListenerExtra=10.1.0.1",
        "DNSStubListenerExtra=fd00:1::1",
        "DNSStubListenerExtra=10.2.0.1",
    ]


TREES = {name: Tree(name, f"/var/lib/machines/{name}", "directory") for name in RECORDS}


def known(**values: Any) -> Host:
    host = empty_host(**{"records": RECORDS, "networks": NETWORKS, "hostname": "box", "trees": TREES, **values})
    return dataclasses.replace(
        host, files={paths.HOSTS_FILE: with_block(DEBIAN, host_lines(RECORDS, NETWORKS, "box")), **host.files}
    )


def test_names_that_are_known_need_nothing() -> None:
    host = known(resolved=True, files={paths.RESOLVER_FILE: render_resolver(NETWORKS.values())})
    assert plan_names(host, host) == []


def test_machine_that_goes_is_no_longer_known() -> None:
    host = known(resolved=True, files={paths.RESOLVER_FILE: render_resolver(NETWORKS.values())})
    (step,) = plan_names(host, dataclasses.replace(host, records={"web": WEB, "both": BOTH}))
    assert isinstance(step, steps.KeepNames)
    assert step.detail == "-10.2.0.2 db.machctl.internal db"


def test_resolver_hears_of_networks_only_where_it_runs() -> None:
    host = known(resolved=True)
    assert [type(step) for step in plan_names(host, host)] == [steps.KeepResolver]
    assert plan_names(known(), known()) == []
    stopped = known(files={paths.RESOLVER_FILE: render_resolver(NETWORKS.values())})
    (step,) = plan_names(stopped, stopped)
    assert step.reason == "no machine asks it for names"


def test_names_are_kept_in_trees_where_nobody_answers_them() -> None:
    host = known()
    right = {name: with_block("", guest_lines(name, RECORDS, NETWORKS, "box")) for name in RECORDS}
    assert stale_guests(right, host) == ()
    assert stale_guests({**right, "db": ""}, host) == ("db",)
    # That of an image cannot be read, and one that is not there yet is written once it is.
    assert stale_guests({"db": right["db"]}, host) == ()
    assert stale_guests({}, dataclasses.replace(host, trees={})) == ("both", "db", "web")
    assert stale_guests({}, dataclasses.replace(host, trees={}, resolved=True)) == ()
