# SPDX-License-Identifier: LGPL-2.1-or-later
"""The network of the host and of a machine as the kernel has it; each part is read when it is first asked for."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from machines.model.frozen import NamedTuple
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.names import link_network
from machines.model.network import Network
from machines.model.observed import Record
from machines.operations.doctor.verdict import Ruleset
from machines.operations.records import read_networks, read_records
from machines.render.links import Wire, wires
from machines.render.placement import Placement

if TYPE_CHECKING:
    from machines.host.interfaces import Host


# resolv.conf(5), MAXNS: libc asks no more of them.
_SERVERS_MAX = 3


class Interface(NamedTuple):
    """A link of one side: ``peer`` is the number of a veth's other end, ``addresses`` have their prefix length."""

    number: int
    name: str
    up: bool
    master: str = ""
    peer: int | None = None
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    mac: str = ""


class HostLook:
    """What there is to see of the host's own network; ``name`` is the machine it is looked at for."""

    name = ""

    def __init__(self, host: Host) -> None:
        self.host = host

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The networks that machctl made, by their bridges."""
        return read_networks(self.host)

    @cached_property
    def links(self) -> dict[str, Interface]:
        """The host's links by name."""
        return _interfaces(self._json("ip", "-json", "-details", "address", "show"))

    @cached_property
    def uplinks(self) -> dict[str, tuple[str, ...]]:
        """The links of the host that its default routes lead to, by family (ip, ip6)."""
        return {family: tuple(dict.fromkeys(route["dev"] for route in self.routes(family))) for family in ("ip", "ip6")}

    @cached_property
    def ruleset(self) -> Ruleset:
        """The host's firewall."""
        return self._ruleset()

    def routes(self, family: str) -> list[dict[str, Any]]:
        """Give the host's default routes."""
        return self._routes(family, ())

    def _routes(self, family: str, entered: tuple[str, ...]) -> list[dict[str, Any]]:
        routes = self._json(*entered, "ip", "-json", "-6" if family == "ip6" else "-4", "route", "show", "default")
        hops = [hop for route in routes for hop in route.get("nexthops", ())]
        return [route for route in [*routes, *hops] if route.get("dev")]

    def sysctl(self, name: str) -> int | None:
        """Give a number of the host's from /proc/sys."""
        return self.host.facts.sysctl(name)

    def _ruleset(self, *entered: str) -> Ruleset:
        listing = self._json(*entered, "nft", "--json", "list", "ruleset", empty={})
        # Twice, as each of the two leaves out something of what iptables made.
        argv = [*entered, "nft", "--handle", "--stateless", "list", "ruleset"]
        return Ruleset(listing, self.host.tools.run(argv, check=False).stdout if listing else "")

    def _json(self, *argv: str, empty: Any = ()) -> Any:
        if self.host.tools.which(argv[0]) is None:
            return empty
        done = self.host.tools.run(argv, check=False)
        try:
            return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else empty
        except ValueError:
            return empty


class Look(HostLook):
    """What there is to see of machine ``name``."""

    def __init__(self, name: str, host: Host, machine: Machine | None) -> None:
        super().__init__(host)
        self.name = name
        self.machine = machine

    @cached_property
    def leader(self) -> int | None:
        """The machine's init, as processes of the host have it; None where it does not run."""
        entry = self.host.registered().get(self.name)
        return entry.leader if entry else None

    @cached_property
    def record(self) -> Record:
        """What the machine was given."""
        return read_records(self.host).get(self.name) or Record(self.name)

    @cached_property
    def inside(self) -> dict[str, Interface]:
        """The machine's links by name."""
        return _interfaces(self._json(*self.entered("ip", "-json", "-details", "address", "show")))

    @cached_property
    def placement(self) -> Placement:
        """The machine's networks and addresses, as they were recorded."""
        names = {link_network(link, self.name) for link in self.machine.links} if self.machine else set[str | None]()
        return Placement(
            networks={name: network for name, network in self.networks.items() if name in names},
            addresses=self.record.addresses,
            addresses6=self.record.addresses6,
            ipv6_loopback=self.host.facts.ipv6_loopback(),
            payload=self.record.payload,
        )

    @cached_property
    def wires(self) -> list[Wire]:
        """The machine's links: as declared, else as it runs."""
        if self.machine is not None:
            return wires(self.machine, self.placement)
        found: list[Wire] = []
        for link in self.inside.values():
            other = self.other_end(link)
            if other is not None:
                kind = Attachment("bridge", other.master) if other.master else Attachment("veth")
                found.append(Wire(kind, link.name, other.name, len(found), not found, None, (), (), not found))
        return found

    @cached_property
    def name_servers(self) -> tuple[str, ...]:
        """Whom the machine asks for names in the end: behind its own resolved, those that one asks (resolv.conf(5))."""
        servers = _servers(self.read_inside("/etc/resolv.conf"))
        if any(server.startswith("127.") for server in servers):
            servers = _servers(self.read_inside("/run/systemd/resolve/resolv.conf")) or servers
        return servers

    @cached_property
    def own_ruleset(self) -> Ruleset:
        """The machine's own firewall."""
        return self._ruleset(*self.entered())

    def own_routes(self, family: str) -> list[dict[str, Any]]:
        """Give the machine's default routes."""
        return self._routes(family, self.entered())

    @property
    def inside_addresses(self) -> tuple[str, ...]:
        """All addresses of the machine."""
        return tuple(address.split("/")[0] for link in self.inside.values() for address in link.addresses)

    def other_end(self, link: Interface) -> Interface | None:
        """Give the host's end of one of the machine's links; names on the host are nspawn's own affair."""
        return next((other for other in self.links.values() if other.number == link.peer), None)

    def entered(self, *argv: str) -> tuple[str, ...]:
        """Give the command that runs a tool of the host's in the machine's network."""
        return ("nsenter", "--target", str(self.leader), "--net", *argv)

    def read_inside(self, path: str) -> str:
        """Give the text of a file that the running machine sees, "" for none."""
        return self.host.guests.read_file(f"/proc/{self.leader}/root", path) or ""


def _interfaces(listing: Any) -> dict[str, Interface]:
    found = {}
    for link in listing:
        addresses = link.get("addr_info", ())
        usable = [entry for entry in addresses if not (entry.get("dadfailed") or entry.get("tentative"))]
        found[link["ifname"]] = Interface(
            link["ifindex"],
            link["ifname"],
            "UP" in link.get("flags", ()),
            link.get("master", ""),
            link.get("link_index"),
            link.get("mtu", 0),
            tuple(f"{entry['local']}/{entry['prefixlen']}" for entry in usable if "local" in entry),
            tuple(entry["local"] for entry in addresses if entry not in usable and "local" in entry),
            link.get("address", ""),
        )
    return found


def _servers(text: str) -> tuple[str, ...]:
    """Read a resolv.conf(5) that a guest may have written."""
    found: dict[str, None] = {}
    for words in map(str.split, text.splitlines()):
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found[str(ipaddress.ip_address(words[1].partition("%")[0]))] = None
    return tuple(found)[:_SERVERS_MAX]
