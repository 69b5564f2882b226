# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the machine to the host's bridge and back: links, bridges, addresses, routes, neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.model.names import bridge_unit
from machines.operations.doctor.finding import Finding
from machines.plan import steps
from machines.plan.links import join_bridge

if TYPE_CHECKING:
    from machines.model.network import Network
    from machines.operations.doctor.look import HostLook, Look
    from machines.render.links import Wire

# Nothing is to listen there (RFC 863): any answer says that packets arrive.
_DISCARD = 9
_GONE = {"FAILED", "INCOMPLETE"}


def look_at_link(wire: Wire, look: Look) -> list[Finding]:
    """Is the link there, and up on both sides, and does all that the machine sends fit through?"""
    return [_link(wire, look), *_too_big(wire, look)]


def _too_big(wire: Wire, look: Look) -> list[Finding]:
    """What is larger than the MTU of the other end, or of the bridge, is dropped there without a word."""
    inside = look.inside.get(wire.inner)
    other = look.other_end(inside) if inside and wire.outer else None
    ways = [way for way in (other, look.links.get(wire.bridge)) if way]
    small = min(ways, key=lambda way: way.mtu, default=None)
    if inside is None or small is None or inside.mtu <= small.mtu:
        return []
    message = (
        f"{wire.inner} sends packets of up to {inside.mtu} bytes, {small.name} takes {small.mtu}: larger ones are lost"
    )
    return [
        Finding("link", "warning", message, f"machctl exec {look.name} -- ip link set {wire.inner} mtu {small.mtu}")
    ]


def _link(wire: Wire, look: Look) -> Finding:
    name = wire.inner
    inside = look.inside.get(name)
    if inside is None:
        return Finding(
            "link", "bad", f"it has no link {name}", f"links are made at its start: machctl restart {look.name}"
        )
    other = look.other_end(inside)
    if other is None:
        if wire.link.kind in {"bridge", "veth", "zone"}:
            return Finding("link", "bad", f"{name} has no other end on this host", f"machctl restart {look.name}")
    elif not other.up:
        end = f"the host's end of {name}" if wire.outer else f"which {name} is on"
        step = steps.SetLink(reason="it is down", machine=look.name, link=other.name)
        # An interface of the host's own may be down for a reason.
        fix = (step,) if wire.outer else ()
        return Finding("link", "bad", f"{other.name}, {end}, is down", f"ip link set {other.name} up", fix)
    if not inside.up:
        return Finding("link", "bad", f"{name} is down in it", f"machctl exec {look.name} -- ip link set {name} up")
    return Finding("link", "ok", f"{name} is up" + (f", and so is {other.name} of this host" if other else ""))


def look_at_bridge(wire: Wire, look: Look) -> Finding:
    """Is the link in its bridge, and is that up, with the addresses that machines know it by?"""
    other = look.other_end(look.inside[wire.inner])
    bridge = wire.bridge
    wanted = wire.network.addresses if wire.network else ()
    if not bridge:
        return _device(other.name if other else wire.outer, "link", wanted, look)
    if bridge not in look.links:
        return _no_bridge(bridge, look, ours=wire.network is not None)
    if other and other.master != bridge:
        where = f"but in {other.master}" if other.master else "nor in any other"
        return Finding(
            "bridge",
            "bad",
            f"{other.name} is not in bridge {bridge}, {where}",
            f"ip link set {other.name} master {bridge}",
            (join_bridge(wire, other.name, look.name, look.wires),),
        )
    return _device(bridge, "bridge", wanted, look)


def gateway_of(network: Network, look: HostLook) -> Finding:
    """Is a network's bridge there and up, with its addresses?"""
    if network.bridge not in look.links:
        return _no_bridge(network.bridge, look, ours=True)
    return _device(network.bridge, "bridge", network.addresses, look)


def _no_bridge(bridge: str, look: HostLook, *, ours: bool) -> Finding:
    unit = bridge_unit(bridge)
    if not ours:
        message = f"there is no bridge {bridge}, and machctl does not make it"
        return Finding("bridge", "bad", message, f"ip link add {bridge} type bridge")
    restart = steps.StartUnit(reason="the bridge is gone", machine=look.name, unit=unit, restart=True)
    return Finding("bridge", "bad", f"there is no bridge {bridge}", f"systemctl restart {unit}", (restart,))


def _device(device: str, kind: str, wanted: tuple[str, ...], look: HostLook) -> Finding:
    """Is the host's own place in the network up, with its addresses?"""
    there = look.links[device]
    missing = tuple(address for address in wanted if address not in there.addresses)
    faults = ["is down"] if not there.up else []
    faults += [f"has not its address {', '.join(missing)}"] if missing else []
    if not faults:
        has = f" with {', '.join(wanted)}" if wanted else ", and others made it"
        return Finding("bridge", "ok", f"{kind} {device} is up{has}")
    fault = " and ".join(faults)
    commands = [f"ip link set {device} up"] if not there.up else []
    commands += [f"ip address add {address} dev {device}" for address in missing]
    step = steps.SetLink(reason=f"it {fault}", machine=look.name, link=device, addresses=missing)
    return Finding("bridge", "bad", f"{kind} {device} {fault}", "\n".join(commands), (step,))


