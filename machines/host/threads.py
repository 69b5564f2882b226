# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long work that never waits on the event loop, in a thread that ends when whoever waits for it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from machines.errors import MachctlError
from machines.host.interfaces import Progress
from machines.host.loop import looped

T = TypeVar("T")


class Abandoned(MachctlError):
    """The work was cancelled while it went on."""


async def in_thread(work: Callable[[Progress], T], progress: Progress) -> T:
    """Do ``work`` in a thread and give its result; it is handed a progress function that it calls often.

    Being cancelled, this makes that function raise, and waits for the work to have cleaned up after itself.
    """
    await looped()
    import asyncio

    loop = asyncio.get_running_loop()
    cancelled = False

    def report(stage: str, done: int, total: int | None) -> None:
        if cancelled:
            raise Abandoned(f"{stage} was interrupted")
        loop.call_soon_threadsafe(progress, stage, done, total)

    running = asyncio.ensure_future(asyncio.to_thread(work, report))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancelled = True
        await asyncio.wait([running])
        # Whatever it ended with, it was told to.
        running.exception()
        raise
