# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs of systemd as operations want them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from machines.host.loop import looped

if TYPE_CHECKING:
    from machines.host import interfaces

Verb = Literal["start", "stop", "reload-or-restart"]
_METHODS: dict[Verb, Literal["StartUnit", "StopUnit", "ReloadOrRestartUnit"]] = {
    "start": "StartUnit", "stop": "StopUnit", "reload-or-restart": "ReloadOrRestartUnit",
}  # fmt: skip
# Asyncio and dbus-next take a tenth of a second to import, and a bridge is up in that time. What takes longer can be
# interrupted from then on (machines.cli.running.run).
_MOMENT = 1.0


class Jobs:
    """machines.host.interfaces.Jobs"""

    def __init__(self, units: interfaces.Units) -> None:
        self._units = units

    async def start(self, unit: str) -> None:
        """Start a unit and wait."""
        await self._run("start", unit)

    async def dispatch(self, unit: str) -> str:
        """Have a unit started and give the job."""
        await looped()
        from machines.host.bus import jobs

        return await jobs.dispatch(unit)

    async def wait_started(self, unit: str, job: str) -> None:
        """Wait for a job that was dispatched before."""
        await looped()
        from machines.host.bus import jobs

        await jobs.wait_started(unit, job)

    async def stop(self, unit: str) -> None:
        """Stop a unit and wait."""
        await self._run("stop", unit)

    async def reload(self, unit: str) -> None:
        """Reload a unit, or restart one that cannot, and wait."""
        await self._run("reload-or-restart", unit)

    async def restart(self, unit: str) -> None:
        """Restart a unit and wait."""
        await looped()
        from machines.host.bus import jobs

        await jobs.run_job("RestartUnit", unit)

    async def _run(self, verb: Verb, unit: str) -> None:
        # Where others want their turn nobody waits without the loop.
        job = None if _in_loop() else self._units.run_job(verb, unit, timeout=_MOMENT)
        if job == "":
            return
        await looped()
        from machines.host.bus import jobs

        await (jobs.wait(verb, unit, job) if job else jobs.run_job(_METHODS[verb], unit))


def _in_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
