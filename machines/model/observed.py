# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host as it is: one frozen snapshot that plans are made from. Nothing in it is ever declared."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from machines.model.base import Base, Payload
from machines.model.frozen import dataclass, field
from machines.model.network import Network
from machines.model.settings import Node
from machines.model.snapshot import Snapshot
from machines.model.tree import Tree


@dataclass(frozen=True)
class Link:
    """A link of the host: ``kind`` is the kernel's (bridge, veth, ...), ``ports`` the links enslaved to it.

    ``vlans`` tells whether a bridge keeps VLANs apart; None where its kernel cannot. ``mtu`` is that of a bridge.
    """

    name: str
    kind: str
    ports: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    vlans: bool | None = None
    mtu: int | None = None


@dataclass(frozen=True)
class Listener:
    """A socket of the host that listens; ``address`` is 0.0.0.0 or :: for all addresses, ``protocol`` tcp or udp."""

    address: str
    port: int
    protocol: str = "tcp"


@dataclass(frozen=True)
class Record:
    """What machctl keeps of a machine.

    The addresses it was given, by bridge, those of IPv6 in ``addresses6``, the networks of machctl's that it is in
    without one, what leads where of its ``links``, by what they are called in it; the ports of the host it claimed; the
    bridges it is on that others make, which may be away for a moment; and what was declared of its tree when that was
    made. How the tree is kept (``storage``), the ``base`` it was copied from, the first of the 65536 ids it has for
    itself (``uid``, where those are fixed) and what it runs where it has no init. ``intent`` says what somebody is
    about to do with it, so that whoever finds it half done knows: "remove", "rename NEW", "throwaway".
    """

    name: str
    addresses: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    made: Mapping[str, object] = field(default_factory=dict)
    storage: str = ""
    base: str = ""
    uid: int | None = None
    payload: Payload | None = None
    disk: int | None = None
    intent: str = ""
    addresses6: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """Everything about the host that a plan can depend on. ``nat`` is None where nobody looked.

    ``secrets`` are the files of secrets that are there, ``newer_secrets`` those by machine that it was started with
    others of, ``nspawn`` is what systemd-nspawn@.service runs where somebody
    has to know. ``declared_in`` is the one file that is taken in the place of the declarations of the host, if one is.

    ``active`` are the units that are active or about to be, ``up`` those of machines that have started.
    ``systemd`` is the version where something depends on it, else 0. ``routes`` and ``routes6`` are the subnets it has
    routes to, and the links these leave by; ``guest_hosts`` the hosts(5) files of machines, where names are kept in
    those; ``local_dns`` is the name server of its own that it asks on 127.0.0.0/8, "" where it asks others.
    """

    euid: int = 0
    booted: bool = True
    machined: str = ""
    systemd: int = 0
    networkd: bool = False
    ipv6_loopback: bool = True
    ipv6: bool = True
    resolved: bool = False
    machine_id: str = ""
    hostname: str = ""
    tools: frozenset[str] = frozenset()
    trees: Mapping[str, Tree] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)
    enabled: Mapping[str, bool] = field(default_factory=dict)
    active: frozenset[str] = frozenset()
    up: frozenset[str] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)
    declared_in: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    newer_secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nspawn: str = ""
    guest_hosts: Mapping[str, str] = field(default_factory=dict)
    journals: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    routes: Mapping[ipaddress.IPv4Network, str] = field(default_factory=dict)
    routes6: Mapping[ipaddress.IPv6Network, str] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    dns: tuple[str, ...] = ()
    local_dns: str = ""
    nat: str | None = None
    localnet: frozenset[str] = frozenset()
    stale_units: frozenset[str] = frozenset()
    limits: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    free_bytes: int = 0
    pool: str = "/var/lib/machines"
    pool_mounted: bool = False
    idmap_paths: frozenset[str] = frozenset()
    missing_binds: frozenset[str] = frozenset()
    unmapped: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Node] = field(default_factory=dict)
    inner_links: Mapping[str, frozenset[str]] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    disks: Mapping[str, int] = field(default_factory=dict)
    snapshots: Mapping[str, tuple[Snapshot, ...]] = field(default_factory=dict)

    def declares(self, origin: str) -> bool:
        """Tell whether what is to be there is said in that file: what others say is left alone."""
        return origin == self.declared_in if self.declared_in else origin.startswith("/etc/machctl/")
