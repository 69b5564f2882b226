# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a machine's links this host cannot make, found before anything is."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.links import OUTSIDE, format_link, owned_on_links
from machines.errors import Conflict, MachctlError, NotFound, Unsupported
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.names import link_network
from machines.model.observed import Host
from machines.plan.owned import on_same_link

RENAMED = 254
"""The version of systemd from which on MACVLAN=, IPVLAN= and Interface= take a name (systemd.nspawn(5))."""


def check_links(machine: Machine, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what keeps a machine's links from being made."""
    errors = _check_neighbours(machine, declared)
    for link in machine.links:
        if link.kind in OUTSIDE:
            errors += _check_parent(machine.name, link, host)
        elif link.kind != "veth":
            errors += _check_bridge(machine, link, host)
    return errors


def _check_neighbours(machine: Machine, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """What another machine on the same link has already: on networks of machctl's that is seen from its records."""
    return [
        Conflict(
            f"link {format_link(link)!r} of {machine.name}: machine {name} has {what} there",
            hint="give one of the two another",
        )
        for _, link, what in owned_on_links(machine)
        for name in on_same_link(link, what, declared)
        if name != machine.name
    ]


def _check_parent(name: str, link: Attachment, host: Host) -> list[MachctlError]:
    """An interface of the host; one that was moved into the machine is away as long as that runs."""
    if link.name and 0 < host.systemd < RENAMED:
        return [
            Unsupported(
                f"link {format_link(link)!r} of {name}: systemd {host.systemd} gives a {link.kind} no other name",
                hint=f"leave name= out; systemd {RENAMED} can",
            )
        ]
    if link.target in host.links or name in host.running:
        return []
    there = ", ".join(sorted(other for other in host.links if other != "lo"))
    return [
        NotFound(
            f"link {format_link(link)!r} of {name}: this host has no interface {link.target}", hint=f"it has {there}"
        )
    ]


def _check_bridge(machine: Machine, link: Attachment, host: Host) -> list[MachctlError]:
    bridge = link_network(link, machine.name) or ""
    there = host.links.get(bridge)
    if there and there.kind != "bridge":
        article = "an" if there.kind[:1] in "aeiou" and there.kind else "a"
        return [
            Conflict(
                f"{bridge} is not a bridge, it is {article} {there.kind or 'physical'} link",
                hint="give --bridge another name",
            )
        ]
    if link.vlan is not None:
        return _check_vlan(bridge, link, host)
    return [
        Conflict(
            f"address {address} of {machine.name}: bridge {bridge} is not machctl's, which does not know its subnet",
            hint=f"say how long its prefix is, as in {address}/{64 if ':' in address else 24}",
        )
        for address in link.addresses
        if there and bridge not in host.networks and "/" not in address
    ]


def _check_vlan(bridge: str, link: Attachment, host: Host) -> list[MachctlError]:
    there = host.links.get(bridge)
    known = [there] if there else [other for other in host.links.values() if other.kind == "bridge"]
    if known and all(other.vlans is None for other in known):
        return [
            Unsupported(
                f"link {format_link(link)!r}: the kernel of this host keeps no VLANs of bridges apart",
                hint="CONFIG_BRIDGE_VLAN_FILTERING is off in it; use a bridge for each network",
            )
        ]
    if there and bridge not in host.networks and not there.vlans:
        return [
            Conflict(
                f"link {format_link(link)!r}: bridge {bridge} does not keep VLANs apart, and machctl did not make it",
                hint=f"ip link set {bridge} type bridge vlan_filtering 1",
            )
        ]
    return []
