# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules of the nft table inet machctl as text (nft(8)); the chains they stand in are in templates/nat.nft.j2."""

from __future__ import annotations

from collections.abc import Iterable

from machines.model.ids import spread
from machines.model.machine import Machine
from machines.model.network import Network
from machines.model.publish import Egress
from machines.render.links import wires
from machines.render.placement import Placement

# A bit that nobody is known to use. With br_netfilter, as Docker loads it, what one machine sends to a published port
# of its neighbour is bridged, and the chain of bridges has to know that the one of inet has let it pass.
HAIRPIN_MARK = "0x01000000"

REFUSE = "goto refuse"

# The host's own as all of 127.0.0.0/8 is, but not what name servers take for the host itself: BIND's "localhost".
ASKING = "127.0.0.2"

BASE = (
    # Only where UDP or a range is published on 127.0.0.1, or the host's name server listens there alone, does a bridge
    # route that at all (route_localnet in the kernel's ip-sysctl.rst); nobody but the host itself may use it. Whoever
    # flushes all tables takes this guard away until they are loaded again: machctl-nat-again.service does so behind
    # nftables.service, after a flush by hand "systemctl restart machctl-nat" has to.
    "inet machctl guard ip daddr 127.0.0.0/8 iifname @networks drop",
    "inet machctl guard ip saddr 127.0.0.0/8 iifname @networks drop",
    "inet machctl postrouting ip saddr 127.0.0.0/8 oifname @networks ct status dnat masquerade",
    "inet machctl input ct state established,related accept",
    "inet machctl input jump restricted",
    "inet machctl forward iifname @networks oifname @networks ct status dnat "
    f"meta mark set meta mark or {HAIRPIN_MARK}",
    "inet machctl forward ct state established,related accept",
    "inet machctl forward jump restricted",
    "inet machctl forward ct status dnat accept",
    "inet machctl forward jump isolated",
    "inet machctl forward jump reach",
    "inet machctl forward jump sealed",
    f"inet machctl forward iifname @networks oifname @networks {REFUSE}",
    # Of ICMP messages the kernel sends few to each client (icmp_ratelimit in its ip-sysctl.rst).
    "inet machctl refuse meta l4proto tcp reject with tcp reset",
    "inet machctl refuse reject with icmpx admin-prohibited",
    # Without these no machine finds its gateway.
    "inet machctl restricted icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
)


def stamped(owner: str, rules: Iterable[str]) -> list[str]:
    """Give rules as nft(8) reads them, each with a comment that no other rule has: nft prints that as it is."""
    return [f'add rule {rule} comment "{owner}-{spread(rule):08x}"' for rule in rules]


def network_rules(network: Network) -> list[str]:
    """Give what a network's packets may do: leave with the host's address, as they are, or not at all."""
    bridge = f'"{network.bridge}"'
    rules = [f"inet machctl reach iifname {bridge} oifname {bridge} accept"]
    rules += [f'inet machctl reach iifname {bridge} oifname "{other}" accept' for other in network.reach]
    if network.mode == "isolated":
        rules += [f"inet machctl sealed {way} {bridge} {REFUSE}" for way in ("iifname", "oifname")]
    for family, subnet in (("ip", network.subnet), ("ip6", network.subnet6)):
        if subnet is None:
            continue
        if network.mode == "nat":
            rules.append(
                f"inet machctl postrouting {family} saddr {subnet} {family} daddr != {subnet} "
                "oifname != @networks masquerade"
            )
        # A machine that calls a published port gets the answer from the host it called, not from its neighbour.
        rules.append(
            f"inet machctl postrouting {family} saddr {subnet} {family} daddr {subnet} ct status dnat masquerade"
        )
    return rules


