# SPDX-License-Identifier: LGPL-2.1-or-later
"""One thing done to several machines at once."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from machines.errors import MachctlError


@contextlib.contextmanager
def noted(name: str, failed: dict[str, MachctlError]) -> Iterator[None]:
    """Note what goes wrong with one of several machines, and end but what is done to that one."""
    try:
        yield
    except MachctlError as error:
        failed[name] = error
    except OSError as error:
        # Whatever the file system refuses one machine must not end what is done for the others.
        failed[name] = MachctlError(f"{name}: {error}", hint="df and dmesg may say more")


async def for_each(names: Iterable[str], act: Callable[[str], Awaitable[object]]) -> dict[str, MachctlError]:
    """Do something to every machine at once; give the errors of those where it failed."""
    import asyncio

    failed: dict[str, MachctlError] = {}

    async def one(name: str) -> None:
        with noted(name, failed):
            await act(name)

    await asyncio.gather(*(one(name) for name in names))
    return failed


Before = Callable[[], Awaitable[list[str]]]
"""Waits for all that a machine comes after; gives those of them that failed."""


async def in_order(
    names: Iterable[str],
    order: Mapping[str, Iterable[str]],
    act: Callable[[str, Before], Awaitable[object]],
    *,
    failed: Mapping[str, MachctlError],
    ended: Callable[[str, MachctlError | None], object],
) -> dict[str, MachctlError]:
    """Do something to every machine at once, each of which waits where it has to; give all errors, ``failed`` too.

    ``order`` says what each comes after; ``ended`` is called for each that is done, or was left with an error.
    """
    import asyncio

    done = {name: asyncio.Event() for name in names}
    errors = dict(failed)

    async def before(name: str) -> list[str]:
        for other in order.get(name, ()):
            if other in done:
                await done[other].wait()
        return [other for other in order.get(name, ()) if other in errors]

    async def one(name: str) -> None:
        found = await for_each([name], lambda each: act(each, lambda: before(each)))
        errors.update(found)
        ended(name, found.get(name))
        done[name].set()

    await asyncio.gather(*(one(name) for name in done))
    return errors
