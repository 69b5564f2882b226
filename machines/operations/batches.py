# SPDX-License-Identifier: LGPL-2.1-or-later
"""Steps of many machines that are one call for all: systemd and nft read everything anyway, whoever asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from machines.errors import MachctlError
from machines.model.frozen import replace
from machines.operations.execute import execute
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.steps import Plan, Step

if TYPE_CHECKING:
    from machines.host.interfaces import Host

SHARED = (steps.LoadNat, steps.ReloadUnits, steps.ReloadNetworkd, steps.EnableUnit, steps.DisableUnit)


async def _others() -> None:
    """Let all go on that can."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


class Batches:
    """Does steps that many machines share once for all that wait for them at one time."""

    def __init__(self, host: Host, reporter: Reporter) -> None:
        self._host = host
        self._reporter = reporter
        self._waiting: dict[object, asyncio.Future[None]] = {}
        self._steps: dict[object, Plan] = {}
        self._changed = False

    async def do(self, step: Step) -> None:
        """Do a step of SHARED, with those like it that others want at the same time. Raises what that raises."""
        self._reporter.step(step)
        key = (type(step), getattr(step, "drop", False))
        self._steps.setdefault(key, []).append(step)
        if key not in self._waiting:
            self._waiting[key] = asyncio.ensure_future(self._later(key))
        batch = self._steps[key]
        try:
            # Whoever is cancelled takes nothing from the others.
            await asyncio.shield(self._waiting[key])
        except MachctlError:
            if len(batch) == 1:
                raise
            # One of them may be what is wrong.
            await execute([step], self._host, reporter=Reporter())

    async def _later(self, key: object) -> None:
        # All that can be done without waiting is done first, and much of it ends here as well.
        for _ in range(2):
            await _others()
        del self._waiting[key]
        wanted = self._steps.pop(key)
        units = tuple(step.unit for step in wanted if isinstance(step, (steps.EnableUnit, steps.DisableUnit)))
        if not units:
            await execute([_for_all(wanted)], self._host, reporter=Reporter())
        elif isinstance(wanted[0], steps.EnableUnit):
            self._host.units.enable([*units, "machines.target"])
            self._changed = True
        else:
            self._host.units.disable(list(units))
            self._changed = True

    def finish(self) -> None:
        """Have systemd know what starts at boot from now on: no machine waits for that, and one time does for all."""
        if self._changed:
            self._host.units.reload()


def _for_all(wanted: Plan) -> Step:
    """Give the step that does for all of these: for units that systemd may have forgotten, if it has any of them."""
    first = wanted[0]
    if not isinstance(first, steps.ReloadUnits):
        return first
    found = [step.units for step in wanted if isinstance(step, steps.ReloadUnits)]
    return replace(first, units=tuple(unit for units in found for unit in units) if all(found) else ())