def resolver_rules(network: Network, server: str) -> list[str]:
    """Give what has a server of the host's own, on 127.0.0.0/8, answer at the gateway of a network.

    It is asked from ASKING: most answer nobody else, and a reply has to find its way back from there. A machine that
    publishes port 53 is asked before it: the chain comes behind that of published ports.
    """
    rules = []
    for protocol in ("udp", "tcp"):
        asked = f"{protocol} dport 53"
        rules.append(
            f'inet machctl resolver iifname "{network.bridge}" ip daddr {network.gateway} {asked} dnat ip to {server}'
        )
        rules.append(
            f'inet machctl local iifname "{network.bridge}" ip daddr {server} {asked} ct status dnat '
            f"snat ip to {ASKING}"
        )
    return rules


def restrictions(machine: Machine, placement: Placement) -> list[str]:
    """Give the rules that keep a machine from what it may not reach, and others from it; none for most machines.

    A machine can give itself any address, so the bridge lets it send from its own only.
    """
    if not machine.restricted:
        return []
    rules = []
    for wire in wires(machine, placement):
        if wire.network is None:
            continue
        port = f'"{wire.outer}"'
        # On a bridge it is its addresses that tell it from the others; a veth is its own.
        own = [("ip6" if ":" in address else "ip", address.split("/")[0]) for address in wire.addresses]
        mine = [(f"{family} saddr {address}", f"{family} daddr {address}") for family, address in own]
        if not wire.bridge:
            mine = [(f"iifname {port}", f"oifname {port}")]
        for source, destination in mine:
            rules += [f"inet machctl restricted {source} {destination} accept"]
            rules += [f"inet machctl restricted {source} {ports} accept" for ports in _allowed(machine.egress or ())]
            rules += [f"inet machctl restricted {source} {REFUSE}"]
            rules += [f"inet machctl isolated {destination} {REFUSE}"] if machine.isolated else []
        if wire.bridge:
            rules += _bridged(port, dict(own), machine)
    return rules


def _bridged(port: str, own: dict[str, str], machine: Machine) -> list[str]:
    """What never comes to the host's IP: frames from one port of a bridge to another."""
    entry = f"bridge machctl prerouting iifname {port}"
    rules = [
        f"{entry} meta protocol != {{ arp, ip, ip6 }} drop",
        f"{entry} ip saddr != {own['ip']} drop",
        f"{entry} arp saddr ip != {{ {own['ip']}, 0.0.0.0 }} drop",
        f"{entry} ip6 saddr != {{ {own['ip6'] + ', ' if 'ip6' in own else ''}::, fe80::/10 }} drop",
        f"{entry} ip6 saddr {{ ::, fe80::/10 }} meta l4proto != ipv6-icmp drop",
    ]
    way = f"bridge machctl forward iifname {port}"
    if machine.isolated:
        passed = f"meta mark and {HAIRPIN_MARK} == {HAIRPIN_MARK} accept"
        return [
            *rules,
            f"{way} {passed}",
            f"bridge machctl forward oifname {port} {passed}",
            f"{way} drop",
            f"bridge machctl forward oifname {port} drop",
        ]
    # No connections are tracked here: what is no first packet of TCP is an answer, of UDP nothing is known to be.
    tcp, udp = (_set(machine.egress or (), protocol) for protocol in ("tcp", "udp"))
    return [
        *rules,
        f"{way} tcp flags & (syn | ack) == syn {f'tcp dport != {tcp} ' if tcp else ''}drop",
        f"{way} meta l4proto udp {f'udp dport != {udp} ' if udp else ''}drop",
        f"{way} meta protocol {{ ip, ip6 }} meta l4proto != {{ tcp, udp, icmp, ipv6-icmp }} drop",
    ]


def _allowed(egress: tuple[Egress, ...]) -> list[str]:
    sets = [(protocol, _set(egress, protocol)) for protocol in ("tcp", "udp")]
    return [f"{protocol} dport {ports}" for protocol, ports in sets if ports]


def _set(egress: tuple[Egress, ...], protocol: str) -> str:
    """Ports as a set of nft's, which refuses ranges that overlap in one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((each.first, each.last) for each in egress if each.protocol == protocol):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    words = [str(first) if first == last else f"{first}-{last}" for first, last in merged]
    return f"{{ {', '.join(words)} }}" if words else ""
