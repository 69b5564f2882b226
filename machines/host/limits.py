# SPDX-License-Identifier: LGPL-2.1-or-later
"""The limits that the kernel has for a machine (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

from collections.abc import Iterable

from machines.host.files import read_text

_FILES = {
    "memory": "memory.max", "memory_high": "memory.high", "swap": "memory.swap.max", "cpus": "cpu.max",
    "cpu_weight": "cpu.weight", "io_weight": "io.weight", "tasks": "pids.max",
}  # fmt: skip


_SLICE = "/sys/fs/cgroup/machine.slice"


def limits(units: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Give the limits in force for machines' units by their names in model.limits; None is no limit.

    What the kernel says nothing of is left out: a controller that no unit uses is off, and some hosts have none.
    """
    # What is on for the children of a group, which have the files of these controllers and of no others.
    on = set((read_text(f"{_SLICE}/cgroup.subtree_control") or "").split())
    files = {name: file for name, file in _FILES.items() if file.partition(".")[0] in on}
    return {unit: _limits(unit, files) for unit in units}


def _limits(unit: str, files: dict[str, str]) -> dict[str, float | None]:
    texts = {name: read_text(f"{_SLICE}/{unit}/{file}") for name, file in files.items()}
    return parse_limits({name: text for name, text in texts.items() if text})


def parse_limits(texts: dict[str, str]) -> dict[str, float | None]:
    """Read the files of a cgroup by the names of limits."""
    found: dict[str, float | None] = {}
    for name, text in texts.items():
        # Weights may have lines for single disks below their own.
        words = text.split("\n", 1)[0].split()
        if name == "cpus":
            found[name] = None if words[0] == "max" else round(int(words[0]) / int(words[1]), 2)
        else:
            found[name] = None if words[-1] == "max" else int(words[-1])
    return found
