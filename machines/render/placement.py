# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host adds to a declaration before it can be rendered."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.base import Payload
from machines.model.frozen import dataclass, field
from machines.model.network import Network
from machines.model.settings import Node


@dataclass(frozen=True)
class Placement:
    """What the host adds to a declaration.

    ``networks`` holds those of the machine's networks (names.link_network) that machctl gives their subnets,
    ``addresses`` and ``addresses6`` the machine's on each of them; the bridges in neither were there before. ``dns``
    are the name servers it is told of, and ``domain`` is where it looks up plain names. ``storage`` is the driver that
    keeps the tree, ``uid`` the first of the machine's ids where that fixes them, ``payload`` what runs in place of an
    init. ``secrets`` are the files of the secrets that machines are given, ``nspawn`` what their stock unit runs.
    ``devices`` is what the host has at the places of the devices that machines use.
    """

    networks: Mapping[str, Network] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    idmap_paths: frozenset[str] = frozenset()
    ipv6_loopback: bool = True
    networkd: bool = True
    storage: str = ""
    uid: int | None = None
    payload: Payload | None = None
    addresses6: Mapping[str, str] = field(default_factory=dict)
    domain: str = ""
    devices: Mapping[str, Node] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    nspawn: str = ""
