# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that runs coroutines: with a time limit, and taking SIGTERM for what it is, a wish to end in order."""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from machines.errors import MachctlError, TimedOut

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(MachctlError):
    """A signal asked machctl to end."""


def run(
    work: Coroutine[Any, Any, T], *, timeout: float | None, what: str, afterwards: str = "", quick: bool = False
) -> T:
    """Run ``work`` to its end, for ``timeout`` seconds at most. Raises TimedOut and Interrupted.

    ``afterwards`` says how things are once it was interrupted. What is ``quick`` and seldom waits is begun without
    asyncio, and goes on in its loop from where it asks for that (machines.host.loop).
    """
    if not quick or timeout is not None:
        return _in_loop(work, [], timeout=timeout, what=what, afterwards=afterwards)
    caught: list[int] = []
    result: T
    with _handled(lambda number, _: caught.append(number)):
        try:
            work.send(None)
            result = _in_loop(_Rest(work), caught, timeout=None, what=what, afterwards=afterwards)
            caught.clear()
        except StopIteration as done:
            result = done.value
    if caught:
        # Nothing was left to interrupt but what comes next.
        signal.raise_signal(caught[0])
    return result


@contextmanager
def interruptible(what: str, *, afterwards: str = "") -> Iterator[None]:
    """Let a signal end what is waited for without asyncio. Raises Interrupted."""

    def end(number: int, _: object) -> None:
        raise _interrupted(what, afterwards, number)

    with _handled(end):
        yield


@contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Have the signals that ask machctl to end call ``handler`` meanwhile."""
    before = [signal.signal(number, handler) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, former in zip(_SIGNALS, before, strict=True):
            signal.signal(number, former)


def _interrupted(what: str, afterwards: str, number: int) -> Interrupted:
    return Interrupted(f"{what} was interrupted", hint=afterwards, exit_code=128 + number)


class _Rest:
    """What is left of a coroutine that was begun already, which await itself would refuse."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()


def _in_loop(work: Awaitable[T], caught: list[int], *, timeout: float | None, what: str, afterwards: str) -> T:
    import asyncio

    # What was imported stays anyway; looking at all of it once takes longer than most commands.
    gc.freeze()
    gc.enable()

    async def limited() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, _interrupt, number, caught, task)
        if caught:
            task.cancel()
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError:
            raise TimedOut(f"{what} took longer than {timeout:g} seconds", hint="give it more with --timeout") from None

    try:
        return asyncio.run(limited())
    except asyncio.CancelledError:
        number = caught[0] if caught else signal.SIGINT
        raise _interrupted(what, afterwards, number) from None


def _interrupt(number: int, caught: list[int], task: asyncio.Task[Any]) -> None:
    # Only the first one: taking back what was half done must not be interrupted in turn.
    if not caught:
        caught.append(number)
        task.cancel()
