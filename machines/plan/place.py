# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which networks and addresses a declared machine gets on this host."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import partial

from machines.errors import Conflict
from machines.model.base import Payload
from machines.model.frozen import replace
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.names import link_network
from machines.model.network import (
    PREFIXES,
    DeclaredNetwork,
    Network,
    choose_address,
    choose_address6,
    refused_address,
)
from machines.model.observed import Host
from machines.plan.names import name_servers, search_domain
from machines.plan.networks import resolve
from machines.plan.owned import Taken, new_network, taken_on
from machines.plan.storage import storage_of, uid_of
from machines.render.placement import Placement


def place(machine: Machine, host: Host, *, payload: Payload | None = None, storage: str | None = None) -> Placement:
    """Give ``machine`` its networks: those it has stay as they are, new ones are taken from what is free.

    A bridge that is there and that machctl did not make is left out: it is used as it is. ``payload`` is what a tree
    that is yet to be made runs in place of an init, ``storage`` the driver it will be kept by. Raises Conflict when
    subnets or addresses have run out, and for a chosen address that cannot be had.
    """
    networks: dict[str, Network] = {}
    addresses: dict[str, str] = {}
    addresses6: dict[str, str] = {}
    own = host.records.get(machine.name)
    storage = storage or storage_of(machine, host)
    for link in machine.links:
        name = link_network(link, machine.name)
        if name is None:
            continue
        network = networks.get(name) or host.networks.get(name)
        if network is None:
            if (name in host.links and link.kind != "veth") or (own and name in own.foreign):
                continue
            if networks or link.addresses:
                network = _new_network(name, link, host, networks)
            else:
                # The same for all machines whose first one it is: they are checked before anybody has it.
                network = new_network(name, link.kind, host, partial(_new_network, name, link, host, {}))
        networks[name] = network
        if link.vlan is None:
            _address(machine.name, link, network, host, addresses, addresses6)
    # That of the default route: all others are told of to their own neighbours alone.
    first = next((networks[bridge] for bridge in addresses), None)
    return Placement(
        networks=networks,
        addresses=addresses,
        addresses6=addresses6,
        dns=name_servers(first, host),
        domain=search_domain(first, host),
        idmap_paths=host.idmap_paths,
        devices=host.devices,
        secrets=host.secrets,
        nspawn=host.nspawn,
        ipv6_loopback=host.ipv6_loopback,
        networkd=host.networkd,
        storage=storage,
        uid=uid_of(machine, host, storage),
        payload=own.payload if own and machine.name in host.trees else payload,
    )


def _new_network(name: str, link: Attachment, host: Host, others: Mapping[str, Network]) -> Network:
    """A network that nobody declared, with the subnets of the addresses that are chosen in it."""
    there = [*host.networks.values(), *others.values()]
    chosen = [] if link.vlan is not None else [ipaddress.ip_interface(address) for address in link.addresses]
    subnets = {found.version: _subnet(found) for found in chosen}
    for wanted in subnets.values():
        least, most = PREFIXES[wanted.version]
        if not least <= wanted.prefixlen <= most:
            raise Conflict(
                f"network {name} would have the subnet {wanted}, with a prefix of {wanted.prefixlen} bits",
                hint=f"choose an address with one between {least} and {most}, or none and it gets a free one",
            )
    taken: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [*host.routes, *host.routes6]
    taken += [subnet for network in there for subnet in (network.subnet, network.subnet6) if subnet]
    for wanted in subnets.values():
        other = next((one for one in taken if one.version == wanted.version and wanted.overlaps(one)), None)
        if other is not None:
            raise Conflict(
                f"network {name} would have the subnet {wanted}, and {_whose(other, host, others)} has {other}",
                hint="choose an address elsewhere with --ip, or none and it gets a free one",
            )
    declared = DeclaredNetwork(
        name,
        subnet=subnets.get(4),  # type: ignore[arg-type]
        subnet6=subnets.get(6),  # type: ignore[arg-type]
        # There is nobody on a veth but the machine.
        dhcp=link.kind != "veth",
    )
    return replace(resolve(declared, host, others.values()), kind=link.kind)


def _subnet(
    found: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The subnet of a chosen address: as its prefix says, else as those are that machctl chooses."""
    if found.network.prefixlen < found.max_prefixlen:
        return found.network
    return ipaddress.ip_network(f"{found.ip}/{24 if found.version == 4 else 64}", strict=False)


def _whose(subnet: object, host: Host, others: Mapping[str, Network]) -> str:
    for network in [*host.networks.values(), *others.values()]:
        if subnet in {network.subnet, network.subnet6}:
            return f"network {network.bridge}"
    return "a route of this host"


def _address(
    name: str, link: Attachment, network: Network, host: Host, addresses: dict[str, str], addresses6: dict[str, str]
) -> None:
    """Put the addresses of a link into ``addresses`` and ``addresses6``: those chosen, those it has, or free ones."""
    bridge, own = network.bridge, host.records.get(name)
    had, had6 = (own.addresses.get(bridge), own.addresses6.get(bridge)) if own else (None, None)
    fits = had is not None and ipaddress.IPv4Address(had) in network.subnet
    fits6 = had6 is not None and network.subnet6 is not None and ipaddress.IPv6Address(had6) in network.subnet6
    has_all = fits and (fits6 or network.subnet6 is None)
    # What it has nobody else was given.
    used, used6 = _used(bridge, name, host) if link.addresses or not has_all else ({}, {})
    chosen = {6 if ":" in text else 4: _chosen(text, name, network, {**used, **used6}) for text in link.addresses}
    if 4 in chosen:
        addresses[bridge] = chosen[4]
    elif had and fits:
        addresses[bridge] = had
    else:
        addresses[bridge] = choose_address(network, used)
    if network.subnet6 is None:
        return
    if 6 in chosen:
        addresses6[bridge] = chosen[6]
    elif had6 and fits6:
        addresses6[bridge] = had6
    else:
        found = choose_address6(network, addresses[bridge], used6)
        if found is not None:
            addresses6[bridge] = found


def _used(bridge: str, name: str, host: Host) -> Taken:
    """Give what others than machine ``name`` have on a bridge."""
    if name in host.records:
        # An address of its own may be that of another one as well, by a record that somebody copied.
        return taken_on(bridge, {other: record for other, record in host.records.items() if other != name})
    return taken_on(bridge, host.records)


def _chosen(text: str, name: str, network: Network, used: Mapping[str, str]) -> str:
    """A chosen address, if the machine can have it. Raises Conflict."""
    found = ipaddress.ip_interface(text)
    subnet = network.subnet if found.version == 4 else network.subnet6
    address, what = str(found.ip), f"address {found.ip} of machine {name}"
    if refused := refused_address(text, network.bridge, subnet):
        raise Conflict(f"{what}: {refused[0]}", hint=refused[1])
    if address in used:
        raise Conflict(
            f"{what} belongs to machine {used[address]}", hint="choose another one, or none and it gets a free one"
        )
    return address
