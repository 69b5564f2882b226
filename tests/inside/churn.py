# SPDX-License-Identifier: LGPL-2.1-or-later
"""Publish and unpublish ports of a running machine again and again, while clients use others. Runs in a throwaway host.

``churn.py MACHINE GUEST_PORT OPERATIONS FIRST_PORT``, and on stdin cells as probe.py has them, of ports that stay. For
each a client connects and asks as fast as it is answered, and one keeps a connection open over all of it. Prints a
JSON object: how many connections were made, what went wrong with them, and how long the operations took.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import probe

INSTALLED = "/usr/local/lib/machctl"
MODULES = ("machines.cli.quick", "machines.cli.verbs.publish", "machines.cli.wire", "machines.operations.fleet")
LOG = Path("/root/churn.log")
PAUSE = 0.05
"""Seconds between the questions of one client, or they would take all of the processors."""

LONG_ENOUGH = 5.0
"""Seconds after which a question counts as lost."""


# --- clients ---


async def client(cell: dict[str, Any], told: dict[str, Any], done: asyncio.Event) -> None:
    """Connect and ask again and again."""
    while not done.is_set():
        try:
            await asyncio.wait_for(probe.ask(cell), LONG_ENOUGH)
            told["connections"] += 1
        except (TimeoutError, OSError) as error:
            told["wrong"].append(f"{cell['id']}: {type(error).__name__} {error}")
        await asyncio.sleep(PAUSE)


async def stayer(cell: dict[str, Any], told: dict[str, Any], done: asyncio.Event) -> None:
    """Keep one connection, and ask on it again and again."""
    family = probe.socket.AF_INET6 if ":" in cell["to"] else probe.socket.AF_INET
    stream = probe.socket_at(cell["at"], family, probe.socket.SOCK_STREAM)
    await asyncio.get_running_loop().sock_connect(stream, (cell["to"], cell["port"]))
    reader, writer = await asyncio.open_connection(sock=stream)
    while not done.is_set():
        writer.write(b"who\n")
        try:
            if not await asyncio.wait_for(reader.readline(), LONG_ENOUGH):
                raise ConnectionResetError("closed")
            told["asked"] += 1
        except (TimeoutError, OSError) as error:
            told["wrong"].append(f"kept {cell['id']}: {type(error).__name__} {error}")
            return
        await asyncio.sleep(PAUSE)
    writer.close()


async def clients(machine: str, port: int, cells: list[dict[str, Any]], ready: int, stop: int) -> dict[str, Any]:
    """Serve in the machine and ask from everywhere until ``stop`` is closed."""
    told: dict[str, Any] = {"connections": 0, "asked": 0, "wrong": []}
    done = asyncio.Event()
    servers = await probe.serve("server", f"machine:{machine}", port)
    asyncio.get_running_loop().add_reader(stop, done.set)
    # The first answer, not the first question: a service behind a socket takes its time.
    await asyncio.gather(*(asyncio.wait_for(probe.ask(cell), LONG_ENOUGH) for cell in cells))
    os.write(ready, b"1")
    kept = [stayer(cell, told, done) for cell in cells if cell["protocol"] == "tcp"]
    await asyncio.gather(*kept, *(client(cell, told, done) for cell in cells))
    del servers
    return told


# --- what is done meanwhile ---


def machctl(*words: str) -> int:
    """Run machctl in a process that has its modules already; give its exit status."""
    pid = os.fork()
    if not pid:
        with LOG.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["machctl", *words]
        importlib.import_module("machines.cli").main()
        os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def operate(machine: str, guest: int, operations: int, first: int) -> dict[str, Any]:
    """Publish ports and take them back, ever other ones, of both protocols and more than one at a time."""
    sys.path[:0] = [INSTALLED, f"{INSTALLED}/vendor"]
    for module in MODULES:
        importlib.import_module(module)
    took, failed = [], []
    for number in range(operations // 2):
        port = first + number % 7
        ports = [f"{port}:{guest}{'/udp' if number % 3 == 1 else ''}"]
        if number % 10 == 0:
            ports.append(f"{first + 100}-{first + 109}:{guest}-{guest + 9}")
        for verb in ("publish", "unpublish"):
            began = time.monotonic()
            status = machctl("-q", verb, machine, *ports)
            took.append(time.monotonic() - began)
            if status:
                failed.append(f"{verb} {ports}: {status}")
    return {"seconds": sum(took), "median": statistics.median(took), "operations": len(took), "failed": failed}


def main() -> None:
    """Start the clients beside the operations, and print what came of both."""
    machine, guest, operations, first = sys.argv[1], *map(int, sys.argv[2:5])
    cells = json.load(sys.stdin)
    ready, readied = os.pipe()
    stopped, stop = os.pipe()
    results, result = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(stop)
        told = asyncio.run(clients(machine, guest, cells, readied, stopped))
        os.write(result, json.dumps(told | {"wrong": told["wrong"][:50], "lost": len(told["wrong"])}).encode())
        os._exit(0)
    for descriptor in (readied, result):
        os.close(descriptor)
    if not os.read(ready, 1):
        raise SystemExit("the clients did not start")
    LOG.unlink(missing_ok=True)
    done = operate(machine, guest, operations, first)
    os.close(stop)
    with os.fdopen(results) as pipe:
        told = json.load(pipe)
    os.waitpid(pid, 0)
    done["said"] = LOG.read_text()[-4000:] if LOG.exists() else ""
    json.dump(done | told, sys.stdout)


main()
