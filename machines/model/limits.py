# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may use at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from machines.model.machine import Machine

_PAGE = 4096

# What systemd-nspawn@.service says of TasksMax=, and the kernel of weights that nobody gave (cgroup-v2.rst).
TASKS, WEIGHT = 16384, 100

PROPERTIES = {
    "memory": "MemoryMax", "memory_high": "MemoryHigh", "swap": "MemorySwapMax", "cpus": "CPUQuota",
    "cpu_weight": "CPUWeight", "io_weight": "IOWeight", "tasks": "TasksMax",
}  # fmt: skip
"""What systemd calls them in unit files (systemd.resource-control(5))."""

NAMES = {key: name for name, key in PROPERTIES.items()}

_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_WORDS = {
    "memory": "{} bytes of memory", "memory_high": "{} bytes before it is slowed down", "swap": "{} bytes of swap",
    "cpus": "{:g} processors", "cpu_weight": "processor weight {}", "io_weight": "io weight {}", "tasks": "{} tasks",
}  # fmt: skip


class Limits(NamedTuple):
    """``memory``, ``memory_high`` and ``swap`` in bytes, ``cpus`` in processors, weights from 1 to 10000, ``tasks``.

    None is no limit, and of weights and tasks what every machine has.
    """

    memory: int | None = None
    cpus: float | None = None
    memory_high: int | None = None
    swap: int | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    tasks: int | None = None

    @classmethod
    def of(cls, machine: Machine) -> Limits:
        """Give the limits of a machine as they are declared."""
        return cls(*(getattr(machine, name) for name in cls._fields))

    def kept(self) -> dict[str, float | None]:
        """Give them as the kernel keeps them: memory in whole pages, and what holds where nothing is said."""
        values: dict[str, float | None] = self._asdict()
        for name in ("memory", "memory_high", "swap"):
            size = values[name]
            values[name] = None if size is None else size // _PAGE * _PAGE
        weights = {name: values[name] or WEIGHT for name in ("cpu_weight", "io_weight")}
        return {**values, **weights, "tasks": values["tasks"] or TASKS}

    def differing(self, have: Mapping[str, float | None]) -> tuple[str, ...]:
        """Name the limits of which the kernel says something else; it says nothing where nobody has set one."""
        return tuple(name for name, value in self.kept().items() if name in have and have[name] != value)

    def contradicted(self, name: str, text: str) -> bool:
        """Tell whether a unit file with ``text`` for a limit that is declared says something else."""
        value = _parse(name, text)
        return value is None or Limits(**{name: value}).kept()[name] != self.kept()[name]

    def __str__(self) -> str:
        values = self._asdict()
        said = [words.format(values[name]) for name, words in _WORDS.items() if values[name] is not None]
        nothing = [
            words
            for name, words in (("memory", "no memory limit"), ("cpus", "no processor limit"))
            if values[name] is None
        ]
        return " and ".join([*said, *nothing])


def _parse(name: str, text: str) -> Any:
    """Read the number of a limit as unit files have it (systemd.resource-control(5)); None for any other word."""
    scale = _SIZES.get(text[-1:], 1) if name in {"memory", "memory_high", "swap"} else 1
    digits = text.removesuffix("%") if name == "cpus" else text[:-1] if scale > 1 else text
    try:
        return float(digits) / 100 if name == "cpus" else int(digits) * scale
    except ValueError:
        return None
