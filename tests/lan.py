# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another host on the LAN of a throwaway host: a network namespace at the other end of a cable.

Its addresses are those of documentation (RFC 5737, RFC 3849): nothing on any host may have them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from throwaway import Host

LINK = "lan0"
HERE = {"ipv4": "192.0.2.1", "ipv6": "2001:db8:1::1"}
"""The host's own addresses on it."""
THERE = {"ipv4": "192.0.2.2", "ipv6": "2001:db8:1::2"}
"""Those of the other host."""

UP = f"""
set -e
ip netns add lan
ip link add {LINK} type veth peer name lan1 netns lan
ip address add {HERE["ipv4"]}/24 dev {LINK}
ip address add {HERE["ipv6"]}/64 dev {LINK} nodad
ip link set {LINK} up
ip -n lan address add {THERE["ipv4"]}/24 dev lan1
ip -n lan address add {THERE["ipv6"]}/64 dev lan1 nodad
ip -n lan link set lo up
ip -n lan link set lan1 up
"""
# The kernel takes a namespace apart when it has the time; the cable is asked for at once.
DOWN = f"""
ip link delete {LINK} 2>/dev/null
ip netns delete lan 2>/dev/null
umount /run/netns 2>/dev/null
true
"""
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
FAMILIES = ("ipv4", "ipv6")
PROTOCOLS = ("tcp", "udp")
SOURCES = ("lan", "host", "localhost", "machine")
"""Where a port of the host is asked from: the last is another machine."""
PORT = 7200
"""What the other host answers on."""

INSIDE = Path(__file__).with_name("inside")


@contextlib.contextmanager
def lan(host: Host) -> Iterator[None]:
    """Have another host on the LAN."""
    host.sh(DOWN)
    host.sh(UP)
    try:
        yield
    finally:
        host.sh(DOWN)


def cells(kind: str, port: int, address: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Give the ways to the port of a machine, as probe.py has them: of the host's addresses, or of its own."""
    for family, source, protocol in itertools.product(FAMILIES, SOURCES, PROTOCOLS):
        at = {"lan": "lan", "machine": "machine:debian"}.get(source, "")
        to = LOOPBACK[family] if source == "localhost" else (address or HERE)[family]
        yield {"id": f"{kind} {family} {source} {protocol}", "at": at, "to": to, "port": port, "protocol": protocol}


def outward(machine: str) -> Iterator[dict[str, Any]]:
    """Give the ways of a machine to the other host."""
    for family, protocol in itertools.product(FAMILIES, PROTOCOLS):
        way = {"at": f"machine:{machine}", "to": THERE[family], "port": PORT, "protocol": protocol}
        yield {"id": f"out {family} {protocol}"} | way


def probe(
    host: Host, servers: dict[str, tuple[str, int]], cells: Iterable[dict[str, Any]], *, limit: float
) -> dict[str, dict[str, str]]:
    """Try ways through the network of a host; ``servers`` are machines and their ports by what they answer.

    See inside/probe.py for what is given.
    """
    put(host, "probe.py")
    there = [{"name": name, "at": f"machine:{machine}", "port": port} for name, (machine, port) in servers.items()]
    there.append({"name": "out", "at": "lan", "port": PORT})
    wanted = json.dumps({"servers": there, "cells": list(cells), "limit": limit})
    came: dict[str, dict[str, str]] = host.run("python3", "-B", "/root/probe.py", stdin=wanted).json()
    return came


def put(host: Host, *names: str) -> None:
    """Copy programs of tests/inside into a host."""
    for name in names:
        host.write(f"/root/{name}", (INSIDE / name).read_text())
