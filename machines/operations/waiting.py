# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for what becomes of a machine, by signals of systemd and changes of files."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from machines.errors import CommandFailed, InvalidValue, MachctlError, NotRunning, TimedOut
from machines.model.health import HEALTHY, UNHEALTHY, Health
from machines.model.names import machine_unit
from machines.operations.health import health_of, probe_of, state_of

if TYPE_CHECKING:
    from machines.host.interfaces import Host

STATES = ("running", "healthy", "stopped", "ip")

_SLACK_SECONDS = 30.0


def has_become(name: str, wanted: str, host: Host) -> bool:
    """Tell whether a machine is "running" (and ready), "healthy" or "stopped" now.

    Raises InvalidValue for one that is to be healthy and has no probe, which nothing would ever change.
    """
    entry = host.registered().get(name)
    if wanted == "healthy":
        if probe_of(name, host) is None:
            raise InvalidValue(
                f"machine {name} has no probe, so nobody knows whether it is healthy",
                hint=f'declare one: [machines.{name}.health] with http = "80/", or machctl wait {name} running',
            )
        return entry is not None and health_of(name, entry.leader, host) == HEALTHY
    unit = entry.unit if entry and entry.unit else machine_unit(name)
    active = host.units.states([unit]).get(unit, "inactive")
    if wanted == "running":
        return entry is not None and active in {"active", "reloading"}
    return entry is None and active in {"inactive", "failed"}


def wait_until(name: str, wanted: str, host: Host, *, timeout: float | None, give_up: bool = False) -> None:
    """Wait until a machine is as ``wanted``, "running", "healthy" or "stopped"; it need not even run yet.

    With ``give_up`` one that is unhealthy, and that its probe does not restart, has 30 seconds: CommandFailed.

    Raises TimedOut after ``timeout`` seconds, which says how it is then, and InvalidValue as has_become() does.
    """
    if has_become(name, wanted, host):
        return
    began = time.monotonic()
    end = None if timeout is None else began + timeout
    with host.watch(machine_unit(name)) as events:
        while not has_become(name, wanted, host):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise _too_late(name, wanted, host, timeout or 0)
            if give_up and time.monotonic() - began >= _SLACK_SECONDS:
                probe = probe_of(name, host)
                if probe is None or probe[0].on_failure != "restart":
                    _refuse_unhealthy(name, host)
            events.wait(min(left or _SLACK_SECONDS, _SLACK_SECONDS) if give_up else left)


def _too_late(name: str, wanted: str, host: Host, timeout: float) -> MachctlError:
    entry = host.registered().get(name)
    state = state_of(name, entry.leader, host) if entry else None
    if wanted == "healthy" and state is not None:
        why = f": {state.why}" if state.why else ""
        return TimedOut(
            f"machine {name} is {state.state} after {timeout:.3g} seconds{why}", hint=f"machctl health {name} says more"
        )
    how = "runs" if entry else "does not run"
    return TimedOut(
        f"machine {name} {how} after {timeout:.3g} seconds, and is not {wanted}", hint=f"machctl status {name}"
    )


async def await_well(name: str, health: Health, host: Host) -> None:
    """Wait until a machine that has just started is healthy, or known not to be.

    Raises CommandFailed for one that is unhealthy, or not healthy in all the time that its probe gives it; NotRunning.
    """
    import asyncio

    limit = health.start_period + health.retries * (health.interval + health.timeout) + _SLACK_SECONDS
    try:
        async with asyncio.timeout(limit):
            await await_healthy(name, host, give_up=True)
    except TimeoutError:
        raise CommandFailed(
            f"machine {name} is not healthy {limit:g} seconds after its start", hint=f"machctl health {name} says more"
        ) from None


async def await_healthy(name: str, host: Host, *, give_up: bool = False) -> None:
    """Wait until a machine that runs is healthy; the caller owns the time limit.

    With ``give_up`` one that is unhealthy is not waited for any more: CommandFailed.

    Raises NotRunning for one that has ended, InvalidValue for one without a probe.
    """
    async with watched(name, host) as event:
        while not has_become(name, "healthy", host):
            entry = host.registered().get(name)
            if entry is None:
                raise NotRunning(f"machine {name} ended before it was healthy", hint=f"machctl logs {name}")
            if give_up:
                _refuse_unhealthy(name, host)
            await event()


def _refuse_unhealthy(name: str, host: Host) -> None:
    entry = host.registered().get(name)
    state = state_of(name, entry.leader, host) if entry else None
    if state is not None and state.state == UNHEALTHY:
        why = f": {state.why}" if state.why else ""
        raise CommandFailed(f"machine {name} is unhealthy{why}", hint=f"machctl health {name} says more")


@asynccontextmanager
async def watched(name: str, host: Host) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Watch a machine; give what waits for the next event, of those that came since this began."""
    import asyncio

    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with host.watch(machine_unit(name)) as events:
        for fd in events.filenos():
            loop.add_reader(fd, changed.set)

        async def event() -> None:
            await changed.wait()
            changed.clear()
            events.take()

        try:
            yield event
        finally:
            for fd in events.filenos():
                loop.remove_reader(fd)
