# SPDX-License-Identifier: LGPL-2.1-or-later
"""Units inside a running machine, waited for by the signals of its own systemd (org.freedesktop.systemd1(5))."""

from __future__ import annotations

import os
import select
import time

from machines.errors import CommandFailed, TimedOut
from machines.host.bus._sdbus import Bus, BusError
from machines.host.bus.guest import open_machine
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE, UNIT

_ACTIVE = {"active", "reloading"}
# What is not there, or must not be started, does not come by itself once the machine has booted (systemctl(1)).
_BOOTED = {"running", "degraded"}
_ENDED = {"inactive", "failed"}
_NEVER = {"not-found", "masked", "bad-setting", "error"}


def wait_unit(machine: str, unit: str, *, leader: int, timeout: float) -> None:
    """Wait until ``unit`` is active in a running machine led by ``leader``, for ``timeout`` seconds at most.

    Raises NotRunning, Unsupported for a machine without systemd or a bus, CommandFailed where the machine stops
    meanwhile, or has booted and the unit is not there or has failed, TimedOut.
    """
    bus = open_machine(machine)
    try:
        _wait(bus, machine, unit, leader, time.monotonic() + timeout)
    except BusError as error:
        raise error.translated(doing=f"wait for {unit} of machine {machine}") from None
    finally:
        bus.close()


def _wait(bus: Bus, machine: str, unit: str, leader: int, end: float) -> None:
    # Whatever becomes active does so by a job; the state itself is looked at after each, and once in a second.
    bus.match(SERVICE, PATH, MANAGER, "JobRemoved", lambda _: None)
    bus.call(SERVICE, PATH, MANAGER, "Subscribe")
    pid = os.pidfd_open(leader)
    poller = select.poll()
    poller.register(bus.fileno(), select.POLLIN)
    poller.register(pid, select.POLLIN)
    try:
        while (state := _state(bus, unit)) not in _ACTIVE:
            if why := _never(bus, unit, state):
                raise CommandFailed(
                    f"unit {unit} of machine {machine} does not become active: it is {why}",
                    hint=f"machctl exec {machine} -- systemctl status {unit}",
                )
            left = end - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"unit {unit} of machine {machine} did not become active: it is {state}",
                    hint=f"machctl exec {machine} -- systemctl status {unit}",
                )
            if any(fd == pid for fd, _ in poller.poll(min(left, 1.0) * 1000)):
                raise CommandFailed(f"machine {machine} stopped meanwhile", hint=f"machctl logs {machine} says why")
            bus.dispatch()
    finally:
        os.close(pid)


def _never(bus: Bus, unit: str, state: str) -> str:
    """Say why nothing will start a unit any more, as far as that is known; else ""."""
    if state not in _ENDED or str(bus.get(SERVICE, PATH, MANAGER, "SystemState", "s")) not in _BOOTED:
        return ""
    # It may have become active before the boot was over.
    state, loaded = _state(bus, unit), _state(bus, unit, "LoadState")
    return loaded if loaded in _NEVER else state if state == "failed" else ""


def _state(bus: Bus, unit: str, name: str = "ActiveState") -> str:
    return str(bus.get(SERVICE, bus.object_path(f"{PATH}/unit", unit), UNIT, name, "s"))
