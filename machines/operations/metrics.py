# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines as Prometheus reads them: its text format, version 0.0.4 (prometheus.io, Exposition formats).

What the host cannot tell is left out. Names and units are as Prometheus wants them: seconds, bytes, _total.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from machines.model.frozen import NamedTuple
from machines.model.usage import RESOURCES, Usage
from machines.operations.inspect import list_machines
from machines.operations.usage import Meters, Reading, look, seconds

if TYPE_CHECKING:
    from machines.host.interfaces import Host

STATES = ("running", "paused", "starting", "stopping", "stopped", "failed", "missing")
HEALTH = ("healthy", "unhealthy", "starting")

# What a guest says of itself may be of any length, and each other word is one more series for ever.
_WORD_MAX = 64

Value = float | int | None


class Metric(NamedTuple):
    """A metric: what it is called behind "machctl_", its type, and what it says."""

    name: str
    kind: str
    help: str


_STATE = Metric("machine_state", "gauge", "1 for the state that a machine is in, 0 for the others.")
_INFO = Metric("machine_info", "gauge", "Always 1; what a running machine is.")
_HEALTH = Metric("machine_health", "gauge", "1 for what the probes of a running machine say, 0 for the rest.")
_START = Metric("machine_start_time_seconds", "gauge", "When a running machine was started.")
_CPU = Metric("machine_cpu_seconds_total", "counter", "Processor time of a machine since its start.")
_PRESSURE = Metric(
    "machine_pressure_seconds_total", "counter", "Time in which some tasks of a machine waited, or all of them did."
)
_USAGE = (
    (
        "throttled_usec",
        Metric("machine_cpu_throttled_seconds_total", "counter", "Time that a limit cost a machine."),
    ),
    ("cpus", Metric("machine_cpu_limit", "gauge", "Processors that a machine may use.")),
    ("memory", Metric("machine_memory_bytes", "gauge", "Memory of a machine, its files in memory included.")),
    ("cache", Metric("machine_memory_cache_bytes", "gauge", "The part of it that holds files.")),
    ("memory_max", Metric("machine_memory_limit_bytes", "gauge", "Memory that a machine may use.")),
    ("swap", Metric("machine_swap_bytes", "gauge", "Swap that a machine uses.")),
    ("oom_kills", Metric("machine_oom_kills_total", "counter", "Processes that were killed for want of memory.")),
    ("io_read", Metric("machine_io_read_bytes_total", "counter", "Bytes that a machine read from disks.")),
    ("io_write", Metric("machine_io_written_bytes_total", "counter", "Bytes that a machine wrote to disks.")),
    ("net_in", Metric("machine_network_receive_bytes_total", "counter", "Bytes that a machine received.")),
    ("net_out", Metric("machine_network_transmit_bytes_total", "counter", "Bytes that a machine sent.")),
    ("tasks", Metric("machine_tasks", "gauge", "Processes and threads of a machine.")),
    ("tasks_max", Metric("machine_tasks_limit", "gauge", "Processes and threads that it may have.")),
)


def exposition(host: Host, meters: Meters) -> str:
    """Give the text for all machines: those that run, those that have a tree and those that are declared."""
    machines = list_machines(host)
    readings = look(host, meters).machines
    running = [(machine, readings[machine.name]) for machine in machines if machine.name in readings]
    lines = _metric(
        _STATE,
        (
            ({"machine": machine.name, "state": state}, int(machine.state == state))
            for machine in machines
            for state in STATES
        ),
    )
    lines += _metric(
        _INFO,
        (
            (
                {
                    "machine": machine.name, "class": machine.machine_class, "os": machine.os[:_WORD_MAX],
                    "unit": machine.unit, "declared": str(machine.declared).lower(),
                },
                1,
            )
            for machine, _ in running
        ),
    )  # fmt: skip
    return "\n".join([*lines, *_used([reading for _, reading in running])]) + "\n"


def _used(readings: list[Reading]) -> Iterator[str]:
    yield from _metric(
        _HEALTH,
        (
            ({"machine": reading.name, "health": health}, int(reading.health == health))
            for reading in readings
            if reading.health
            for health in HEALTH
        ),
    )
    yield from _metric(
        _START, (({"machine": reading.name}, reading.since / 1e6) for reading in readings if reading.since)
    )
    yield from _metric(
        _CPU,
        (
            ({"machine": reading.name, "mode": mode}, seconds(getattr(reading.usage, f"{mode}_usec")))
            for reading in readings
            for mode in ("user", "system")
        ),
    )
    for field, metric in _USAGE:
        yield from _metric(metric, (({"machine": reading.name}, _value(reading.usage, field)) for reading in readings))
    yield from _metric(
        _PRESSURE,
        (
            ({"machine": reading.name, "resource": resource, "tasks": tasks}, usec / 1e6)
            for reading in readings
            for resource in RESOURCES
            if (found := reading.usage.pressure.get(resource))
            for tasks, usec in (("some", found.some_usec), ("all", found.full_usec))
        ),
    )


def _value(usage: Usage, field: str) -> Value:
    value: Value = getattr(usage, field)
    return seconds(value) if field.endswith("_usec") else value


def _metric(metric: Metric, samples: Iterable[tuple[dict[str, str], Value]]) -> list[str]:
    """Give the lines of a metric, none where nothing is known of any machine."""
    name = f"machctl_{metric.name}"
    lines = []
    for labels, value in samples:
        if value is not None:
            text = ",".join(f'{key}="{escape(word)}"' for key, word in labels.items())
            lines.append(f"{name}{{{text}}} {_number(value)}")
    return [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *lines] if lines else []


def escape(text: str) -> str:
    """Give the value of a label as it stands between quotes; some of them are a guest's words."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}".rstrip("0").rstrip(".")
