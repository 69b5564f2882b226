# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines over D-Bus as operations want them, and a shell's terminal for whoever sits in front of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from machines.host.bus import machine1
from machines.host.loop import looped
from machines.host.terminal import forward


class Machines:
    """machines.host.interfaces.Machines"""

    async def power_off(self, name: str) -> None:
        """Power a machine off in order and wait."""
        await looped()
        await machine1.signal_and_wait(name, machine1.POWER_OFF)

    async def kill(self, name: str) -> None:
        """Kill a machine's leader and wait."""
        await looped()
        await machine1.signal_and_wait(name, signal.SIGKILL)


def open_shell(
    name: str,
    *,
    user: str,
    command: Sequence[str],
    env: Mapping[str, str],
    connected: Callable[[], None],
    timeout: float | None,
) -> str:
    """Open a shell in a machine and connect it to stdin and stdout until it ends; give why it ended."""
    path = command[0] if command else ""
    # machined makes an ExecStart= of the words, in which a "$" begins a variable (systemd.service(5), COMMAND LINES).
    command = [word.replace("$", "$$") for word in command]
    fd, _ = asyncio.run(
        asyncio.wait_for(machine1.open_shell(name, user=user, path=path, arguments=command, environment=env), timeout)
    )
    try:
        connected()
        return forward(fd, what=path or f"the shell in machine {name}")
    finally:
        os.close(fd)
