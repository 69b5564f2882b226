# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that are held still by the kernel's freezer (cgroups(7); cgroup.freeze in the kernel's cgroup-v2.rst).

What runs in a machine is held, and not its unit, which has nspawn in it as well: systemd before 258 ends a frozen
service whose watchdog is not fed any more (systemd#38517), and one that was killed while it was frozen neither stops
nor starts again (systemd#41842). nspawn keeps itself and the machine in two groups below that of the unit.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotRunning
from machines.host.files import LOCK_DIRECTORY, read_text, remove_file, write_file
from machines.host.meters.cgroup import group_of
from machines.host.registered import registered, registered_machine

if TYPE_CHECKING:
    from machines.host.interfaces import Registered

_FREEZE_SECONDS = 30.0
_NSPAWN, _MACHINE = "supervisor", "payload"
_PAUSED, _HELD = "paused", "held"


def freeze(name: str) -> bool:
    """Hold a running machine still, with commands that run in it; false where it was held still already.

    Raises NotRunning, and MachctlError where it goes on for 30 seconds.
    """
    entry = registered_machine(name)
    unit = _unit(entry)
    if entry is None or unit is None:
        raise NotRunning(f"machine {name} is not running", hint=f"machctl start {name}")
    if _state(entry):
        return False
    groups = _groups(unit)
    try:
        for group in groups:
            _set(group, frozen=True)
        end = time.monotonic() + _FREEZE_SECONDS
        if not all(_await_frozen(group, end) for group in groups):
            raise MachctlError(
                f"machine {name} cannot be held still: it has a process that the kernel cannot interrupt",
                hint=f"machctl exec {name} -- ps -eo pid,state,args shows which: it has a D",
            )
    except BaseException:
        thaw(name)
        raise
    return True


def thaw(name: str) -> None:
    """Let a machine go on that was held still by freeze(), unless it is to be paused. One that has ended is fine.

    Raises MachctlError with what the kernel says.
    """
    entry = registered_machine(name)
    if entry is not None and not _is_marked(entry):
        _thaw(_unit(entry))


def pause(name: str) -> bool:
    """Hold a machine still until resume(); false where it is so already. Raises as freeze() does."""
    entry = registered_machine(name)
    if _state(entry) == _PAUSED:
        return False
    freeze(name)
    if entry is not None:
        # Whoever lists machines is to see it.
        write_file(_mark(name), str(entry.leader))
    return True


def resume(name: str) -> str:
    """Let a machine go on, whoever holds it still; give its unit, if that is what is frozen, for systemd to thaw it.

    One that ended is fine. Raises MachctlError with what the kernel says.
    """
    entry = registered_machine(name)
    unit = _unit(entry)
    _thaw(unit)
    remove_file(_mark(name))
    return entry.unit if entry is not None and unit is not None and _says_frozen(unit) else ""


def _thaw(unit: str | None) -> None:
    for group in _groups(unit) if unit is not None else ():
        if _says_frozen(group):
            _set(group, frozen=False)


def follow(group: str) -> None:
    """Hold what is going to run in ``group``, a new one beside that of a machine, still for as long as the machine."""
    machine = f"{os.path.dirname(group)}/{_MACHINE}"
    if _says_frozen(machine):
        _set(group, frozen=True)
        if not _says_frozen(machine):
            # It was let go on just now, perhaps before there was anything to see of this group.
            _set(group, frozen=False)


def is_frozen(name: str) -> bool:
    """Tell whether a machine is held still, whoever does so."""
    return _state(registered_machine(name)) != ""


def is_paused(name: str) -> bool:
    """Tell whether somebody wants a machine to be held still: by pause(), or by "systemctl freeze"."""
    return _state(registered_machine(name)) == _PAUSED


def is_held(name: str) -> bool:
    """Tell whether a machine is held still, although nobody wants it to be paused: it is being copied."""
    return _state(registered_machine(name)) == _HELD


def refuse_paused(name: str) -> None:
    """Raise Conflict for a machine that is paused: it would answer nobody."""
    if is_paused(name):
        raise Conflict(f"machine {name} is paused", hint=f"machctl resume {name}")


def paused_machines(running: Iterable[Registered] | None = None) -> frozenset[str]:
    """Give the machines that somebody wants to be held still, of those ``running`` where that is known."""
    found = registered() if running is None else running
    return frozenset(entry.name for entry in found if _state(entry) == _PAUSED)


def held_machines() -> frozenset[str]:
    """Give the machines of which is_held() is true."""
    return frozenset(entry.name for entry in registered() if _state(entry) == _HELD)


def _state(entry: Registered | None) -> str:
    """Give why a machine is held still, "" for one that is not."""
    unit = _unit(entry)
    if entry is None or unit is None:
        return ""
    if _says_frozen(unit):
        return _PAUSED
    if not _says_frozen(f"{unit}/{_MACHINE}"):
        return ""
    return _PAUSED if _is_marked(entry) else _HELD


def _unit(entry: Registered | None) -> str | None:
    return group_of(entry.leader, entry.unit) if entry is not None and entry.unit else None


def _groups(unit: str) -> list[str]:
    """Give the groups of what runs in a machine; a virtual machine is one with what runs it.

    That of the machine comes first: what is about to join it sees then what has become of it (see follow()).
    """
    try:
        with os.scandir(unit) as entries:
            # In .control systemd runs the commands of the unit, which are to do their work.
            names = {entry.name for entry in entries if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)}
    except OSError:
        return []
    if _MACHINE not in names:
        return [unit]
    return [f"{unit}/{name}" for name in (_MACHINE, *sorted(names - {_MACHINE, _NSPAWN}))]


def _says_frozen(group: str) -> bool:
    return (read_text(f"{group}/cgroup.freeze") or "").strip() == "1"


def _set(group: str, *, frozen: bool) -> None:
    path = f"{group}/cgroup.freeze"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1" if frozen else b"0")
        finally:
            os.close(fd)
    except OSError as error:
        # Otherwise it has ended, and takes nothing with it.
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise MachctlError(f"{path} cannot be written: {error.strerror}") from error


def _await_frozen(group: str, end: float) -> bool:
    """Wait until all of a group is still, at most until ``end`` of the monotonic clock; one that has ended is."""
    try:
        fd = os.open(f"{group}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        events = select.poll()
        events.register(fd, select.POLLPRI)
        while b"frozen 0" in os.pread(fd, 4096, 0):
            if time.monotonic() >= end:
                return False
            events.poll(max(end - time.monotonic(), 0) * 1000)
    except OSError:
        return True
    finally:
        os.close(fd)
    return True


def _is_marked(entry: Registered) -> bool:
    # The mark of an earlier run of the machine says nothing of this one.
    return read_text(_mark(entry.name)) == str(entry.leader)


def _mark(name: str) -> str:
    return f"{LOCK_DIRECTORY}/paused-{name}"
