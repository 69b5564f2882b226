# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who listens: in a machine by /proc, on the host with the process that does."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Documentation/networking/proc_net_tcp.rst: TCP_LISTEN, and what a UDP socket that nobody is connected to has.
_LISTENING = {"tcp": "0A", "udp": "07"}
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
    return [
        entry
        for name in (protocol, f"{protocol}6")
        for entry in parse_sockets(host.files.read_text(f"/proc/{leader}/net/{name}") or "", protocol)
    ]


def parse_sockets(text: str, protocol: str) -> list[Listening]:
    """Read /proc/net/tcp, tcp6, udp or udp6."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING[protocol]:
            address, _, port = fields[1].partition(":")
            raw = bytes.fromhex(address)
            # The kernel prints each 32-bit word in the byte order of the machine, little endian where machctl runs.
            words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
            found.append(Listening(str(ipaddress.ip_address(words)), int(port, 16)))
    return found


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
