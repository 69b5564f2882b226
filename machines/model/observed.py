# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host as it is: one frozen snapshot that plans are made from. Nothing in it is ever declared."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from machines.model.base import Base, Payload
from machines.model.frozen import dataclass, field
from machines.model.limits import Limits
from machines.model.snapshot import Snapshot
from machines.model.tree import Tree


@dataclass(frozen=True)
class Link:
    """A link of the host: ``kind`` is the kernel's (bridge, veth, ...), ``ports`` the links enslaved to it."""

    name: str
    kind: str
    ports: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listener:
    """A TCP socket of the host that listens; ``address`` is 0.0.0.0 or :: for all addresses."""

    address: str
    port: int


@dataclass(frozen=True)
class Record:
    """What machctl keeps of a machine.

    The addresses it was given, by bridge; the ports of the host it claimed; the bridges it is on that others make,
    which may be away for a moment; and what was declared of its tree when that was made. How the tree is kept
    (``storage``), the ``base`` it was copied from, the first of the 65536 ids it has for itself (``uid``, where those
    are fixed) and what it runs where it has no init. ``intent`` says what somebody is about to do with it, so that
    whoever finds it half done knows: "remove", "rename NEW", "throwaway".
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


@dataclass(frozen=True)
class Host:
    """Everything about the host that a plan can depend on."""

    euid: int = 0
    booted: bool = True
    machined: str = ""
    networkd: bool = False
    ipv6_loopback: bool = True
    tools: frozenset[str] = frozenset()
    trees: Mapping[str, Tree] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)
    enabled: Mapping[str, bool] = field(default_factory=dict)
    active: frozenset[str] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)
    guest_files: Mapping[tuple[str, str], str] = field(default_factory=dict)
    journals: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    routes: tuple[ipaddress.IPv4Network, ...] = ()
    listeners: tuple[Listener, ...] = ()
    dns: tuple[str, ...] = ()
    nat: str | None = ""
    stale_units: frozenset[str] = frozenset()
    limits: Mapping[str, Limits] = field(default_factory=dict)
    free_bytes: int = 0
    pool: str = "/var/lib/machines"
    pool_mounted: bool = False
    idmap_paths: frozenset[str] = frozenset()
    missing_binds: frozenset[str] = frozenset()
    records: Mapping[str, Record] = field(default_factory=dict)
    networks: Mapping[str, ipaddress.IPv4Network] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    disks: Mapping[str, int] = field(default_factory=dict)
    snapshots: Mapping[str, tuple[Snapshot, ...]] = field(default_factory=dict)
