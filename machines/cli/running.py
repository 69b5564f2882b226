# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that runs coroutines: with a time limit, and taking SIGTERM for what it is, a wish to end in order."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from machines.errors import MachctlError, TimedOut

T = TypeVar("T")


class Interrupted(MachctlError):
    """A signal asked machctl to end."""


def run(work: Coroutine[Any, Any, T], *, timeout: float | None, what: str, afterwards: str = "") -> T:
    """Run ``work`` to its end, for ``timeout`` seconds at most. Raises TimedOut and Interrupted.

    ``afterwards`` says how things are once it was interrupted.
    """
    caught: list[int] = []
    gc.enable()

    async def limited() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, _interrupt, number, caught, task)
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError:
            raise TimedOut(f"{what} took longer than {timeout:g} seconds", hint="give it more with --timeout") from None

    try:
        return asyncio.run(limited())
    except asyncio.CancelledError:
        number = caught[0] if caught else signal.SIGINT
        raise Interrupted(f"{what} was interrupted", hint=afterwards, exit_code=128 + number) from None


def _interrupt(number: int, caught: list[int], task: asyncio.Task[Any]) -> None:
    # Only the first one: taking back what was half done must not be interrupted in turn.
    if not caught:
        caught.append(number)
        task.cancel()
