# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the whole host uses (proc_stat(5), proc_meminfo(5), proc_loadavg(5))."""

from __future__ import annotations

from machines.host.meters.cgroup import read_small
from machines.model.usage import HostUsage


def read_host(*, proc: str = "/proc") -> HostUsage:
    """Give the counters of the host."""
    ticks, idle, cpus = parse_stat(read_small(f"{proc}/stat") or "")
    total, available = parse_meminfo(read_small(f"{proc}/meminfo") or "")
    load, *_ = (read_small(f"{proc}/loadavg") or "").split() or [""]
    return HostUsage(
        cpus=max(cpus, 1),
        cpu_ticks=ticks,
        idle_ticks=idle,
        memory=None if total is None or available is None else total - available,
        memory_max=total,
        load=float(load) if load else None,
    )


def parse_stat(text: str) -> tuple[int, int, int]:
    """Read /proc/stat into the ticks of all processors, those of them that were idle, and how many processors."""
    ticks = idle = cpus = 0
    for line in text.splitlines():
        words = line.split()
        if not words or not words[0].startswith("cpu"):
            continue
        if words[0] != "cpu":
            cpus += 1
            continue
        # The time of guests of a hypervisor, at the end, is in the first two already.
        counts = [int(word) for word in words[1:9]]
        ticks, idle = sum(counts), sum(counts[3:5])
    return ticks, idle, cpus


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Read /proc/meminfo into the bytes of memory, and those that are there to be used."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key in {"MemTotal", "MemAvailable"}:
            found[key] = int(value.split()[0]) * 1024
    return found.get("MemTotal"), found.get("MemAvailable")
