# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs of the service manager, waited for by JobRemoved, org.freedesktop.systemd1(5).

All jobs that are waited for at one time share a connection and a match: starting fifty machines is fifty calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from machines.errors import MachctlError
from machines.host.bus.connection import Connection
from machines.host.bus.errors import job_failed
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE, SERVICE_UNIT, UNIT

Method = Literal["StartUnit", "StopUnit", "RestartUnit", "ReloadOrRestartUnit"]
Mode = Literal["replace", "fail"]

PROPERTIES = "org.freedesktop.DBus.Properties"

_WORDS = {"StartUnit": "start", "StopUnit": "stop", "RestartUnit": "restart", "ReloadOrRestartUnit": "reload"}


async def run_job(member: Method, unit: str, *, mode: Mode = "replace") -> None:
    """Call StartUnit, StopUnit and the like for ``unit`` and wait until the job is done.

    The caller owns the time limit; when it is cancelled the job goes on. Raises CommandFailed when the job ends
    any other way than done, TimedOut when systemd's own limit ran out (TimeoutStartSec=), and as
    errors.translate() says: Conflict with mode "fail" against another job, NotFound, NotPermitted.
    """
    doing = f"{_WORDS[member]} {unit}"
    async with _watching() as watcher:
        bus = await watcher.connected()
        job = await bus.call(SERVICE, PATH, MANAGER, member, "ss", unit, mode, doing=doing)
        result = await watcher.result(job, doing=doing)
        if result == "failed" and member != "StopUnit":
            # A job has no reason; the unit's is "timeout", "exit-code", "signal" ...
            result = await _unit_result(bus, unit)
    if result != "done":
        raise job_failed(doing, unit, result)


async def dispatch(unit: str) -> str:
    """Have systemd start ``unit`` and give the job, for wait_started() (StartUnit). Raises as errors.translate() says.

    Those of many units are on their way before the first reply.
    """
    doing = f"start {unit}"
    async with _watching() as watcher:
        bus = await watcher.connected()
        return str(await bus.call(SERVICE, PATH, MANAGER, "StartUnit", "ss", unit, "replace", doing=doing))


async def wait_started(unit: str, job: str) -> None:
    """Wait for a job that was dispatched by other means and that starts ``unit``; errors as run_job() has them."""
    await wait("start", unit, job)


async def wait(verb: str, unit: str, job: str) -> None:
    """Wait for a job that was dispatched by other means for a verb of systemctl(1); errors as run_job() has them.

    The job may have ended before anybody listened, so it is asked for once that is the case. How one ended that is no
    more the state of the unit says; where it does not, the unit is stopped or reloaded again.
    """
    doing = f"{verb} {unit}"
    async with _watching() as watcher:
        bus = await watcher.connected()
        result = "done"
        if await _exists(bus, job):
            result = await watcher.result(job, doing=doing)
        else:
            state = await _unit_property(bus, unit, UNIT, "ActiveState")
            if verb == "start":
                result = "done" if state in {"active", "reloading"} else "failed"
            elif verb != "stop" or state not in {"inactive", "failed"}:
                return await run_job("StopUnit" if verb == "stop" else "ReloadOrRestartUnit", unit)
        if result == "failed" and verb != "stop":
            result = await _unit_result(bus, unit)
    if result != "done":
        raise job_failed(doing, unit, result)


@asynccontextmanager
async def _watching() -> AsyncIterator[_Watcher]:
    loop = asyncio.get_running_loop()
    watcher = _watchers.setdefault(loop, _Watcher())
    watcher.users += 1
    try:
        yield watcher
    finally:
        watcher.users -= 1
        if watcher.users == 0:
            _watchers.pop(loop, None)
            await watcher.close()


class _Watcher:
    """The connection that JobRemoved is listened to on, for as long as it has users."""

    def __init__(self) -> None:
        self.users = 0
        self._bus = Connection()
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._is_open = False
        # A job may end before the reply that names it is here: whatever ends is kept.
        self._ended: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}

    async def connected(self) -> Connection:
        """Give the connection, with its match in place."""
        async with self._opening:
            if not self._is_open:
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(self._bus)
                    await stack.enter_async_context(
                        self._bus.signals(SERVICE, MANAGER, "JobRemoved", self._job_removed)
                    )
                    # systemd sends signals only to clients that asked for them.
                    await self._bus.call(SERVICE, PATH, MANAGER, "Subscribe", doing="listen to systemd")
                    self._stack = stack.pop_all()
                self._is_open = True
        return self._bus

    async def close(self) -> None:
        """Remove the match and disconnect."""
        await self._stack.aclose()

    async def result(self, job: str, *, doing: str) -> str:
        """Wait for the end of a job and give its result. Several may wait for the same: systemd merges jobs."""
        if job in self._ended:
            return self._ended[job]
        future = self._waiting.setdefault(job, asyncio.get_running_loop().create_future())
        await self._bus.wait_for(future, doing=doing)
        return future.result()

    def _job_removed(self, _path: str, body: list[Any]) -> None:
        _id, job, _unit, result = body
        self._ended[job] = result
        future = self._waiting.pop(job, None)
        if future is not None:
            future.set_result(result)


_watchers: dict[asyncio.AbstractEventLoop, _Watcher] = {}


async def _exists(bus: Connection, job: str) -> bool:
    try:
        await bus.call(SERVICE, job, PROPERTIES, "Get", "ss", f"{SERVICE}.Job", "State", doing=f"read {job}")
    except MachctlError:
        return False
    return True


async def _unit_property(bus: Connection, unit: str, interface: str, name: str) -> str:
    path = await bus.call(SERVICE, PATH, MANAGER, "LoadUnit", "s", unit, doing=f"read {unit}")
    return str(await bus.call(SERVICE, path, PROPERTIES, "Get", "ss", interface, name, doing=f"read {unit}"))


async def _unit_result(bus: Connection, unit: str) -> str:
    try:
        return await _unit_property(bus, unit, SERVICE_UNIT, "Result")
    except MachctlError:
        # It is no service, or is gone.
        return "failed"
