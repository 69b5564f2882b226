# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports to the units and rules that make them answer: path to text."""

from __future__ import annotations

import ipaddress

from machines.model.frozen import dataclass
from machines.model.machine import Machine, Publish
from machines.model.names import link_network, machine_unit
from machines.render import paths
from machines.render.environment import render
from machines.render.placement import Placement
from machines.render.rules import restrictions, stamped

PROXY_IDLE_SECONDS = 60

CHAINS = ("prerouting", "output")
LOCAL4 = "127.0.0.1"
LOCAL6 = "[::1]"
_EVERY4 = "meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8"
_EVERY6 = "meta nfproto ipv6 fib daddr type local ip6 daddr != ::1"

_NO_LOOPBACK6 = "the kernel sends nothing from there to a machine, and a proxy passes on single TCP ports only"
_NO_PROXY = "a proxy passes on single TCP ports only"


@dataclass(frozen=True)
class Ways:
    """How a published port answers.

    A socket unit listens on ``listen`` and passes connections on. ``match4`` and ``match6`` are what nft sends to the
    machine instead, ``local`` what of it on the host's own 127.0.0.0/8. ``nspawn`` tells that nspawn maps it, which
    alone knows the machine's address then. ``lost`` says what does not answer and why, ``seen`` where the machine does
    not see who its clients are.
    """

    listen: tuple[str, ...] = ()
    match4: str = ""
    match6: str = ""
    local: str = ""
    nspawn: bool = False
    lost: tuple[str, ...] = ()
    seen: str = ""


def targets(machine: Machine, placement: Placement) -> tuple[str | None, str | None]:
    """Give the addresses that a machine's published ports lead to, of IPv4 and of IPv6; None where there is none."""
    for link in machine.links:
        network = link_network(link, machine.name)
        if network is not None and network in placement.addresses:
            return placement.addresses[network], placement.addresses6.get(network)
    return None, None


def ways(port: Publish, machine: Machine, placement: Placement) -> Ways:
    """Tell how a published port of ``machine`` answers.

    A machine that is started on demand is behind the proxy with its single TCP ports: what nft sends to it nobody
    would start it for, and nobody would know when the last connection ends.
    """
    target, target6 = targets(machine, placement)
    single = port.protocol == "tcp" and port.count == 1
    proxied = single and machine.on_demand
    if port.address is None:
        return _every(single, proxied, target, target6, ipv6=placement.ipv6_loopback)
    address = ipaddress.ip_address(port.address)
    shown = f"[{address}]" if address.version == 6 else str(address)
    if single and (proxied or address.is_loopback or not (target6 if address.version == 6 else target)):
        return Ways(listen=(shown,), seen=shown)
    if address.version == 6:
        if address.is_loopback:
            return Ways(lost=(f"{shown}: {_NO_LOOPBACK6}",))
        if target6 is None:
            return Ways(lost=(f"{shown}: the machine has no IPv6 address that machctl knows, and {_NO_PROXY}",))
        return Ways(match6=f"ip6 daddr {address}")
    if target is None:
        return Ways(lost=(f"{shown}: machctl does not know the machine's address, and {_NO_PROXY}",))
    return Ways(local=f"ip daddr {address}") if address.is_loopback else Ways(match4=f"ip daddr {address}")


def _every(single: bool, proxied: bool, target: str | None, target6: str | None, *, ipv6: bool) -> Ways:  # noqa: FBT001
    if proxied:
        return Ways(listen=("0.0.0.0", "[::]") if ipv6 else ("0.0.0.0",), seen="every address")
    lost = []
    if single:
        # No DNAT reaches the loopback addresses (systemd#6106).
        listen = (LOCAL4, *([LOCAL6 if target6 else "[::]"] if ipv6 else []))
    else:
        listen = ()
        lost += [f"{LOCAL6}: {_NO_LOOPBACK6}"] if ipv6 else []
        if target and not target6 and ipv6:
            lost.append("IPv6: the machine has no IPv6 address")
    if target is None:
        return Ways(listen=listen, nspawn=True, lost=tuple(lost), seen=" and ".join(listen))
    return Ways(
        listen=listen,
        match4=_EVERY4,
        match6=_EVERY6 if target6 else "",
        local="" if single else f"ip daddr {LOCAL4}",
        lost=tuple(lost),
        seen=" and ".join(listen),
    )


