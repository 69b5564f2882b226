# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines and the host use: counters as they were read at one moment, and what two such moments make of them.

None stands for what the host cannot tell: a controller that it has not, a machine that has no network of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.frozen import NamedTuple, dataclass, field

RESOURCES = ("cpu", "memory", "io")
"""What the kernel knows the pressure of (Documentation/accounting/psi.rst)."""


class Pressure(NamedTuple):
    """How much of the time some tasks waited for a resource, and all of them did.

    In percent of the last 10 seconds, and in microseconds since the machine's start.
    """

    some: float
    full: float
    some_usec: int
    full_usec: int


@dataclass(frozen=True)
class Usage:
    """The counters of a machine ``at`` a moment (monotonic seconds); sizes in bytes.

    ``cpus``, ``memory_max`` and ``tasks_max`` are limits, None where there is none. ``cache`` is the part of ``memory``
    that holds files, ``net_in`` and ``net_out`` are as the machine sees them.
    """

    at: float = 0.0
    cpu_usec: int | None = None
    user_usec: int | None = None
    system_usec: int | None = None
    throttled_usec: int | None = None
    cpus: float | None = None
    memory: int | None = None
    memory_max: int | None = None
    cache: int | None = None
    swap: int | None = None
    oom_kills: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    net_in: int | None = None
    net_out: int | None = None
    tasks: int | None = None
    tasks_max: int | None = None
    pressure: Mapping[str, Pressure] = field(default_factory=dict)


class Rates(NamedTuple):
    """What a machine did between two moments: processors in percent of one, the others in bytes a second."""

    cpu: float | None = None
    io_read: float | None = None
    io_write: float | None = None
    net_in: float | None = None
    net_out: float | None = None


@dataclass(frozen=True)
class HostUsage:
    """The counters of the host: ``cpu_ticks`` of all, and those spent ``idle``, over all its ``cpus``; bytes."""

    cpus: int = 1
    cpu_ticks: int = 0
    idle_ticks: int = 0
    memory: int | None = None
    memory_max: int | None = None
    load: float | None = None


def rates(before: Usage | None, after: Usage) -> Rates:
    """Give what happened in between; nothing where a machine was not there before, or has started anew since."""
    if before is None or after.at <= before.at or (after.cpu_usec or 0) < (before.cpu_usec or 0):
        return Rates()
    seconds = after.at - before.at

    def each(old: int | None, new: int | None) -> float | None:
        # A link or a disk that went away takes its count along.
        return None if old is None or new is None else max(new - old, 0) / seconds

    cpu = each(before.cpu_usec, after.cpu_usec)
    return Rates(
        cpu=None if cpu is None else cpu / 10_000,
        io_read=each(before.io_read, after.io_read),
        io_write=each(before.io_write, after.io_write),
        net_in=each(before.net_in, after.net_in),
        net_out=each(before.net_out, after.net_out),
    )


def host_cpu(before: HostUsage, after: HostUsage) -> float | None:
    """Give the percentage of all processors that was used in between; None where no time has passed."""
    ticks = after.cpu_ticks - before.cpu_ticks
    return None if ticks <= 0 else 100 * (1 - (after.idle_ticks - before.idle_ticks) / ticks)
