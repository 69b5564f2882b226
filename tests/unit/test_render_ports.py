# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports that are published, as they are rendered: sockets, rules of nftables, nspawn's own."""

from __future__ import annotations

from typing import Any

import pytest

from machines.model.machine import Machine, Publish
from machines.render import paths
from machines.render.machine import render_machine
from machines.render.placement import Placement
from samples import machine, placed
from unitfiles import settings, values


def listening(port: Publish, *, ipv6: bool = True, **values: Any) -> list[str]:
    """The addresses that a socket unit of machctl answers on."""
    files = render_machine(machine(publish=(port,)), placed(ipv6_loopback=ipv6, **values))
    return [
        value
        for path, text in files.items()
        if path.endswith(".socket")
        for _, key, value in settings(text)
        if key == "ListenStream"
    ]


@pytest.mark.parametrize(
    ("port", "listen"),
    [
        (Publish(8080, 80), ["127.0.0.1:8080", "[::]:8080"]),
        (Publish(8080, 80, "127.0.0.1"), ["127.0.0.1:8080"]),
        (Publish(8080, 80, "192.0.2.1"), []),
        (Publish(8080, 80, "::1"), ["[::1]:8080"]),
        (Publish(8080, 80, "2001:db8::1"), ["[2001:db8::1]:8080"]),
    ],
)
def test_sockets_answer_where_nat_cannot(port: Publish, listen: list[str]) -> None:
    assert listening(port) == listen


@pytest.mark.parametrize(
    ("port", "listen"),
    [
        (Publish(8080, 80), ["127.0.0.1:8080", "[::]:8080"]),
        (Publish(8080, 80, "127.0.0.1"), ["127.0.0.1:8080"]),
        (Publish(8080, 80, "192.0.2.1"), ["192.0.2.1:8080"]),
        (Publish(8080, 80, "2001:db8::1"), ["[2001:db8::1]:8080"]),
    ],
)
def test_sockets_answer_on_a_given_address_where_there_is_no_nat(port: Publish, listen: list[str]) -> None:
    assert listening(port, networks={}, addresses={}) == listen


@pytest.mark.parametrize("place", [placed(), placed(networks={}, addresses={})])
def test_sockets_go_with_their_machine(place: Placement) -> None:
    port = Publish(8080, 80)
    files = render_machine(machine(publish=(port,)), place)
    path = f"{paths.UNIT_DIRECTORY}/{paths.port_unit('web', port, 'socket')}"
    # Not by systemd: a stand-in may answer on them while the machine is stopped (machctl rollout).
    assert values(files, path, "Unit", "BindsTo") == values(files, path, "Unit", "PartOf") == []
    (stop,) = values(files, paths.dropin_file("web"), "Service", "ExecStopPost")
    assert "machctl-port-web_*.socket" in stop
    assert f"test ! -e {paths.redirect_file('web')} &&" in stop


def test_without_ipv6_nothing_listens_on_it() -> None:
    assert listening(Publish(8080, 80), ipv6=False) == ["127.0.0.1:8080"]


def nat_rules(declared: Machine) -> str:
    return render_machine(declared, placed()).get(f"{paths.NAT_DIRECTORY}/machine-web.nft", "")


@pytest.mark.parametrize(
    ("port", "match"),
    [
        (Publish(8080, 80), "meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 8080"),
        (Publish(8080, 80, "192.0.2.1"), "ip daddr 192.0.2.1 tcp dport 8080"),
    ],
)
def test_nat_leads_to_the_machine(port: Publish, match: str) -> None:
    rules = nat_rules(machine(publish=(port,))).splitlines()[1:]
    assert [rule.partition(" comment ")[0] for rule in rules] == [
        f"add rule inet machctl {chain} {match} dnat ip to 10.64.7.2:80" for chain in ("prerouting", "output")
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:db8::1"])
def test_nat_has_no_rule_for_what_sockets_answer(address: str) -> None:
    assert "dnat" not in nat_rules(machine(publish=(Publish(8080, 80, address),)))


def test_port_on_a_foreign_bridge_is_nspawns() -> None:
    files = render_machine(machine(publish=(Publish(8080, 80),)), placed(networks={}, addresses={}))
    assert values(files, paths.settings_file("web"), "Network", "Port") == ["tcp:8080:80"]
    assert not [path for path in files if path.endswith(".nft")]


def test_port_of_one_address_on_a_foreign_bridge_is_not_nspawns() -> None:
    # nspawn maps a port of all addresses at once.
    files = render_machine(machine(publish=(Publish(8080, 80, "192.0.2.1"),)), placed(networks={}, addresses={}))
    assert values(files, paths.settings_file("web"), "Network", "Port") == []
