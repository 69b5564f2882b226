# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that asks a name server of its own, on loopback alone: machines ask it at their gateways."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.errors import TimedOut
from machines.host.facts import parse_local_dns
from machines.model.link import Attachment
from machines.model.observed import Host
from machines.operations.bridge import bridge_up
from machines.operations.observe import write_network
from machines.plan import steps
from machines.plan.machine import plan_machine
from machines.plan.names import name_servers
from machines.render import paths
from samples import NETWORK, edited, host_with, machine, nat_table, shown

KEY = "net/ipv4/conf/br0/route_localnet"
FILE = paths.bridge_sysctl_file("br0")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("nameserver 127.0.0.1\n", "127.0.0.1"),
        ("# dnsmasq\nsearch lan\nnameserver ::1\nnameserver 127.0.1.1\n", "127.0.1.1"),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", ""),
        ("nameserver ::1\n", ""),
        ("nameserver\nnameserver 127.0.0.1;drop\n", ""),
        # Where resolved does not run nobody listens there.
        ("nameserver 127.0.0.53\n", ""),
        ("", ""),
    ],
)
def test_server_of_the_hosts_own_is_the_one_it_asks_on_loopback_alone(text: str, server: str) -> None:
    assert parse_local_dns(text) == server


def test_machines_are_told_of_the_gateway_first() -> None:
    host = Host(local_dns="127.0.0.1", dns=("192.0.2.53",))
    assert name_servers(NETWORK, host) == ("10.64.7.1", "192.0.2.53")
    assert name_servers(NETWORK, dataclasses.replace(host, resolved=True)) == ("10.64.7.1",)
    # On a bridge of others the host has no address that machctl would know, and dns = false is not to be asked.
    for network in (None, dataclasses.replace(NETWORK, dns=False)):
        assert name_servers(network, host) == ("192.0.2.53",)


def test_host_that_gets_such_a_server_answers_for_it_and_forgets_it_again() -> None:
    web = machine()
    asking = dataclasses.replace(host_with(web), local_dns="127.0.0.1", dns=())
    plan = plan_machine(web, asking)
    assert f"write {FILE}" in shown(plan)
    assert f"set {KEY} to 1" in shown(plan)
    texts = {step.path: step.text for step in plan if isinstance(step, steps.WriteFile)}
    assert "DNS=10.64.7.1\n" in texts[paths.guest_network_file("web", "host0")]
    rules = texts[f"{paths.NAT_DIRECTORY}/bridge-br0.nft"]
    assert 'iifname "br0" ip daddr 10.64.7.1 udp dport 53 dnat ip to 127.0.0.1' in rules
    # A reply finds its way only from whom the host itself could have been, and most servers answer nobody else.
    assert "ct status dnat snat ip to 127.0.0.1" in rules
    # Killed in between, the next run sets what the kernel has not.
    kept = host_with(web, local_dns="127.0.0.1", dns=())
    kept = dataclasses.replace(kept, files={**kept.files, **texts}, nat=nat_table({**kept.files, **texts}))
    assert shown(plan_machine(web, kept)) == [f"set {KEY} to 1"]
    had = dataclasses.replace(edited(host_with(web), FILE, texts[FILE]), localnet=frozenset({"br0"}))
    assert shown(plan_machine(web, had)) == [f"remove {FILE}"]


def test_links_that_nspawn_makes_are_told_when_it_has() -> None:
    zone = machine(bridges=(), links=(Attachment("zone", "lab"),))
    dropin = next(
        step.text
        for step in plan_machine(zone, host_with())
        if isinstance(step, steps.WriteFile) and step.path == paths.dropin_file("web")
    )
    assert f"systemd-sysctl {paths.bridge_sysctl_file('vz-lab')}" in dropin


class BridgeHost(FakeHost):
    """A host whose networkd made br0, and gave it its address or did not."""

    def __init__(self, *, addressed: bool) -> None:
        super().__init__()
        self.set: dict[str, int] = {}
        self.files.texts |= {
            paths.network_record("br0"): write_network(NETWORK),
            f"{paths.NETWORK_DIRECTORY}/70-machctl-br0.netdev": "",
            FILE: f"# machctl: bridge br0\n-{KEY} = 1\n",
        }
        self.bridges = host_with().links | {}
        if addressed:
            self.subnets["br0"] = NETWORK.subnet, None
        self.facts.set_sysctl = self.set.__setitem__
        self.links = SimpleNamespace(wait_until=self.wait)

    def wait(self, found: Any, *, timeout: float, what: str) -> None:
        if not found():
            raise TimedOut(f"{what} did not come")


def test_bridge_routes_what_is_for_the_server_from_its_start_on() -> None:
    host = BridgeHost(addressed=True)
    bridge_up("br0", host)
    assert host.set[KEY] == 1
    assert host.done == []


def test_addresses_that_somebody_took_from_a_bridge_networkd_gives_back() -> None:
    host = BridgeHost(addressed=False)
    bridge_up("br0", host)
    assert host.done == ["networkctl reconfigure"]
