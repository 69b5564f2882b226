# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a control group uses (Documentation/admin-guide/cgroup-v2.rst); a file is missing where its controller is."""

from __future__ import annotations

import os
from typing import Any

from machines.model.usage import RESOURCES, Pressure

ROOT = "/sys/fs/cgroup"
_PART = 65536


def group_of(leader: int, unit: str, *, proc: str = "/proc", root: str = ROOT) -> str | None:
    """Give the directory of the control group of a unit, of which a process is known; None where that has ended.

    A machine may be in any slice, and its leader is some groups further down (cgroups(7), /proc/PID/cgroup).
    """
    for line in (read_small(f"{proc}/{leader}/cgroup") or "").splitlines():
        # Groups of cgroup v1 tell other things in other words.
        if line.startswith("0::/"):
            parts = line[4:].split("/")
            if unit in parts:
                return "/".join([root, *parts[: parts.index(unit) + 1]])
    return None


def read_group(directory: str) -> dict[str, Any]:
    """Give what of Usage a control group has, by the names of its fields."""

    def text(name: str) -> str | None:
        return read_small(f"{directory}/{name}")

    cpu, memory, events = (pairs(text(name)) for name in ("cpu.stat", "memory.stat", "memory.events"))
    read, write = parse_io(text("io.stat"))
    found = {resource: parse_pressure(text(f"{resource}.pressure")) for resource in RESOURCES}
    return {
        "cpu_usec": cpu.get("usage_usec"),
        "user_usec": cpu.get("user_usec"),
        "system_usec": cpu.get("system_usec"),
        "throttled_usec": cpu.get("throttled_usec"),
        "cpus": parse_cpus(text("cpu.max")),
        "memory": number(text("memory.current")),
        "memory_max": number(text("memory.max")),
        "cache": memory.get("file"),
        "swap": number(text("memory.swap.current")),
        "oom_kills": events.get("oom_kill"),
        "io_read": read,
        "io_write": write,
        "tasks": number(text("pids.current")),
        "tasks_max": number(text("pids.max")),
        "pressure": {resource: value for resource, value in found.items() if value is not None},
    }


def number(text: str | None) -> int | None:
    """Read a file of one number; "max" is no limit."""
    word = (text or "").strip()
    return int(word) if word.isdigit() else None


def pairs(text: str | None) -> dict[str, int]:
    """Read a file of keys and numbers."""
    found = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def parse_cpus(text: str | None) -> float | None:
    """Read cpu.max into a number of processors."""
    words = (text or "").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def parse_io(text: str | None) -> tuple[int | None, int | None]:
    """Read io.stat into the bytes read and written, of all devices together."""
    if text is None:
        return None, None
    found = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        key, _, value = word.partition("=")
        if key in found and value.isdigit():
            found[key] += int(value)
    return found["rbytes"], found["wbytes"]


def parse_pressure(text: str | None) -> Pressure | None:
    """Read a file of pressure; the kernel has none with psi=0 on its command line, or then refuses to read it."""
    lines: dict[str, tuple[float, int]] = {}
    for line in (text or "").splitlines():
        words = line.split()
        values = dict(word.partition("=")[::2] for word in words[1:])
        try:
            lines[words[0]] = float(values["avg10"]), int(values["total"])
        except (KeyError, ValueError, IndexError):
            continue
    if "some" not in lines:
        return None
    # Kernels before 5.13 know no full pressure of processors.
    (some, some_usec), (full, full_usec) = lines["some"], lines.get("full", (0.0, 0))
    return Pressure(some, full, some_usec, full_usec)


def read_small(path: str) -> str | None:
    """Give a file of the kernel's, None where there is none: faster than a file object, for 15 a machine."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = b""
        while part := os.read(fd, _PART):
            found += part
        return found.decode(errors="replace")
    except OSError:
        # The group has been removed, or the kernel has no such accounting.
        return None
    finally:
        os.close(fd)
