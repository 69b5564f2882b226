# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong with machines and networks taken together, each being right by itself: what only one can have."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

from machines.declare.links import owned_on_links, same_link
from machines.declare.ports import Published
from machines.declare.reader import Table, WrongKey
from machines.errors import MachctlError
from machines.model.frozen import NamedTuple
from machines.model.machine import Machine
from machines.model.names import link_network
from machines.model.network import DeclaredNetwork, refused_address

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_together(
    machines: Mapping[str, Machine],
    networks: Mapping[str, DeclaredNetwork],
    tables: Mapping[str, Table],
    errors: list[MachctlError],
) -> None:
    """Note all that is wrong with the machines and networks of files; ``tables`` are what machines were read from."""
    _check_subnets(machines, networks, tables, errors)
    _check_chosen(machines, tables)
    _check_fitting(machines, networks, tables)
    _check_ports(machines, tables)


class _Use(NamedTuple):
    """A subnet, what has it, the replicas that do, and how it is told that it cannot."""

    subnet: Subnet
    whose: str
    fail: Callable[[str], None]
    group: str = ""


def _check_subnets(
    machines: Mapping[str, Machine],
    networks: Mapping[str, DeclaredNetwork],
    tables: Mapping[str, Table],
    errors: list[MachctlError],
) -> None:
    """Subnets of networks, and of machines' own links to the host, that overlap."""
    uses = [_of_network(network, key, errors) for network in networks.values() for key in ("subnet", "subnet6")]
    for machine in machines.values():
        uses += [
            _of_veth(machine, index, address, tables[machine.name])
            for index, link in enumerate(machine.links)
            if link.kind == "veth"
            for address in link.addresses
        ]
    found = [(number, use) for number, use in enumerate(uses) if use is not None]
    # Subnets are apart or one in the other: whatever one overlaps begins before it, or with it.
    found.sort(key=lambda each: (each[1].subnet.version, int(each[1].subnet.network_address), each[1].subnet.prefixlen))
    around: list[tuple[int, _Use]] = []
    told: set[str] = set()
    for number, use in found:
        while around and not _within(use.subnet, around[-1][1].subnet):
            around.pop()
        if around:
            # The one that stands behind the other is told of it.
            (_, first), (_, last) = sorted([around[-1], (number, use)], key=lambda each: each[0])
            if not first.group or first.group != last.group:
                last.fail(f"{last.subnet} overlaps {first.subnet} of {first.whose}")
            elif first.group not in told:
                told.add(first.group)
                last.fail(f"{last.subnet} cannot be that of the veths of all replicas")
        around.append((number, use))


def _within(subnet: Subnet, other: Subnet) -> bool:
    return subnet.version == other.version and subnet.network_address in other


def _of_network(network: DeclaredNetwork, key: str, errors: list[MachctlError]) -> _Use | None:
    subnet: Subnet | None = getattr(network, key)
    if subnet is None:
        return None
    hint = "take another subnet, or leave it out and a free one is chosen"

    def fail(said: str) -> None:
        errors.append(WrongKey(network.origin, f"networks.{network.name}.{key}", said, hint))

    return _Use(subnet, f"network {network.name}, declared in {network.origin}", fail)


def _of_veth(machine: Machine, index: int, address: str, table: Table) -> _Use:
    def fail(said: str) -> None:
        own = ", with {index} for each of several" if machine.group else ""
        table.fail(_key(table, index), said, f"choose another address{own}, or none and it gets a free one")

    whose = f"the veth of {machine.name}, declared in {machine.origin}"
    return _Use(ipaddress.ip_interface(address).network, whose, fail, machine.group)


def _check_chosen(machines: Mapping[str, Machine], tables: Mapping[str, Table]) -> None:
    """Addresses and MAC addresses that two machines chose on the same network."""
    owners: dict[tuple[object, ...], Machine] = {}
    told: set[tuple[object, ...]] = set()
    for machine in machines.values():
        table = tables[machine.name]
        for index, link, what in owned_on_links(machine):
            where = same_link(link, what)
            owner = owners.setdefault(where, machine)
            if owner.name == machine.name or (machine.group, *where) in told:
                continue
            word = "MAC address" if what == link.mac else "address"
            if owner.group and owner.group == machine.group:
                told.add((machine.group, *where))
                hint = f"give each its own: {'mac' if what == link.mac else 'ip'}={_own(what)}"
                table.fail(_key(table, index), f"{word} {what} cannot be that of all replicas", hint)
            else:
                said = f"{word} {what} of {machine.name} is that of {owner.name} there, declared in {owner.origin}"
                table.fail(_key(table, index), said, "give one of the two another")


def _own(what: str) -> str:
    """Give an address, or a MAC address, with the index of a replica in it."""
    if "." in what:
        return f"{what.rpartition('.')[0]}.1{{index}}"
    # A MAC address has two digits at its end, and the first of an IPv6 network is the host's.
    mac = what.count(":") == 5 and "::" not in what
    return f"{what[:-1]}{'' if mac else '1'}{{index}}"


def _check_fitting(
    machines: Mapping[str, Machine], networks: Mapping[str, DeclaredNetwork], tables: Mapping[str, Table]
) -> None:
    """Addresses that are chosen on networks whose subnets they are not in, or where they are not a machine's."""
    told = set()
    for machine in machines.values():
        for index, link in enumerate(machine.links):
            network = networks.get(link_network(link, machine.name) or "")
            if network is None or link.vlan is not None:
                # An address in a VLAN is none of the network's.
                continue
            table = tables[machine.name]
            for address in link.addresses:
                four = ":" not in address
                subnet = network.subnet if four else network.subnet6
                if subnet is None and (four or network.ipv6):
                    # It is chosen once the network is made.
                    continue
                refused = refused_address(address, network.name, subnet)
                place = (machine.origin, table.path, index, address)
                if refused and place not in told:
                    told.add(place)
                    table.fail(_key(table, index), f"address {address.partition('/')[0]}: {refused[0]}", refused[1])


def _check_ports(machines: Mapping[str, Machine], tables: Mapping[str, Table]) -> None:
    """Ports that machines publish of which others publish them too."""
    taken, told = Published(), set()
    for machine in machines.values():
        table = tables[machine.name]
        for index, port in enumerate(machine.publish):
            others = [one for one, theirs in taken.near(port) if one is not machine and port.collides(theirs)]
            taken.add(machine, port)
            if not others or (machine.group, port) in told:
                continue
            if others[0].group and others[0].group == machine.group:
                told.add((machine.group, port))
                hint = 'give each its own: publish = ["808{index}:80"]'
                table.fail(f"publish[{index}]", f"port {port} cannot be that of all replicas", hint)
            else:
                said = f"port {port} of {machine.name} is one of {others[0].name}, declared in {others[0].origin}"
                table.fail(f"publish[{index}]", said, "publish another port of the host")


def _key(table: Table, index: int) -> str:
    """Give the key that a link of a machine stands in, by its number among all of them."""
    bridges = table.values.get("bridges")
    count = len(bridges) if isinstance(bridges, list) else 0
    return f"bridges[{index}]" if index < count else f"links[{index - count}]"
