# SPDX-License-Identifier: LGPL-2.1-or-later
"""Try many ways through a network at once, and tell who answered. Runs in a throwaway host.

Reads a JSON object: ``servers`` (name, at, port) and ``cells`` (id, at, to, port, protocol; ``from`` is the client's
own port where that matters). ``at`` is a network namespace: "" is the host's, "lan" that of ip-netns(8),
"machine:NAME" a machine's. A server answers on tcp and udp and both families with its name and the client's address
as it sees it. Prints an object: what each cell was answered within ``limit`` seconds, or why it was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
IP_PKTINFO = 8
HOME = os.open("/proc/self/ns/net", os.O_RDONLY)
PAUSE = 0.1
ATTEMPT = 1.0


def namespace(at: str) -> str:
    """Give the file of a network namespace."""
    kind, _, name = at.partition(":")
    if not kind:
        return "/proc/self/ns/net"
    if kind != "machine":
        return f"/run/netns/{at}"
    state = Path(f"/run/systemd/machines/{name}").read_text().splitlines()
    (leader,) = (line.partition("=")[2] for line in state if line.startswith("LEADER="))
    return f"/proc/{leader}/ns/net"


def setns(descriptor: int) -> None:
    """Move this thread (setns(2)); os.setns came with Python 3.12."""
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def socket_at(at: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Make a socket in a network namespace: it stays there, and this process does not."""
    if not at:
        made = socket.socket(family, kind)
    else:
        descriptor = os.open(namespace(at), os.O_RDONLY)
        try:
            setns(descriptor)
            made = socket.socket(family, kind)
        finally:
            setns(HOME)
            os.close(descriptor)
    made.setblocking(False)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


# --- servers ---


async def serve(name: str, at: str, port: int) -> list[Any]:
    """Answer on a port of a namespace; give what has to be kept alive."""
    kept: list[Any] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        stream = socket_at(at, family, socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        datagrams = socket_at(at, family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            datagrams.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        for made in (stream, datagrams):
            made.bind(("", port))

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said = f"{name} {writer.get_extra_info('peername')[0]}\n".encode()
            with contextlib.suppress(OSError):
                while await reader.readline():
                    writer.write(said)
                    await writer.drain()
            writer.close()

        kept.append(await asyncio.start_server(answer, sock=stream))
        asyncio.get_running_loop().add_reader(datagrams, answer_datagram, datagrams, name)
        kept.append(datagrams)
    return kept


def answer_datagram(datagrams: socket.socket, name: str) -> None:
    """Answer from the very address that was asked, or a client that is connected takes no notice."""
    _, ancillary, _, client = datagrams.recvmsg(2048, 256)
    back = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            _, _, asked = struct.unpack("=I4s4s", data)
            back.append((level, kind, struct.pack("=I4s4s", 0, asked, bytes(4))))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            back.append((level, kind, data[:16] + bytes(4)))
    datagrams.sendmsg([f"{name} {client[0]}\n".encode()], back, 0, client)


# --- clients ---


async def ask(cell: dict[str, Any]) -> str:
    """Ask once; give the answer. Raises OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in cell["to"] else socket.AF_INET
    kind = socket.SOCK_STREAM if cell["protocol"] == "tcp" else socket.SOCK_DGRAM
    with socket_at(cell["at"], family, kind) as client:
        if "from" in cell:
            client.bind(("", cell["from"]))
        await loop.sock_connect(client, (cell["to"], cell["port"]))
        await loop.sock_sendall(client, b"who\n")
        said = (await loop.sock_recv(client, 256)).decode().strip()
    if not said:
        # A proxy accepts before it knows whether anybody is behind it.
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    return said


async def try_cell(cell: dict[str, Any], limit: float) -> dict[str, str]:
    """Ask until there is an answer, or the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    why = "nothing"
    while loop.time() < end:
        try:
            return {"answer": await asyncio.wait_for(ask(cell), ATTEMPT)}
        except TimeoutError:
            why = "no answer"
        except OSError as error:
            # asyncio puts words of its own into strerror.
            why = os.strerror(error.errno) if error.errno else str(error)
            await asyncio.sleep(PAUSE)
    return {"error": why}


async def main() -> None:
    """Start the servers, try all cells beside each other, and print what came of them."""
    wanted = json.load(sys.stdin)
    # Kept in a name: what is started ends with the last reference to it.
    servers = [await serve(server["name"], server["at"], server["port"]) for server in wanted["servers"]]
    tried = await asyncio.gather(*(try_cell(cell, wanted["limit"]) for cell in wanted["cells"]))
    json.dump({cell["id"]: came for cell, came in zip(wanted["cells"], tried, strict=True)}, sys.stdout)
    del servers


if __name__ == "__main__":
    asyncio.run(main())
