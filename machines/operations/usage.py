# SPDX-License-Identifier: LGPL-2.1-or-later
"""What running machines use, from one look to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from machines.errors import NotRunning, raise_all
from machines.model.frozen import dataclass, field
from machines.model.names import is_pattern
from machines.model.usage import RESOURCES, HostUsage, Rates, Usage, host_cpu, rates
from machines.operations.inspect import STATES, expand, require

if TYPE_CHECKING:
    from machines.host.interfaces import Host

UNITS = "systemd-nspawn@*.service"


class Meters(Protocol):
    """machines.host.meters"""

    def read(self, leader: int, unit: str) -> Usage: ...
    def read_host(self) -> HostUsage: ...


@dataclass(frozen=True)
class Reading:
    """How a running machine is, and what it used up to now and does at the moment; ``since`` in microseconds since
    the epoch, ``health`` empty where it is not probed."""

    name: str
    state: str
    health: str
    unit: str
    leader: int
    since: int
    usage: Usage
    rates: Rates

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has; those are stable. What the host cannot tell is None."""
        usage, now = self.usage, self.rates
        return {
            "name": self.name,
            "state": self.state,
            "health": self.health or None,
            "unit": self.unit,
            "since": _time(self.since),
            "cpu_percent": _rounded(now.cpu, 2),
            "cpu_seconds": seconds(usage.cpu_usec),
            "cpu_user_seconds": seconds(usage.user_usec),
            "cpu_system_seconds": seconds(usage.system_usec),
            "cpu_throttled_seconds": seconds(usage.throttled_usec),
            "cpus": usage.cpus,
            "memory": usage.memory,
            "memory_max": usage.memory_max,
            "memory_cache": usage.cache,
            "memory_swap": usage.swap,
            "oom_kills": usage.oom_kills,
            "io_read": usage.io_read,
            "io_write": usage.io_write,
            "io_read_rate": _rounded(now.io_read),
            "io_write_rate": _rounded(now.io_write),
            "net_in": usage.net_in,
            "net_out": usage.net_out,
            "net_in_rate": _rounded(now.net_in),
            "net_out_rate": _rounded(now.net_out),
            "tasks": usage.tasks,
            "tasks_max": usage.tasks_max,
            "pressure": {resource: _pressure(usage, resource) for resource in RESOURCES},
        }


@dataclass(frozen=True)
class Look:
    """The host and its machines at one moment; ``states`` counts the machines' units by state, the failed ones too."""

    host: HostUsage = HostUsage()
    cpu: float | None = None
    machines: Mapping[str, Reading] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)


def look(
    host: Host, meters: Meters, *, wanted: Callable[[str], bool] = lambda name: True, before: Look | None = None
) -> Look:
    """Read what the running machines use whose names are ``wanted``; rates are those since the look ``before``."""
    from machines.operations.health import health_of

    units = host.units.states([UNITS]) if host.booted() else {}
    found, states, registered = {}, dict[str, int](), host.registered()
    paused = host.freezer.paused_machines(registered.values())
    for name, entry in sorted(registered.items()):
        active = units.pop(entry.unit, "")
        state = "paused" if name in paused else STATES.get(active, "running")
        states[state] = states.get(state, 0) + 1
        if not wanted(name):
            continue
        usage = meters.read(entry.leader, entry.unit)
        former = before.machines.get(name) if before else None
        found[name] = Reading(
            name=name,
            state=state,
            health=health_of(name, entry.leader, host),
            unit=entry.unit,
            leader=entry.leader,
            since=entry.since_usec,
            usage=usage,
            rates=rates(former.usage if former and former.leader == entry.leader else None, usage),
        )
    for active in units.values():
        if active in {"failed", "activating"}:
            states[STATES[active]] = states.get(STATES[active], 0) + 1
    whole = meters.read_host()
    return Look(whole, host_cpu(before.host, whole) if before else None, found, states)


def running(patterns: Sequence[str], host: Host) -> list[str]:
    """Give the running machines that are meant by names and patterns, all of them where there are none.

    Raises NotFound, and NotRunning for each that is named and does not run.
    """
    registered = host.registered()
    if not patterns:
        return sorted(registered)
    named = [pattern for pattern in patterns if not is_pattern(pattern)]
    chosen = expand(patterns, host)
    require(chosen, host)
    raise_all(
        [
            NotRunning(f"machine {name} is not running", hint=f"machctl start {name}")
            for name in named
            if name not in registered
        ]
    )
    return [name for name in chosen if name in registered]


def _pressure(usage: Usage, resource: str) -> dict[str, float] | None:
    found = usage.pressure.get(resource)
    return {"some": found.some, "full": found.full} if found else None


def _time(usec: int) -> str | None:
    if not usec:
        return None
    import datetime

    return datetime.datetime.fromtimestamp(usec / 1e6, datetime.UTC).isoformat()


def seconds(usec: float | None) -> float | None:
    """Give microseconds as seconds, and what is not known as that."""
    return None if usec is None else usec / 1e6


def _rounded(value: float | None, digits: int = 0) -> float | None:
    return None if value is None else round(value, digits) if digits else round(value)
