# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs of systemd as operations want them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from machines.host.loop import looped

if TYPE_CHECKING:
    from machines.host import interfaces

# Asyncio and dbus-next take a tenth of a second to import, and a bridge is up in that time. What takes longer can be
# interrupted from then on (machines.cli.running.run).
_MOMENT = 1.0


class Jobs:
    """machines.host.interfaces.Jobs"""

    def __init__(self, units: interfaces.Units) -> None:
        self._units = units

    async def start(self, unit: str) -> None:
        """Start a unit and wait."""
        if not self._done_at_once("start", unit):
            await looped()
            from machines.host.bus import jobs

            # systemd has one job for both calls.
            await jobs.run_job("StartUnit", unit)

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
        if not self._done_at_once("stop", unit):
            await looped()
            from machines.host.bus import jobs

            await jobs.run_job("StopUnit", unit)

    async def restart(self, unit: str) -> None:
        """Restart a unit and wait."""
        await looped()
        from machines.host.bus import jobs

        await jobs.run_job("RestartUnit", unit)

    def _done_at_once(self, verb: str, unit: str) -> bool:
        """Start or stop a unit, and tell whether that is done after a moment; not where others want their turn."""
        return not _in_loop() and self._units.run_job(verb, unit, timeout=_MOMENT)


def _in_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
