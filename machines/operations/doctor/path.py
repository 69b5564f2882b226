# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole way of a packet to and from one machine, hop by hop; what depends on a broken hop is not looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from machines.operations.declared import readable_machines
from machines.operations.doctor import forward, links, names, ports
from machines.operations.doctor.finding import Finding
from machines.operations.doctor.look import Look
from machines.operations.inspect import require

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.render.links import Wire

_TOOLS = ("ip", "nft", "nsenter", "ss", "unshare")
Looked = Finding | list[Finding]


class _Path:
    """What was found so far, and which hops are broken."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self._broken: dict[str, str] = {}

    def is_broken(self, name: str) -> bool:
        """Tell whether a hop is broken or was not looked at."""
        return name in self._broken

    def skip(self, name: str, cause: str) -> None:
        """Look at nothing that needs the hop ``name``."""
        self._broken[name] = cause

    def hop(self, name: str, look: Callable[[], Looked], *, needs: tuple[str, ...] = (), check: str = "") -> None:
        """Look at a hop unless one of those it ``needs`` is broken; the first of them is named then."""
        cause = next((self._broken[need] for need in needs if need in self._broken), "")
        if cause:
            self.skip(name, cause)
            self.found.append(Finding(check or name, "skipped", f"{name}: not looked at, as {cause}"))
            return
        looked = look()
        findings = looked if isinstance(looked, list) else [looked]
        if any(finding.level == "bad" for finding in findings):
            self.skip(name, f"{name} is broken")
        self.found += findings


def examine_machine(name: str, host: Host) -> list[Finding]:
    """Look at everything between ``name`` and the rest of the world; nothing is changed.

    Raises NotFound when there is no such machine.
    """
    require([name], host)
    look = Look(name, host, readable_machines(host, name=name).get(name))
    path = _Path()
    path.hop("tools", lambda: _tools(host))
    path.hop("machine", lambda: _machine(look), needs=("tools",))
    machine = look.machine
    if look.leader is None and not path.is_broken("machine"):
        path.skip("machine", "it is stopped")
    if machine and machine.network == "none":
        return [*path.found, Finding("link", "ok", "it has no network, as is declared")]
    if machine and machine.network == "host":
        said = "it has the host's own network: what this host reaches, it reaches"
        return [*path.found, Finding("link", "ok", said)]
    wires = look.wires if look.leader or machine else []
    first = next((wire for wire in wires if wire.default), wires[0] if wires else None)
    for wire in wires:
        _link(path, wire, look, first=wire is first)
    out = _through_host(path, first, look)
    path.hop("dns", lambda: names.look_at_names(look), needs=("machine", *out))
    _published(path, look, needs=out)
    return path.found


def _tools(host: Host) -> list[Finding]:
    missing = [tool for tool in _TOOLS if not host.tools.which(tool)]
    packages = {"ip": "iproute2", "ss": "iproute2", "nft": "nftables"}
    return [
        Finding("tools", "bad", f"{tool} is not installed", f"apt install {packages.get(tool, 'util-linux')}")
        for tool in missing
    ]


def _machine(look: Look) -> list[Finding]:
    name, machine = look.name, look.machine
    found = []
    if machine is None:
        found.append(
            Finding(
                "machine", "warning", f"{name} is not declared: its links are looked at as they are", "machctl list"
            )
        )
    if look.leader is not None:
        return [*found, Finding("machine", "ok", f"{name} is running")]
    if name not in look.host.pool.trees():
        return [*found, Finding("machine", "bad", f"{name} has no tree yet", f"machctl apply {name}")]
    if machine and machine.on_demand:
        remedy = f"machctl start {name}, to have the rest looked at"
        return [*found, Finding("machine", "ok", f"{name} is stopped; a connection to its ports starts it", remedy)]
    return [*found, Finding("machine", "bad", f"{name} is not running", f"machctl start {name}")]


def _link(path: _Path, wire: Wire, look: Look, *, first: bool) -> None:
    """The hops of one link; only those of the one with the default route are in the way of what leaves the machine."""

    def called(hop: str) -> str:
        return hop if first else f"{hop} of {wire.inner}"

    before = called("link")
    path.hop(before, lambda: links.look_at_link(wire, look), needs=("machine",), check="link")
    if wire.bridge or wire.network:
        path.hop(called("bridge"), lambda: links.look_at_bridge(wire, look), needs=(before,), check="bridge")
        before = called("bridge")
    path.hop(called("address"), lambda: links.look_at_address(wire, look), needs=(before,), check="address")
    if first:
        path.hop("route", lambda: links.look_at_route(wire, look), needs=("address",))
    path.hop(
        called("neighbour"), lambda: links.look_at_neighbour(wire, look), needs=(called("address"),), check="neighbour"
    )


def _through_host(path: _Path, first: Wire | None, look: Look) -> tuple[str, ...]:
    """The hops of the host's own, where packets of the first link pass it; gives those that others depend on."""
    own = ("link", "bridge", "address", "route")
    if first is None or first.network is None or first.link.vlan is not None:
        return own
    device, ipv6 = first.bridge or first.outer, first.network.subnet6 is not None
    path.hop("forwarding", lambda: forward.look_at_forwarding([device], look, ipv6=ipv6), needs=("tools",))
    path.hop("nat", lambda: forward.look_at_nat(look.host, look.name), needs=("tools",))
    path.hop("firewall", lambda: forward.look_at_firewalls(first, look), needs=("tools",))
    return (*own, "neighbour", "forwarding", "nat", "firewall")


def _published(path: _Path, look: Look, *, needs: tuple[str, ...]) -> None:
    reached = tuple(need for need in needs if need not in {"route", "forwarding", "nat", "firewall"})
    for port in look.machine.publish if look.machine else ():
        path.hop(f"port {port}", lambda port=port: ports.look_at_port(port, look), needs=("nat",), check="port")  # type: ignore[misc]
        path.hop(
            f"listener of port {port}",
            lambda port=port: ports.look_at_listener(port, look, try_it=not path.is_broken("firewall")),  # type: ignore[misc]
            needs=("machine", *reached, f"port {port}"),
            check="listener",
        )
