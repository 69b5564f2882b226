# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's links as nspawn is told of them, and what ip(8) has to do about those that it leaves half done."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.model.link import Attachment, inner_names, outer_numbers
from machines.model.machine import Machine
from machines.model.names import IFNAMSIZ, extra_link, link_network, own_link
from machines.model.network import Network
from machines.render.paths import bridge_sysctl_file
from machines.render.placement import Placement

LINK_SETTINGS = ("VirtualEthernet", "Bridge=", "Zone=", "MACVLAN=", "IPVLAN=", "Interface=")
"""What the lines begin with that network_settings() gives."""


@dataclass(frozen=True)
class Wire:
    """One link, placed: ``inner`` is its name in the machine, ``outer`` that of its other end on the host, if any.

    ``number`` is what ``outer`` is told apart by: see outer_numbers(). ``primary`` is the one that nspawn makes of
    VirtualEthernet=yes. ``addresses`` have their prefixes; without any the machine asks for some by DHCP. ``default``
    is set for the link that has the default route.
    """

    link: Attachment
    inner: str
    outer: str
    number: int
    primary: bool
    network: Network | None
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    default: bool

    @property
    def bridge(self) -> str:
        """The bridge that its outer end is a port of, "" for none."""
        return "" if self.link.kind == "veth" else link_network(self.link, "") or ""

    @property
    def mac(self) -> str | None:
        """Its MAC address, where that was chosen or goes with its address in a network of machctl's.

        Whoever gets the address of a machine that was removed gets its MAC address too: the neighbours remember both,
        and ask nobody anew for half a minute (arp(7)).
        """
        if self.link.mac or not (self.network and self.addresses):
            return self.link.mac
        address, *_ = self.addresses
        parts = address.partition("/")[0].split(".")
        return "02:6d:" + ":".join(f"{int(part):02x}" for part in parts) if len(parts) == 4 else None

    @property
    def mtu(self) -> int | None:
        """The greatest packet in bytes that its network takes, where that was chosen."""
        return self.network.mtu if self.network else None

    @property
    def by_networkd(self) -> bool:
        """Tell whether systemd's own 80-container-host0.network is all it takes inside."""
        return self.inner == "host0" and not self.addresses and self.link.mac is None and self.default


def wires(machine: Machine, placement: Placement) -> list[Wire]:
    """Give the links of a machine in their order."""
    found: list[Wire] = []
    primary = default = False
    names = inner_names(machine.links)
    for link, inner, number in zip(machine.links, names, outer_numbers(names), strict=True):
        name = link_network(link, machine.name)
        network = placement.networks.get(name) if name else None
        addresses, gateways = _addresses(link, None if link.vlan is not None else network, placement)
        first = not primary and _can_be_primary(machine, link, inner)
        route = not default and bool(gateways or not addresses)
        found.append(
            Wire(
                link,
                inner,
                _outer(machine.name, number, link, primary=first),
                number,
                first,
                network,
                addresses,
                gateways,
                route,
            )
        )
        primary, default = primary or first, default or route
    return found


