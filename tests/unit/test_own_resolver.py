# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that asks a name server of its own, on loopback alone: machines ask it at their gateways."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv6Network
from types import SimpleNamespace
from typing import Any

import pytest

from acting import apply, declare
from fakes import FakeHost
from machines.declare.fleet import FLEET_FILE
from machines.errors import TimedOut
from machines.host.facts import parse_local_dns
from machines.model.link import Attachment
from machines.model.machine import Publish
from machines.model.network import Network
from machines.model.observed import Host
from machines.operations import fleetplan
from machines.operations.bridge import bridge_up
from machines.operations.records import write_network
from machines.plan import steps
from machines.plan.machine import plan_machine
from machines.plan.names import name_servers
from machines.render import paths
from machines.render.networks import render_bridge
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
        # Docker's, in a container: it listens on another port.
        ("nameserver 127.0.0.11\n", ""),
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
    # Not as 127.0.0.1, which servers take for the host itself.
    assert "ct status dnat snat ip to 127.0.0.2" in rules
    assert "snat ip to 127.0.0.1" not in rules
    # Not before nft keeps machines from all else there.
    assert shown(plan).index(f"set {KEY} to 1") > shown(plan).index("load the nft table inet machctl")
    # Killed in between, the next run sets what the kernel has not.
    kept = host_with(web, local_dns="127.0.0.1", dns=())
    kept = dataclasses.replace(kept, files={**kept.files, **texts}, nat=nat_table({**kept.files, **texts}))
    assert shown(plan_machine(web, kept)) == [f"set {KEY} to 1"]
    had = dataclasses.replace(edited(host_with(web), FILE, texts[FILE]), localnet=frozenset({"br0"}))
    assert shown(plan_machine(web, had)) == [f"set {KEY} to 0", f"remove {FILE}"]
    # A port that is published on 127.0.0.1 needs it as well.
    port = {paths.sysctl_file("db"): f"-{KEY} = 1\n"}
    had = dataclasses.replace(had, files={**had.files, **port})
    assert shown(plan_machine(web, had)) == [f"remove {FILE}"]


def test_machine_that_publishes_port_53_is_asked_before_the_hosts_own_server() -> None:
    hole = machine(publish=(Publish(53, 53, None, "udp", 1),))
    files = host_with(hole, local_dns="127.0.0.1", dns=()).files
    texts = render_bridge(NETWORK, networkd=True, dns=(), local_dns="127.0.0.1")
    assert "inet machctl prerouting meta" in files[f"{paths.NAT_DIRECTORY}/machine-web.nft"]
    rules = texts[f"{paths.NAT_DIRECTORY}/bridge-br0.nft"]
    assert rules.count("inet machctl resolver iifname") == 2
    assert "machctl prerouting" not in rules
    # Of chains of NAT the kernel goes by the first that has an answer; dstnat is -100.
    chain = texts[paths.NAT_FILE].partition("chain resolver {")[2].partition("}")[0]
    assert "hook prerouting priority -99;" in chain


def test_nothing_but_machctl_sets_what_nft_has_to_guard() -> None:
    assert not FILE.startswith(paths.SYSCTL_DIRECTORY)


def test_links_that_nspawn_makes_are_told_when_it_has() -> None:
    zone = machine(bridges=(), links=(Attachment("zone", "lab"),))
    dropin = next(
        step.text
        for step in plan_machine(zone, host_with())
        if isinstance(step, steps.WriteFile) and step.path == paths.dropin_file("web")
    )
    file = paths.bridge_sysctl_file("vz-lab")
    assert f"! nft list chain inet machctl guard >/dev/null || /usr/lib/systemd/systemd-sysctl {file}" in dropin


def test_bridge_is_told_once_and_again_after_it_forgot() -> None:
    host, kernel = FakeHost(), dict[str, int]()
    host.facts.local_dns, host.facts.dns = (lambda: "127.0.0.1"), (lambda: ())
    host.facts.sysctl, host.facts.set_sysctl = kernel.get, kernel.__setitem__
    host.files.texts[FLEET_FILE] = "[networks.br0]\n"
    declare(host, "web", 'bridges = ["br0"]')

    def planned() -> list[str]:
        plans = fleetplan.fleet_plan([], host, verb="plan").plans.values()
        return [str(step) for plan in plans for step in plan if not isinstance(step, steps.EnableUnit)]

    assert planned().count(f"set {KEY} to 1") == 1
    apply(host)
    assert planned() == []
    host.nat = ""
    kernel.clear()
    assert planned() == ["load the nft table inet machctl", f"set {KEY} to 1"]


class BridgeHost(FakeHost):
    """A host whose networkd made br0, and gave it its addresses, that of IPv4 alone, or none."""

    def __init__(self, *, addressed: bool, network: Network = NETWORK) -> None:
        super().__init__()
        self.nat = nat_table(host_with(machine()).files)
        self.set: dict[str, int] = {}
        self.files.texts |= {
            paths.network_record("br0"): write_network(network),
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


@pytest.mark.parametrize("table", ["", "table inet machctl {\n\tchain guard {\n\t}\n}\n"])
def test_bridge_routes_nothing_to_the_host_itself_that_nft_does_not_guard(table: str) -> None:
    host = BridgeHost(addressed=True)
    host.nat = table
    bridge_up("br0", host)
    assert KEY not in host.set


@pytest.mark.parametrize(("ipv6", "done"), [(True, ["networkctl reconfigure"]), (False, [])])
def test_ipv6_address_that_somebody_took_from_a_bridge_networkd_gives_back(done: list[str], *, ipv6: bool) -> None:
    host = BridgeHost(addressed=True, network=dataclasses.replace(NETWORK, subnet6=IPv6Network("fd00:7::/64")))
    host.facts.ipv6_enabled = lambda: ipv6
    host.facts.forward_ipv6 = lambda: None
    bridge_up("br0", host)
    assert host.done == done


def test_mtu_that_somebody_changed_is_set_again() -> None:
    host = BridgeHost(addressed=True, network=dataclasses.replace(NETWORK, mtu=1500))
    host.bridges["br0"] = dataclasses.replace(host.bridges["br0"], mtu=1400)
    bridge_up("br0", host)
    assert host.done == ["ip link"]
    host.bridges["br0"] = dataclasses.replace(host.bridges["br0"], mtu=1500)
    bridge_up("br0", host)
    assert host.done == ["ip link"]


def test_addresses_that_somebody_took_from_a_bridge_networkd_gives_back() -> None:
    host = BridgeHost(addressed=False)
    bridge_up("br0", host)
    assert host.done == ["networkctl reconfigure"]
