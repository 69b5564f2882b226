# SPDX-License-Identifier: LGPL-2.1-or-later
"""One thing done to several machines at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from machines.errors import MachctlError


async def for_each(names: Iterable[str], act: Callable[[str], Awaitable[object]]) -> dict[str, MachctlError]:
    """Do something to every machine at once; give the errors of those where it failed."""
    import asyncio

    failed: dict[str, MachctlError] = {}

    async def one(name: str) -> None:
        try:
            await act(name)
        except MachctlError as error:
            failed[name] = error
        except OSError as error:
            # Whatever the file system refuses one machine must not end what is done for the others.
            failed[name] = MachctlError(f"{name}: {error}", hint="df and dmesg may say more")

    await asyncio.gather(*(one(name) for name in names))
    return failed
