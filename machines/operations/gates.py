# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replicas one after the other: no more of a group are away at one time than it can do without."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict

if TYPE_CHECKING:
    import asyncio

    from machines.model.machine import Machine


class Gates:
    """Lets so many machines of each group through at a time (``limits``, by group), and none after one has failed."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._failed: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def through(self, name: str, group: str) -> AsyncIterator[None]:
        """Wait for the turn of machine ``name``, and have it until the end. Raises Conflict where another failed."""
        if group not in self.limits:
            yield
            return
        import asyncio

        gate = self._gates.setdefault(group, asyncio.Semaphore(self.limits[group]))
        async with gate:
            if failed := self._failed.get(group):
                raise Conflict(
                    f"machine {name} is left as it is: {failed} is of the same group, and did not come through",
                    hint=f"machctl status {failed}; correct that, and do the same again",
                )
            try:
                yield
            except BaseException:
                self._failed[group] = name
                raise


def limits_of(machines: Mapping[str, Machine], *, otherwise: int | None = None) -> dict[str, int]:
    """Give how many of each group may be away at one time: max-unavailable, ``otherwise`` where it says nothing."""
    limits = {each.group: each.max_unavailable or otherwise for each in machines.values() if each.group}
    return {group: limit for group, limit in limits.items() if limit is not None}