def port_files(machine: Machine, placement: Placement, *, header: str) -> dict[str, str]:
    """Give the units that listen on a machine's published ports, and what nft has to know of the machine."""
    files: dict[str, str] = {}
    found = {port: ways(port, machine, placement) for port in machine.publish}
    target = targets(machine, placement)[0]
    for port, way in found.items():
        if way.listen:
            files |= _units(port, way, machine, header=header, target=target or machine.name)
    if machine.on_demand:
        sockets = [path.rsplit("/", 1)[1] for path in files if path.endswith(".socket")]
        files[paths.sockets_file(machine.name)] = render("sockets.conf", header=header, sockets=sockets)
    if loopback := loopback_networks(machine, placement):
        files[paths.sysctl_file(machine.name)] = render(
            "sysctl.conf",
            header=header,
            links=loopback,
            what="ports that are published on 127.0.0.1 and that no proxy passes on",
        )
    rules = [rule for port, way in found.items() for rule in dnat_rules(port, way, machine, placement)]
    limits = restrictions(machine, placement)
    if rules or limits:
        files[f"{paths.NAT_DIRECTORY}/machine-{machine.name}.nft"] = render(
            "ports.nft",
            header=header,
            bridged=any(rule.startswith("bridge ") for rule in limits),
            rules=stamped(machine.name, [*rules, *limits]),
        )
    return files


def loopback_networks(machine: Machine, placement: Placement) -> tuple[str, ...]:
    """Give the link that 127.0.0.1 has to be routed over for the machine's published ports: one, or none."""
    if not any(ways(port, machine, placement).local for port in machine.publish):
        return ()
    names = [link_network(link, machine.name) for link in machine.links]
    return tuple(name for name in names if name is not None and name in placement.addresses)[:1]


def nspawn_ports(machine: Machine, placement: Placement) -> list[Publish]:
    """Give the ports that nspawn has to map, one by one (systemd.nspawn(5), Port=)."""
    return [
        Publish(port.host + offset, port.guest + offset, None, port.protocol)
        for port in machine.publish
        if ways(port, machine, placement).nspawn
        for offset in range(port.count)
    ]


def used_unit(machine: Machine) -> str:
    """Give the unit of units/ that stops with the last connection to a machine, which stops then too; "" for none."""
    return f"machctl-used@{machine.name}.target" if machine.on_demand and machine.idle_stop else ""


def _units(port: Publish, way: Ways, machine: Machine, *, header: str, target: str) -> dict[str, str]:
    socket = paths.port_unit(machine.name, port, "socket")
    used = used_unit(machine)
    values = {
        "header": header, "name": machine.name, "machine_unit": machine_unit(machine.name), "port": port,
        "on_demand": machine.on_demand, "reached_at": target.strip("[]"),
    }  # fmt: skip
    return {
        f"{paths.UNIT_DIRECTORY}/{socket}": render("port.socket", **values, listen=way.listen),
        f"{paths.UNIT_DIRECTORY}/{paths.port_unit(machine.name, port, 'service')}": render(
            "port.service",
            **values,
            socket=socket,
            target=target,
            used=used,
            idle=machine.idle_stop if used else PROXY_IDLE_SECONDS,
        ),
    }


def dnat_rules(port: Publish, way: Ways, machine: Machine, placement: Placement) -> list[str]:
    """Give the rules that lead a published port to a machine."""
    target, target6 = targets(machine, placement)
    rules = []
    for match, family, address in ((way.match4, "ip", target), (way.match6, "ip6", target6)):
        if match and address:
            rules += [f"inet machctl {chain} {match} {verdict(port, family, address)}" for chain in CHAINS]
    if way.local and target:
        rules.append(f"inet machctl output {way.local} {verdict(port, 'ip', target)}")
    return rules


def verdict(port: Publish, family: str, address: str) -> str:
    """Give what leads the host's side of a port to that of a machine at ``address``; ``family`` is ip or ip6."""
    last = port.host + port.count - 1
    ports = f"{port.protocol} dport {port.host}" + (f"-{last}" if port.count > 1 else "")
    shown = f"[{address}]" if family == "ip6" else address
    if port.host == port.guest:
        return f"{ports} dnat {family} to {address}"
    if port.count == 1:
        return f"{ports} dnat {family} to {shown}:{port.guest}"
    # To a range of ports the kernel would send each connection to one it chooses (nf_nat_core.c).
    pairs = (f"{port.host + offset} : {address} . {port.guest + offset}" for offset in range(port.count))
    return f"{ports} dnat {family} to {port.protocol} dport map {{ {', '.join(pairs)} }}"
