# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who listens: in a machine by /proc, on the host with the process that does."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from machines.host.interfaces import Host

_USER = re.compile(r'\("((?:[^"\\]|\\.)*)",pid=(\d+)')


class Listening(NamedTuple):
    """A socket that waits for others; ``process`` is who holds it, where that was asked."""

    address: str
    port: int
    process: str = ""
    pid: int = 0

    @property
    def loopback(self) -> bool:
        """Tell whether only its own side can reach it."""
        return ipaddress.ip_address(self.address).is_loopback


def listening_in(leader: int, protocol: str, host: Host) -> list[Listening]:
    """Give the sockets of ``protocol`` that wait in the network of the machine that ``leader`` leads."""
    return [Listening(each.address, each.port) for each in host.facts.listeners(leader) if each.protocol == protocol]


def holders(port: int, protocol: str, host: Host) -> list[Listening]:
    """Give the sockets of the host that wait at ``port``, with the processes that hold them (ss(8))."""
    kind = "-lnpt" if protocol == "tcp" else "-lnpu"
    done = host.tools.run(["ss", "-H", kind, "sport", "=", f":{port}"], check=False)
    found = []
    for line in done.stdout.splitlines():
        words = line.split()
        address = words[3].rpartition(":")[0].strip("[]").partition("%")[0] if len(words) > 3 else ""
        user = _USER.search(line)
        process, pid = (user[1], int(user[2])) if user else ("", 0)
        found.append(Listening("0.0.0.0" if address == "*" else address, port, process, pid))
    return found
