# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd and machined say of machines while it happens (MachineNew, MachineRemoved and PropertiesChanged)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from machines.host.bus import machine1
from machines.host.bus.connection import Connection
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE
from machines.host.inotify import Changes
from machines.host.loop import looped

PROPERTIES = "org.freedesktop.DBus.Properties"
_UNITS = f"{PATH}/unit/"

Told = Callable[[str, str, Mapping[str, Any]], None]


async def follow(told: Told, patterns: Sequence[str], directory: str) -> None:
    """Call ``told`` until the connection ends or this is cancelled; it must not raise.

    It is told ("unit", UNIT, properties that changed) of units with names like the ``patterns``, first all that are
    loaded now, then ("listening", "", {}), and from there on ("new", MACHINE, {}), ("gone", MACHINE, {}) and, when
    something changed in the ``directory``, ("files", "", {}). Raises Unsupported where there is no bus, CommandFailed
    when the connection ends.
    """
    await looped()
    from fnmatch import fnmatchcase

    def changed(path: str, body: list[Any]) -> None:
        # The last property of a unit of its own kind comes with the interface of that kind.
        unit = unit_of(path)
        if any(fnmatchcase(unit, pattern) for pattern in patterns):
            told("unit", unit, body[1])

    def new(_path: str, body: list[Any]) -> None:
        told("new", body[0], {})

    def gone(_path: str, body: list[Any]) -> None:
        told("gone", body[0], {})

    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Connection())
        for member, got in (("MachineNew", new), ("MachineRemoved", gone)):
            await stack.enter_async_context(bus.signals(machine1.SERVICE, machine1.MANAGER, member, got))
        await stack.enter_async_context(bus.signals(SERVICE, PROPERTIES, "PropertiesChanged", changed))
        await bus.call(SERVICE, PATH, MANAGER, "Subscribe", doing="listen to systemd")
        units = await bus.call(
            SERVICE, PATH, MANAGER, "ListUnitsByPatterns", "asas", [], list(patterns), doing="list units"
        )
        for name, _, _, active, sub, *_ in units:
            told("unit", name, {"ActiveState": active, "SubState": sub})
        changes = stack.enter_context(Changes(directory))
        loop = asyncio.get_running_loop()

        def files() -> None:
            changes.take()
            told("files", "", {})

        loop.add_reader(changes.fileno(), files)
        stack.callback(loop.remove_reader, changes.fileno())
        told("listening", "", {})
        await bus.wait_for(loop.create_future(), doing="watch machines")


def unit_of(path: str) -> str:
    """Give the name of the unit that an object is (sd_bus_path_decode(3)); "" where it is none."""
    if not path.startswith(_UNITS):
        return ""
    first, *rest = path[len(_UNITS) :].split("_")
    try:
        return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
    except ValueError:
        return ""
