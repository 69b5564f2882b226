# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs of the service manager, waited for by JobRemoved (org.freedesktop.systemd1(5)); the caller owns the time limit."""

from __future__ import annotations

import asyncio
from typing import Any

from machines.errors import CommandFailed, MachctlError, TimedOut
from machines.host.bus.connection import Connection
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE

_WORDS = {"StartUnit": "start", "StopUnit": "stop", "RestartUnit": "restart"}


async def run_job(member: str, unit: str, *, mode: str = "replace") -> None:
    """Call StartUnit, StopUnit or RestartUnit for ``unit`` and wait until the job is done.

    Raises CommandFailed when it ends any other way than done, TimedOut when systemd's own limit ran out.
    """
    async with Connection() as bus:
        # systemd sends signals only to clients that asked for them.
        await bus.call(SERVICE, PATH, MANAGER, "Subscribe", doing="listen to systemd")
        removed: dict[str, str] = {}
        changed = asyncio.Event()

        def got(_path: str, body: list[Any]) -> None:
            _id, job, _unit, result = body
            removed[job] = result
            changed.set()

        async with bus.signals(SERVICE, MANAGER, "JobRemoved", got):
            doing = f"{_WORDS[member]} {unit}"
            job = await bus.call(SERVICE, PATH, MANAGER, member, "ss", unit, mode, doing=doing)
            while job not in removed:
                changed.clear()
                await changed.wait()
        if removed[job] != "done":
            raise _failure(doing, unit, removed[job])


def _failure(doing: str, unit: str, result: str) -> MachctlError:
    hint = f"journalctl -u {unit} says why"
    if result == "timeout":
        return TimedOut(f"cannot {doing}: systemd's own time limit ran out", hint=hint)
    return CommandFailed(f"cannot {doing}: {result}", hint=hint)
