# SPDX-License-Identifier: LGPL-2.1-or-later
"""What networks of machines need of this host, whichever machine is on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from machines.model.frozen import replace
from machines.model.names import bridge_unit
from machines.model.network import Network
from machines.operations.doctor import forward
from machines.operations.doctor.finding import Finding
from machines.operations.doctor.links import gateway_of
from machines.operations.doctor.look import HostLook
from machines.operations.doctor.manager import examine_network_manager
from machines.operations.doctor.verdict import Packet

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Where the first machine would go.
_FIRST = "br0"


def examine_networking(host: Host) -> list[Finding]:
    """Look at who makes bridges and who is asked for names."""
    if not host.booted():
        return []
    states = host.units.states(["systemd-networkd.service", "systemd-resolved.service"])
    networkd = states.get("systemd-networkd.service") == "active"
    found = [
        Finding("networkd", "ok", "systemd-networkd runs: it makes the bridges")
        if networkd
        else Finding("networkd", "ok", "systemd-networkd does not run: machctl makes the bridges")
    ]
    own = host.facts.local_dns()
    if states.get("systemd-resolved.service") != "active" and own:
        found.append(Finding("dns", "ok", f"machines are told of their gateways, where {own} of this host answers"))
    elif host.facts.dns():
        found.append(Finding("dns", "ok", f"machines are told of {', '.join(host.facts.dns())}"))
    else:
        found.append(
            Finding(
                "dns",
                "warning",
                "the host has no name server that machines could ask: they get none",
                "name one in /etc/resolv.conf, or run systemd-resolved",
            )
        )
    return found


def examine_networks(host: Host) -> list[Finding]:
    """Look at the networks that machctl made: forwarding, their bridges, the nft table, other firewalls."""
    look = HostLook(host)
    networks = look.networks
    if not networks:
        forwarded = host.facts.sysctl("net.ipv4.ip_forward") == 1
        text = "IPv4 is forwarded" if forwarded else "IPv4 is not forwarded yet; the first bridge turns it on"
        return [Finding("forwarding", "ok", text), *_firewalls([], look)]
    there = [network.bridge for network in networks.values() if network.bridge in look.links]
    ipv6 = any(network.subnet6 for network in networks.values())
    found = [_milder(each) for each in forward.look_at_forwarding(there, look, ipv6=ipv6)]
    if os.geteuid() == 0 and host.tools.which("nft") and host.tools.which("unshare"):
        found.append(_milder(forward.look_at_nat(host)))
    found += [*_bridges(look), *examine_network_manager(look)]
    return [*found, *_firewalls(list(networks.values()), look)]


def _milder(finding: Finding) -> Finding:
    """Machines run without a network: to the host as a whole it is a warning."""
    return replace(finding, level="warning") if finding.level == "bad" else finding


def _bridges(look: HostLook) -> list[Finding]:
    """Those that their units brought up: the others come with the first machine on them."""
    units = {bridge_unit(network.bridge): network for network in look.networks.values()}
    states = look.host.units.states(list(units)) if look.host.booted() else {}
    up = [network for unit, network in units.items() if states.get(unit) == "active" and network.kind == "bridge"]
    found = [gateway_of(network, look) for network in up]
    wrong = [_milder(finding) for finding in found if finding.level != "ok"]
    if wrong or not up:
        return wrong
    return [Finding("bridge", "ok", f"bridges are up: {', '.join(network.bridge for network in up)}")]


def _firewalls(networks: Sequence[Network], look: HostLook) -> list[Finding]:
    devices = [network.bridge for network in networks] or [_FIRST]
    found: dict[str, Finding] = {}
    for packet in _forwarded(networks, look):
        for verdict in look.ruleset.verdicts("forward", packet):
            if verdict.word != "accept" and (verdict.base.family, verdict.base.table) != forward.OWN_TABLE:
                finding = forward.dropped(verdict, "what machines send out", devices, packet, look)
                found.setdefault(str(verdict.base), _milder(finding))
    found |= {finding.message: _milder(finding) for finding in forward.legacy_drops(devices[0], look)}
    return list(found.values()) or [Finding("firewall", "ok", "nothing drops what the host forwards")]


def _forwarded(networks: Sequence[Network], look: HostLook) -> Iterator[Packet]:
    if not networks:
        for uplink in look.uplinks["ip"]:
            yield Packet("ip", _FIRST, uplink, "10.64.0.2", forward.OUTSIDE["ip"], "tcp", 443)
    for network in networks:
        for family, subnet in (("ip", network.subnet), ("ip6", network.subnet6)):
            if subnet is not None and network.mode != "isolated":
                for uplink in look.uplinks[family]:
                    yield Packet(family, network.bridge, uplink, str(subnet[2]), forward.OUTSIDE[family], "tcp", 443)