def look_at_address(wire: Wire, look: Look) -> list[Finding]:
    """Has the link inside the addresses that were recorded for the machine?"""
    name = wire.inner
    inside = look.inside[name]
    have = {address.split("/")[0] for address in inside.addresses}
    if not wire.addresses:
        near = ("169.254.", "fe80:")
        far = sorted(address for address in have if not address.startswith(near))
        if far:
            return [Finding("address", "ok", f"{name} has {', '.join(far)}")]
        return [
            Finding(
                "address",
                "bad",
                f"{name} has no address: nobody gave it a lease",
                "see whether a DHCP server answers there, or choose one with --ip",
            )
        ]
    found = []
    for address in own_addresses(wire):
        if address in have:
            continue
        why = "another host has it as well" if address in inside.unusable else "nothing in the machine set it"
        word = "IPv6 address" if ":" in address else "address"
        found.append(
            Finding(
                "address",
                "warning" if ":" in address else "bad",
                f"{name} has not its {word} {address}: {why}",
                _anew(wire, look),
            )
        )
    return found or [Finding("address", "ok", f"{name} has {', '.join(own_addresses(wire))}, as recorded")]


def _anew(wire: Wire, look: Look) -> str:
    """What gives a link its addresses and routes: networkd in the machine, or where none runs there, its start."""
    restart = f"machctl restart {look.name}"
    if look.record.payload:
        return restart
    return f"machctl exec {look.name} -- networkctl reconfigure {wire.inner}\nor: {restart}"


def own_addresses(wire: Wire) -> tuple[str, ...]:
    """Give the addresses that the machine is to have on a link, without their prefixes."""
    return tuple(address.split("/")[0] for address in wire.addresses)


def look_at_route(wire: Wire, look: Look) -> list[Finding]:
    """Does the machine's default route lead to the host?"""
    network = wire.network
    if network and network.mode == "isolated":
        return [Finding("route", "ok", f"network {network.bridge} is isolated: nothing leaves it")]
    found = []
    for gateway in wire.gateways or ("",):
        family = "ip6" if ":" in gateway else "ip"
        routes = look.own_routes(family)
        if any(gateway in {"", route.get("gateway")} for route in routes):
            continue
        version = "IPv6" if family == "ip6" else "IPv4"
        other = f", but one by {routes[0].get('gateway', routes[0]['dev'])}" if routes else ""
        found.append(
            Finding(
                "route",
                "warning" if family == "ip6" else "bad",
                f"it has no {version} default route" + (f" by {gateway}{other}" if gateway else ""),
                _anew(wire, look),
            )
        )
    by = " and ".join(wire.gateways)
    return found or [Finding("route", "ok", f"its default route is by {by}" if by else "it has a default route")]


def look_at_neighbour(wire: Wire, look: Look) -> Finding:
    """Does the machine answer the host at its address: ARP, or ND for IPv6?"""
    if wire.link.kind in {"macvlan", "ipvlan"}:
        apart = f"the host itself does not reach it there: {wire.link.kind} keeps the two apart"
        return Finding("neighbour", "ok", f"neighbours of {wire.link.target} reach it; {apart}")
    if wire.network is None or wire.link.vlan is not None:
        return Finding("neighbour", "ok", f"who reaches it on {wire.inner} is others' affair")
    have = {address.split("/")[0] for address in look.inside[wire.inner].addresses}
    own = [address for address in own_addresses(wire) if address in have]
    silent = []
    for address in own:
        answered = look.host.probes.connects(address, _DISCARD) in {"open", "refused"}
        mac = _neighbour(address, look)
        if answered and mac and mac != look.inside[wire.inner].mac:
            return Finding(
                "neighbour",
                "bad",
                f"somebody else has {address} as well, and answers: {mac}, not {look.inside[wire.inner].mac}",
                f"bridge fdb show | grep {mac} shows where it is",
            )
        silent += [] if answered or mac else [address]
    if silent:
        what = "neighbour discovery" if all(":" in address for address in silent) else "ARP"
        return Finding(
            "neighbour",
            "bad",
            f"the machine does not answer {what} for {', '.join(silent)}",
            "another VLAN or MAC address, or a firewall of frames: ip neigh; nft list ruleset",
        )
    return Finding("neighbour", "ok", f"this host finds it at {' and '.join(own)}")


def _neighbour(address: str, look: Look) -> str:
    """Give the MAC address that the kernel has for a neighbour, "" where it found none."""
    words = look.host.tools.run(["ip", "neigh", "show", "to", address], check=False).stdout.split()
    return "" if _GONE & set(words) or "lladdr" not in words else words[words.index("lladdr") + 1]
