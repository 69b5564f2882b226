# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coroutines that are begun without asyncio, and go on inside of its loop when something has to be waited for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from machines.cli.running import Interrupted, run
from machines.host.loop import looped

events: list[str] = []


@asynccontextmanager
async def held() -> AsyncIterator[None]:
    """Something that is to be let go of in any case."""
    try:
        yield
    finally:
        events.append("let go")


async def inside() -> bool:
    """Tell whether asyncio's loop runs."""
    return asyncio._get_running_loop() is not None


def test_what_never_waits_needs_no_loop() -> None:
    assert run(inside(), timeout=None, what="x", quick=True) is False
    assert run(inside(), timeout=None, what="x") is True
    assert run(inside(), timeout=5, what="x", quick=True) is True


def test_what_waits_goes_on_in_the_loop() -> None:
    async def work() -> list[bool]:
        async with held():
            found = [await inside()]
            await looped()
            await asyncio.sleep(0)
            await looped()
            return [*found, await inside()]

    events.clear()
    assert run(work(), timeout=None, what="x", quick=True) == [False, True]
    assert events == ["let go"]


def test_errors_come_through() -> None:
    async def work(*, wait: bool) -> None:
        if wait:
            await looped()
        raise ValueError(wait)

    for wait in (False, True):
        with pytest.raises(ValueError, match=str(wait)):
            run(work(wait=wait), timeout=None, what="x", quick=True)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("early", [True, False])
def test_a_signal_takes_back_what_is_half_done(early: bool) -> None:
    async def work() -> None:
        async with held():
            if early:
                os.kill(os.getpid(), signal.SIGTERM)
            await looped()
            if not early:
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)

    events.clear()
    with pytest.raises(Interrupted) as raised:
        run(work(), timeout=None, what="x", quick=True)
    assert raised.value.exit_code == 143
    assert events == ["let go"]


def test_a_signal_at_the_end_ends_what_comes_next() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(work(), timeout=None, what="x", quick=True)
