# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports: who has them on the host, what listens in the machine, and whether that can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from machines.model.frozen import replace
from machines.model.publish import Publish
from machines.operations.doctor.finding import Finding
from machines.operations.doctor.links import own_addresses
from machines.operations.doctor.owners import rule_text
from machines.operations.doctor.sockets import Listening, holders, listening_in
from machines.operations.doctor.verdict import Packet
from machines.plan import steps
from machines.render import paths
from machines.render.ports import ways

if TYPE_CHECKING:
    from machines.operations.doctor.look import Look

# Whoever holds the sockets of socket units (systemd.socket(5)), and passes on what comes in.
_OURS = {"systemd", "systemd-socket-", "systemd-socket-proxyd"}


def look_at_port(port: Publish, look: Look) -> Finding:
    """Does the host answer at the port, or has somebody else it?"""
    assert look.machine is not None
    way = ways(port, look.machine, look.placement)
    units = [paths.port_unit(look.name, port, "socket")] if way.listen else []
    states = look.host.units.states(units) if units else {}
    stopped = [unit for unit in units if states.get(unit) not in {"active", "activating"}]
    taken = next(
        (entry for entry in holders(port.host, port.protocol, look.host) if _in_the_way(entry, port, stopped)), None
    )
    if taken:
        who = f"{taken.process} (PID {taken.pid})" if taken.process else "another process"
        return Finding(
            "port",
            "bad",
            f"port {port.host} of {taken.address} is taken by {who}",
            f"stop that, or publish another port than {port.host}",
        )
    if stopped:
        return Finding(
            "port",
            "bad",
            f"{stopped[0]} is not active: nothing answers at port {port.host} of {' and '.join(way.listen)}",
            f"systemctl start {' '.join(stopped)}",
            tuple(_started(stopped, look)),
        )
    if way.nspawn and not _mapped(port, look):
        return Finding(
            "port",
            "bad",
            f"systemd-nspawn has not mapped port {port.host} to the machine",
            f"it does so when the machine gets its address: machctl restart {look.name}",
        )
    return Finding("port", "ok", f"port {port} leads to the machine")


def _started(units: list[str], look: Look) -> Iterator[steps.Step]:
    for unit in units:
        yield steps.StartUnit(reason="it is not active", machine=look.name, unit=unit)


def _in_the_way(entry: Listening, port: Publish, stopped: list[str]) -> bool:
    """Tell whether a socket is another's: one that has a single address is in the way of those who want that or all."""
    if port.address is not None and entry.address not in {port.address, "0.0.0.0", "::"}:
        return False
    return entry.process not in _OURS or (bool(stopped) and entry.pid == 1)


def _mapped(port: Publish, look: Look) -> bool:
    """Where the address is not machctl's to know, nspawn keeps a map of its own (systemd-nspawn(1), --port=)."""
    return any(
        {"concat": [port.protocol, port.host]} in pair
        for family in ("ip", "ip6")
        for pair in look.ruleset.elements(family, "io.systemd.nat", "map_port_ipport")
        if isinstance(pair, list)
    )


def look_at_listener(port: Publish, look: Look, *, try_it: bool) -> Finding:
    """Does something in the machine listen where the port leads, and can it be reached there?

    With ``try_it`` the host connects to it, which says nothing where a firewall of the host's is in between.
    """
    assert look.leader is not None
    ports = range(port.guest, port.guest + port.count)
    shown = f"port {port.guest}" if port.count == 1 else f"ports {ports[0]}-{ports[-1]}"
    shown += "/udp" if port.protocol == "udp" else ""
    # Of many ports, as those of FTP are, some may have nobody for the moment.
    waiting = [entry for entry in listening_in(look.leader, port.protocol, look.host) if entry.port in ports]
    if not waiting:
        return Finding(
            "listener",
            "bad",
            f"nothing listens on {shown} in the machine",
            f"start what is to answer there: machctl exec {look.name} -- ss -ln",
        )
    if all(entry.loopback for entry in waiting):
        only = " and ".join(sorted({entry.address for entry in waiting}))
        return Finding(
            "listener",
            "bad",
            f"it listens on {only} only: {shown} of the machine cannot be reached from outside",
            "have it listen on 0.0.0.0 and [::], or on the machine's own address",
        )
    reached = {"0.0.0.0", "::", *look.inside_addresses}
    if not any(entry.address in reached for entry in waiting):
        return Finding(
            "listener", "bad", f"it listens on {waiting[0].address} only, which is no address of the machine's",
            "have it listen on 0.0.0.0 and [::]",
        )  # fmt: skip
    return _reached(replace(port, guest=waiting[0].port), shown, look, try_it=try_it)


def _reached(port: Publish, shown: str, look: Look, *, try_it: bool) -> Finding:
    """Only now a connection that is not answered says something: that a firewall is in between, and whose."""
    for wire in look.wires:
        gateways = wire.network.gateways if wire.network and wire.link.vlan is None else ()
        for gateway, address in zip(gateways, own_addresses(wire), strict=False):
            family = "ip6" if ":" in address else "ip"
            packet = Packet(family, wire.inner, "", gateway, address, port.protocol, port.guest)
            dropped = [verdict for verdict in look.own_ruleset.verdicts("input", packet) if verdict.word == "drop"]
            for verdict in dropped:
                rule = rule_text(verdict, look.own_ruleset)
                firewall = f"the machine's own firewall (nft chain {verdict.chain})"
                return Finding(
                    "listener",
                    "bad",
                    f"{firewall} drops what comes for {shown}, {rule}",
                    f"machctl exec {look.name} -- nft list ruleset",
                )
            if port.protocol == "udp" or family == "ip6" or not try_it:
                continue
            outcome = look.host.probes.connects(address, port.guest)
            if outcome != "open":
                return Finding(
                    "listener",
                    "bad",
                    f"{shown} of {address} is {outcome} for this host, though something listens there",
                    f"a firewall inside: machctl exec {look.name} -- nft list ruleset",
                )
    return Finding("listener", "ok", f"something listens on {shown} in the machine")