def _addresses(
    link: Attachment, network: Network | None, placement: Placement
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The addresses of a link and its gateways."""
    if network is None:
        return link.addresses, (link.gateway,) if link.gateway else ()
    own, own6 = placement.addresses.get(network.bridge), placement.addresses6.get(network.bridge)
    addresses: tuple[str, ...] = (f"{own}/{network.prefix_length}",) if own else ()
    if own6 and network.subnet6:
        addresses += (f"{own6}/{network.subnet6.prefixlen}",)
    return addresses, network.gateways if own6 else (network.gateway,)


def _can_be_primary(machine: Machine, link: Attachment, inner: str) -> bool:
    """Tell whether VirtualEthernet=yes makes the link: inside it is host0 then, and outside what nspawn calls it.

    A port that is to be in a VLAN must not be one of the bridge before it is. A name that is too long for the kernel
    nspawn cuts and ends in a hash of its own: rules could not tell the link from that of a machine named alike. Where
    there are no rules nspawn makes it all the same: others it takes more to put into their bridges (early_command()).
    """
    if inner != "host0" or link.vlan is not None:
        return False
    if link.kind == "veth":
        return own_link(machine.name) == f"ve-{machine.name}"
    return link.kind in {"bridge", "zone"} and (not machine.restricted or len(f"vb-{machine.name}") <= IFNAMSIZ)


def _outer(name: str, number: int, link: Attachment, *, primary: bool) -> str:
    if link.kind == "veth":
        return own_link(name)
    if link.kind not in {"bridge", "zone"}:
        return ""
    # nspawn cuts a longer name and keeps all of it as an altname, which ip(8) takes as well.
    return f"vb-{name}" if primary else extra_link(name, number)


def network_settings(found: list[Wire]) -> list[str]:
    """Give the lines of systemd.nspawn(5)'s [Network] that make these links: nothing is left to a default."""
    primary = next((wire for wire in found if wire.primary), None)
    lines = [f"VirtualEthernet={'yes' if primary else 'no'}"]
    if primary and primary.link.kind != "veth":
        lines.append(f"{primary.link.kind.capitalize()}={primary.link.target}")
    keys = {"macvlan": "MACVLAN", "ipvlan": "IPVLAN", "interface": "Interface"}
    for wire in found:
        link = wire.link
        if link.kind in keys:
            lines.append(f"{keys[link.kind]}={link.target}" + (f":{link.name}" if link.name else ""))
        elif not wire.primary:
            lines.append(f"VirtualEthernetExtra={wire.outer}:{wire.inner}")
    return lines


def early_command(wire: Wire) -> str:
    """Give what puts a machine's first link into its bridge as soon as it is there, where nspawn does not; else "".

    One of a VLAN must not be in the bridge before it is in that. All others are no hurry.
    """
    hurry = wire.inner == "host0" and wire.bridge and not wire.primary and wire.link.vlan is None
    return _join(wire) if hurry else ""


def _join(wire: Wire) -> str:
    return f"ip link set {wire.outer} master {wire.bridge} up"


def outer_commands(wire: Wire) -> list[str]:
    """Give what has to be done to the host's end of a link after nspawn made it."""
    commands = _filtering(wire)
    if wire.bridge and not wire.primary:
        commands.append(_join(wire))
    commands += _vlan(wire, wire.outer)
    if wire.network and wire.mtu:
        commands.append(f"ip link set {wire.outer} mtu {wire.mtu}")
    if wire.network and wire.network.kind in {"veth", "zone"}:
        # nspawn makes these links, and takes them away when nobody is on them any more.
        outer = wire.outer if wire.network.kind == "veth" else wire.bridge
        # Links that are new on a host that forwards take what routers advertise (sysctl.py); a machine is none.
        commands.append(f"-/bin/sh -c 'echo 0 >/proc/sys/net/ipv6/conf/{outer}/accept_ra'")
        for address in wire.network.addresses:
            commands.append(f"ip address replace {address} dev {outer}{' nodad' if ':' in address else ''}")
        commands.append(f"ip link set {outer} up")
        sysctl = bridge_sysctl_file(outer)
        # Without that chain nothing would keep machines from the host's 127.0.0.0/8.
        open_ = "! nft list chain inet machctl guard >/dev/null"
        commands.append(f"-/bin/sh -c 'test ! -e {sysctl} || {open_} || /usr/lib/systemd/systemd-sysctl {sysctl}'")
    return commands


def hairpin_end(found: list[Wire]) -> str:
    """Give the host's end of the link that published ports lead to, where it is a port of a bridge; "" for none."""
    target = next((wire for wire in found if wire.network and wire.link.vlan is None), None)
    return target.outer if target and target.bridge else ""


def port_commands(wire: Wire, outer: str, *, hairpin: bool) -> tuple[str, ...]:
    """Give what makes ``outer``, the host's end of a link, again what it was as a port of the bridge it is back in."""
    commands = [*_filtering(wire), *_vlan(wire, outer)]
    if hairpin:
        # As its drop-in does it at the start.
        commands.append(f"-ip link set {outer} type bridge_slave hairpin on")
    return tuple(commands)


def _filtering(wire: Wire) -> list[str]:
    """A bridge of machctl's own that was made anew keeps no VLANs apart yet."""
    if wire.link.vlan is None or wire.network is None:
        return []
    return [f"ip link set {wire.bridge} type bridge vlan_filtering 1"]


def _vlan(wire: Wire, outer: str) -> list[str]:
    if wire.link.vlan is None:
        return []
    commands = [f"bridge vlan add dev {outer} vid {wire.link.vlan} pvid untagged"]
    return commands if wire.link.vlan == 1 else [*commands, f"bridge vlan del dev {outer} vid 1"]


def inner_commands(wire: Wire) -> list[str]:
    """Give what ip(8) has to do in a machine that has nothing inside to give its link its addresses."""
    inner, commands = wire.inner, list[str]()
    if wire.mac:
        commands.append(f"link set {inner} address {wire.mac}")
    if wire.mtu:
        commands.append(f"link set {inner} mtu {wire.mtu}")
    for address in wire.addresses:
        commands.append(f"addr replace {address} dev {inner}{' nodad' if ':' in address else ''}")
    if wire.addresses:
        commands.append(f"link set {inner} up")
    if wire.default:
        for gateway in wire.gateways:
            commands.append(f"{'-6 ' if ':' in gateway else ''}route replace default via {gateway}")
    return commands
