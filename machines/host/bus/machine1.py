# SPDX-License-Identifier: LGPL-2.1-or-later
"""machined, org.freedesktop.machine1(5)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from machines.host.bus.connection import Connection

SERVICE = "org.freedesktop.machine1"
PATH = "/org/freedesktop/machine1"
MANAGER = SERVICE + ".Manager"

# What systemd as PID 1 takes for "power off" (systemd(1), SIGRTMIN+4).
POWER_OFF = signal.SIGRTMIN + 4


async def signal_and_wait(name: str, number: int) -> None:
    """Send a signal to the leader of a machine and wait until machined has forgotten the machine.

    Raises NotRunning, Unsupported without machined; the caller owns the time limit.
    """
    async with Connection() as bus:
        gone = asyncio.Event()

        def removed(_path: str, body: list[Any]) -> None:
            if body[0] == name:
                gone.set()

        async with bus.signals(SERVICE, MANAGER, "MachineRemoved", removed):
            await bus.call(
                SERVICE,
                PATH,
                MANAGER,
                "KillMachine",
                "ssi",
                name,
                "leader",
                int(number),
                doing=f"signal machine {name}",
            )
            await gone.wait()


async def open_shell(
    name: str, *, user: str, path: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, str]:
    """Open a shell in a machine and give the descriptor of its terminal, the caller's to close, and its path inside.

    ``path`` "" is the user's login shell; ``arguments`` is the whole argv (OpenMachineShell).
    """
    async with Connection() as bus:
        variables = [f"{key}={value}" for key, value in environment.items()]
        fd, terminal = await bus.call(
            SERVICE, PATH, MANAGER, "OpenMachineShell", "sssasas",
            name, user, path, list(arguments), variables, doing=f"open a shell in machine {name}",
        )  # fmt: skip
        return fd, terminal
