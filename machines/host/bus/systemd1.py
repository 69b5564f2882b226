# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's service manager: reading the state of units, and calls that return at once.

org.freedesktop.systemd1(5). Jobs, which take time, are in jobs.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

from machines.errors import Canceled, CommandFailed, MachctlError, NotFound, TimedOut
from machines.host.bus._sdbus import CALL_TIMEOUT, Bus, BusError, open_host
from machines.host.bus.errors import job_failed
from machines.model.frozen import NamedTuple
from machines.model.limits import PROPERTIES, TASKS, Limits

SERVICE = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = SERVICE + ".Manager"
UNIT = SERVICE + ".Unit"
SERVICE_UNIT = SERVICE + ".Service"

_UNKNOWN = 2**64 - 1


class UnitState(NamedTuple):
    """What systemctl list-units shows of a unit; ``job`` is the type of the job that is under way, or empty."""

    active: str
    sub: str
    load: str
    job: str = ""


class UnitDetails(NamedTuple):
    """What ``status`` shows of a service; the time in microseconds since the epoch, None where not known."""

    active: str
    memory: int | None
    memory_max: int | None
    cpu_nsec: int | None
    tasks: int | None
    active_since: int | None
    result: str
    restarts: int = 0


class SystemdManager:
    """The manager over one connection, opened at the first call; close it or use it as a context manager.

    A call takes 90 s at most and cannot be interrupted. All methods raise Unsupported (no bus), NotPermitted,
    NotFound (no such unit), TimedOut and CommandFailed, and name the unit.
    """

    def __init__(self) -> None:
        self._bus: Bus | None = None
        self._ended: dict[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        bus, self._bus = self._bus, None
        self._ended = None
        if bus is not None:
            bus.close()

    def unit_states(self, patterns: Sequence[str]) -> dict[str, UnitState]:
        """Give the loaded units whose names match the globs, by name (ListUnitsByPatterns)."""
        units = self._call("list units", "ListUnitsByPatterns", "asas", [], list(patterns))
        return {
            name: UnitState(active=active, sub=sub, load=load, job=job_type if job else "")
            for name, _, load, active, sub, _, _, job, job_type, *_ in units
        }

    def start(self, unit: str) -> str:
        """Dispatch a job that starts ``unit`` and give its path, which jobs.wait_started() waits for (StartUnit)."""
        return str(self._call(f"start {unit}", "StartUnit", "ss", unit, "replace"))

    def dispatch(self, verb: str, unit: str) -> None:
        """Dispatch a job that starts, stops or restarts ``unit`` (StartUnit and so on)."""
        self._call(f"{verb} {unit}", f"{verb.capitalize()}Unit", "ss", unit, "replace")

    def run_jobs(self, verb: str, units: Sequence[str]) -> None:
        """Start, stop, restart or reload units (StartUnit and so on) and wait for all, for what takes moments only.

        Raises CommandFailed for the first that failed, TimedOut after 90 s.
        """
        ended = self._followed()
        jobs = {unit: str(self._call(f"{verb} {unit}", _member(verb), "ss", unit, "replace")) for unit in units}
        if not self._wait(lambda: ended.keys() >= set(jobs.values()), CALL_TIMEOUT):
            raise TimedOut(f"{verb} {' '.join(units)} took longer than {CALL_TIMEOUT} seconds")
        for unit, job in jobs.items():
            if ended[job] not in {"done", "skipped"}:
                kind = Canceled if ended[job] == "canceled" else CommandFailed
                raise kind(f"{verb} {unit}: the job ended as {ended[job]}", hint=f"journalctl -u {unit} says more")

    def run_job(self, verb: str, unit: str, *, timeout: float) -> str:
        """Start, stop or reload-or-restart a unit and wait; the job, where that takes longer than ``timeout`` seconds.

        Raises as machines.host.bus.jobs.run_job() does.
        """
        ended, doing = self._followed(), f"{verb} {unit}"
        job = str(self._call(doing, _member(verb), "ss", unit, "replace"))
        if not self._wait(lambda: job in ended, timeout):
            return job
        result = ended[job]
        if result == "failed" and verb != "stop":
            # Others than services have none.
            with contextlib.suppress(MachctlError):
                result = str(self.unit_property(unit, SERVICE_UNIT, "Result", "s"))
        if result != "done":
            raise job_failed(doing, unit, result)
        return ""

    def wait_started(self, unit: str, job: str, *, timeout: float) -> bool:
        """Wait for a job of start(), listening to JobRemoved; False after ``timeout`` seconds. Signals interrupt it.

        For one unit: asyncio and what it needs take longer to import than a quarter of what they would wait for.
        Raises CommandFailed when the job ends any other way than done, TimedOut where that was systemd's own limit.
        """
        ended = self._followed()
        # It may have ended before anybody listened; the state of the unit says how.
        if self._exists(job) and not self._wait(lambda: job in ended, timeout):
            return False
        active = self.unit_property(unit, UNIT, "ActiveState", "s") in {"active", "reloading"}
        result = ended.get(job, "done" if active else "failed")
        if result == "failed":
            result = str(self.unit_property(unit, SERVICE_UNIT, "Result", "s"))
        if result != "done":
            raise job_failed(f"start {unit}", unit, result)
        return True

    def wait_active(self, wanted: Mapping[str, bool], *, timeout: float) -> bool:
        """Wait until each unit is active, or is not, as ``wanted``; False after ``timeout`` seconds."""

        def settled() -> bool:
            states = self.unit_states(list(wanted))
            return all((unit in states and states[unit].active == "active") == on for unit, on in wanted.items())

        if settled():
            return True
        self._followed()
        return self._wait(settled, timeout)

    def _followed(self) -> dict[str, str]:
        """Give where the jobs that end come to stand from now on: path to result (JobRemoved)."""
        if self._ended is None:
            ended = self._ended = {}
            # It has the job's number, its path, its unit and how it ended.
            self._open().match(SERVICE, PATH, MANAGER, "JobRemoved", lambda body: ended.update({body[1]: body[3]}))
            # systemd sends signals only to clients that asked for them, and refuses those who ask twice.
            self._call("listen to systemd", "Subscribe")
        return self._ended

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Handle messages until something is ``done``; False after ``timeout`` seconds."""
        bus, end = self._open(), time.monotonic() + timeout
        poller = select.poll()
        poller.register(bus.fileno(), select.POLLIN)
        bus.dispatch()
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            # What came during a call is not in the socket any more, and of states of units nobody tells here.
            poller.poll(min(left, 0.1) * 1000)
            bus.dispatch()
        return True

    def _exists(self, job: str) -> bool:
        try:
            self._open().get(SERVICE, job, f"{SERVICE}.Job", "State", "s")
        except BusError:
            return False
        return True

    def enable(self, units: Sequence[str]) -> None:
        """Make the units start at boot (EnableUnitFiles); reload() afterwards. Raises Conflict where another
        file is in the way."""
        self._call(f"enable {' '.join(units)}", "EnableUnitFiles", "asbb", list(units), False, False)

    def disable(self, units: Sequence[str]) -> None:
        """Undo enable() (DisableUnitFiles); units that are not enabled are fine; reload() afterwards."""
        self._call(f"disable {' '.join(units)}", "DisableUnitFiles", "asb", list(units), False)

    def reload(self) -> None:
        """Have all unit files read again (Reload); returns when it is done. Raises TimedOut after 90 s."""
        self._call("reload the unit files", "Reload")

    def reset_failed(self, unit: str) -> None:
        """Forget that the unit failed (ResetFailedUnit); a unit that is not loaded is fine."""
        try:
            self._call(f"reset {unit}", "ResetFailedUnit", "s", unit)
        except NotFound:
            return

    def thaw(self, unit: str) -> None:
        """Let the processes of a unit go on that somebody froze by FreezeUnit (ThawUnit)."""
        self._call(f"thaw {unit}", "ThawUnit", "s", unit)

    def kill(self, unit: str, whom: str, signal: int) -> None:
        """Send a signal to the "main", the "control" or "all" processes of the unit (KillUnit)."""
        self._call(f"send signal {int(signal)} to {unit}", "KillUnit", "ssi", unit, whom, int(signal))

    def set_properties(self, unit: str, properties: Mapping[str, tuple[str, object]], *, runtime: bool) -> None:
        """Change properties of a running unit, each a signature and a value (SetUnitProperties);
        ``runtime``: until the next boot only."""
        items = list(properties.items())
        self._call(f"change {', '.join(properties)} of {unit}", "SetUnitProperties", "sba(sv)", unit, runtime, items)

    def set_limits(self, unit: str, limits: Limits, left: Collection[str] = ()) -> None:
        """Set what a running unit may use at most; None is no limit, and of weights and tasks what all have.

        What is ``left`` stays as it is.

        systemd writes a drop-in below /run as well, which would hide the unit's own from then on: it is removed, and
        the unit's files, which have to say the same, are read again.
        """
        said: dict[str, float | None] = {**limits._asdict(), "tasks": limits.tasks or TASKS}
        if limits.cpus is not None:
            said["cpus"] = round(limits.cpus * 1_000_000)
        names = {**PROPERTIES, "cpus": "CPUQuotaPerSecUSec"}
        chosen = [name for name in said if name not in left]
        values = {names[name]: ("t", _UNKNOWN if said[name] is None else said[name]) for name in chosen}
        self.set_properties(unit, values, runtime=True)
        for name in {known[each] for known in (PROPERTIES, names) for each in chosen}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/run/systemd/system.control/{unit}.d/50-{name}.conf")
        self.reload()

    def unit_property(self, unit: str, interface: str, name: str, signature: str) -> Any:
        """Give one property, a str, number, list or tuple as its D-Bus ``signature`` says. The interface is
        UNIT or SERVICE_UNIT; a unit that is not loaded has its defaults."""
        doing = f"read {name} of {unit}"
        bus = self._open()
        try:
            return bus.get(SERVICE, bus.object_path(f"{PATH}/unit", unit), interface, name, signature)
        except BusError as error:
            raise error.translated(doing=doing) from None

    def allowed_devices(self, unit: str) -> tuple[tuple[str, str], ...]:
        """Give the devices that a unit may use, as paths or classes, and what it may do with them (DeviceAllow=)."""
        return tuple((path, access) for path, access in self.unit_property(unit, SERVICE_UNIT, "DeviceAllow", "a(ss)"))

    def unit_details(self, unit: str) -> UnitDetails:
        """Give what is known of a service, running or not."""

        def of_unit(name: str, signature: str) -> Any:
            return self.unit_property(unit, UNIT, name, signature)

        def of_service(name: str, signature: str) -> Any:
            return self.unit_property(unit, SERVICE_UNIT, name, signature)

        def counter(name: str) -> int | None:
            value = int(of_service(name, "t"))
            return None if value == _UNKNOWN else value

        return UnitDetails(
            active=of_unit("ActiveState", "s"),
            memory=counter("MemoryCurrent"),
            memory_max=counter("MemoryMax"),
            cpu_nsec=counter("CPUUsageNSec"),
            tasks=counter("TasksCurrent"),
            active_since=of_unit("ActiveEnterTimestamp", "t") or None,
            result=of_service("Result", "s"),
            restarts=int(of_service("NRestarts", "u")),
        )

    def _open(self) -> Bus:
        if self._bus is None:
            self._bus = open_host()
        return self._bus

    def _call(self, doing: str, member: str, signature: str = "", *values: object) -> Any:
        try:
            return self._open().call(SERVICE, PATH, MANAGER, member, signature, *values)
        except BusError as error:
            raise error.translated(doing=doing) from None


def _member(verb: str) -> str:
    """The method for a verb of systemctl(1)."""
    return f"{verb.title().replace('-', '')}Unit"
