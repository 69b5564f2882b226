# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packets that are sent to see what becomes of them, from the host or from a machine's network namespace.

Only sockets are made there; nothing of a machine is run.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from machines.host.netns import in_namespace

T = TypeVar("T")

# RFC 1035, section 4.1.1
_RCODES = {0: "", 1: "FORMERR", 2: "SERVFAIL", 3: "", 4: "NOTIMP", 5: "REFUSED"}
_QUERY_ID = 0x6D63
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}


def connects(address: str, port: int, *, leader: int | None = None, timeout: float = 1.0) -> str:
    """Try a TCP connection from the host, or from the network of the machine that ``leader`` leads.

    Gives "open", "refused", "unreachable" (no route, no neighbour, or a firewall that says so) or, when nothing came
    back within ``timeout`` seconds, "silent".
    """
    return _inside(leader, lambda: _connect(address, port, timeout))


def asks_dns(server: str, name: str, *, leader: int | None = None, timeout: float = 2.0) -> str | None:
    """Ask a name server for an address of ``name`` (RFC 1035), from where connects() would.

    Gives "" for an answer, be it that there is no such name, the name of the error the server answered with, or None
    when no answer came within ``timeout`` seconds.
    """
    return _inside(leader, lambda: _ask(server, name, timeout))


def _inside(leader: int | None, act: Callable[[], T]) -> T:
    return in_namespace(f"/proc/{leader}/ns/net" if leader is not None else None, act)


def _connect(address: str, port: int, timeout: float) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(timeout)
        try:
            client.connect((address, port))
        except TimeoutError:
            return "silent"
        except OSError as error:
            return "unreachable" if error.errno in _UNREACHABLE else "refused"
        return "open"


def _ask(server: str, name: str, timeout: float) -> str | None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query = struct.pack("!6H", _QUERY_ID, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!2H", 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(timeout / 2)
        client.connect((server, 53))
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                client.send(query)
                answer = client.recv(4096)
                if len(answer) >= 12 and answer[:2] == query[:2]:
                    return _RCODES.get(answer[3] & 0x0F, f"error {answer[3] & 0x0F}")
    return None
