# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask web servers all the time, and tell what they answered. Runs in a throwaway host.

``asking.py SECONDS``, and on stdin cells as probe.py has them. Each is asked ``RATE`` times a second by HTTP until this
gets SIGTERM or the time is over. Prints a JSON object: for each cell the answers in the order in which they changed,
and how often each was given; and every request that failed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any

import probe

RATE = 50.0
LONG_ENOUGH = 5.0
REQUEST = b"GET /index.html HTTP/1.1\r\nHost: asked\r\nConnection: close\r\n\r\n"


async def ask(cell: dict[str, Any]) -> str:
    """Ask once; give the last line of the answer. Raises OSError, and ValueError for an answer that is an error."""
    loop = asyncio.get_running_loop()
    family = probe.socket.AF_INET6 if ":" in cell["to"] else probe.socket.AF_INET
    answer = b""
    with probe.socket_at(cell["at"], family, probe.socket.SOCK_STREAM) as client:
        await loop.sock_connect(client, (cell["to"], cell["port"]))
        await loop.sock_sendall(client, REQUEST)
        while part := await loop.sock_recv(client, 4096):
            answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    if " 200 " not in head.partition("\r\n")[0]:
        raise ValueError(head.partition("\r\n")[0] or "closed without an answer")
    return body.strip()


async def client(cell: dict[str, Any], told: dict[str, Any], done: asyncio.Event) -> None:
    """Ask at a steady rate, whether the last answer has come or not."""
    seen = told["answers"].setdefault(cell["id"], [])
    began, asked = time.monotonic(), set[asyncio.Task[None]]()

    async def one() -> None:
        since = time.monotonic()
        try:
            said = await asyncio.wait_for(ask(cell), LONG_ENOUGH)
        except (TimeoutError, OSError, ValueError) as error:
            told["failed"].append(f"{since - began:.2f} s: {cell['id']}: {type(error).__name__} {error}")
            return
        told["slowest"] = max(told["slowest"], time.monotonic() - since)
        if not seen or seen[-1][0] != said:
            seen.append([said, 0])
        seen[-1][1] += 1

    number = 0
    while not done.is_set():
        asked.add(task := asyncio.create_task(one()))
        task.add_done_callback(asked.discard)
        number += 1
        await asyncio.sleep(max(began + number / cell.get("rate", RATE) - time.monotonic(), 0))
    await asyncio.gather(*asked)


async def main() -> None:
    """Ask until it is told to stop."""
    cells, told = json.load(sys.stdin), {"answers": {}, "failed": [], "slowest": 0.0}
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.call_later(float(sys.argv[1]), done.set)
    await asyncio.gather(*(client(cell, told, done) for cell in cells))
    told["count"] = sum(count for seen in told["answers"].values() for _, count in seen)
    json.dump(told | {"lost": len(told["failed"]), "failed": told["failed"][:30]}, sys.stdout)


asyncio.run(main())
