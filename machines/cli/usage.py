# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines use, as columns: as many as a terminal has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from machines.model.frozen import NamedTuple
from machines.model.usage import RESOURCES
from machines.operations.usage import Reading

NAME_MIN, NAME_MAX = 8, 32
_UNITS = "KMGTPE"
_HIGH, _FULL = 70, 90


class Column(NamedTuple):
    """A column of ``width``: ``show`` gives its text, ``order`` what it is sorted by, ``percent`` its colour.

    The lower its ``rank``, the narrower the terminal that still has it.
    """

    name: str
    width: int
    rank: int
    show: Callable[[Reading], str]
    order: Callable[[Reading], float]
    percent: Callable[[Reading], float | None] = lambda reading: None
    left: bool = False

    def padded(self, text: str) -> str:
        """Give a text as wide as the column."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


def short(count: float | None) -> str:
    """Give a number of bytes in at most four characters; "-" where it is not known."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count:.0f}"
    for unit in _UNITS:
        count /= 1024
        if count < 9.95:
            return f"{count:.1f}{unit}"
        if count < 999.5:
            return f"{count:.0f}{unit}"
    return f"{count:.0f}{_UNITS[-1]}"


def percent(value: float | None) -> str:
    """Give a percentage in at most five characters."""
    return "-" if value is None else f"{value:.1f}" if value < 999.5 else f"{value:.0f}"


def lasting(seconds: float | None) -> str:
    """Give how long something lasts in at most six characters: 42s, 3m05s, 2h10m, 5d03h."""
    if seconds is None:
        return "-"
    rest = int(seconds)
    if rest >= 100 * 86400:
        return f"{rest // 86400}d"
    for size, unit, below, inner in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if rest >= size:
            return f"{rest // size}{unit}{rest % size // below:02d}{inner}"
    return f"{rest}s"


def state_of(reading: Reading) -> str:
    """Give what is most worth knowing of how a machine is: its health where it runs and is probed."""
    return reading.health or "running" if reading.state == "running" else reading.state


def share(used: float | None, limit: float | None) -> float | None:
    """Give how many percent of a limit are used."""
    return None if used is None or not limit else 100 * used / limit


def bar(value: float | None, width: int) -> str:
    """Give a bar of ``width`` for a percentage."""
    inner = width - 2
    filled = round(inner * min(max(value or 0, 0), 100) / 100)
    return f"[{'|' * filled:<{inner}}]"


def worst(reading: Reading) -> tuple[float, str] | None:
    """Give the resource that a machine waits for most: how many percent of the time, and its name."""
    found = [(value.some, name) for name in RESOURCES if (value := reading.usage.pressure.get(name))]
    return max(found, key=lambda pair: pair[0]) if found else None


def heat(value: float | None) -> str:
    """Give the colour of a percentage."""
    return "" if value is None or value < _HIGH else "33" if value < _FULL else "31"


def _number(value: float | None) -> float:
    return -1 if value is None else value


def _pressure(reading: Reading) -> str:
    found = worst(reading)
    return "-" if found is None else "0" if found[0] < 0.5 else f"{found[0]:.0f} {found[1][:3]}"


def _of(resource: str) -> Callable[[Reading], float | None]:
    def value(reading: Reading) -> float | None:
        found = reading.usage.pressure.get(resource)
        return found.some if found else None

    return value


def _cpu_share(reading: Reading) -> float | None:
    return share(reading.rates.cpu, 100 * reading.usage.cpus) if reading.usage.cpus else None


def _memory_share(reading: Reading) -> float | None:
    return share(reading.usage.memory, reading.usage.memory_max)


def _age(reading: Reading) -> float | None:
    return time.time() - reading.since / 1e6 if reading.since else None


def _bytes(name: str, width: int, rank: int, value: Callable[[Reading], float | None]) -> Column:
    return Column(name, width, rank, lambda reading: short(value(reading)), lambda reading: _number(value(reading)))


def _share(name: str, width: int, rank: int, value: Callable[[Reading], float | None]) -> Column:
    # As exact as it is shown, or those that do nothing would change places all the time.
    return Column(
        name, width, rank, lambda reading: percent(value(reading)),
        lambda reading: round(_number(value(reading)), 1), value,
    )  # fmt: skip


COLUMNS = (
    Column("state", 9, 1, state_of, lambda reading: 0, left=True),
    _share("cpu%", 5, 0, lambda reading: reading.rates.cpu)._replace(percent=_cpu_share),
    _bytes("cpus", 4, 11, lambda reading: None)._replace(
        show=lambda reading: f"{reading.usage.cpus:g}" if reading.usage.cpus else "-",
        order=lambda reading: _number(reading.usage.cpus),
    ),
    _bytes("memory", 6, 2, lambda reading: reading.usage.memory)._replace(percent=_memory_share),
    _bytes("max", 4, 8, lambda reading: reading.usage.memory_max),
    _share("mem%", 5, 9, _memory_share),
    _bytes("cache", 5, 15, lambda reading: reading.usage.cache),
    _bytes("swap", 4, 14, lambda reading: reading.usage.swap),
    _bytes("read/s", 6, 5, lambda reading: reading.rates.io_read),
    _bytes("write/s", 7, 5, lambda reading: reading.rates.io_write),
    _bytes("in/s", 5, 4, lambda reading: reading.rates.net_in),
    _bytes("out/s", 5, 4, lambda reading: reading.rates.net_out),
    Column(
        "tasks", 5, 3,
        lambda reading: "-" if reading.usage.tasks is None else str(reading.usage.tasks),
        lambda reading: _number(reading.usage.tasks),
        lambda reading: share(reading.usage.tasks, reading.usage.tasks_max),
    ),
    Column(
        "waits%", 6, 6, _pressure, lambda reading: (worst(reading) or (-1.0, ""))[0],
        lambda reading: (worst(reading) or (0.0, ""))[0],
    ),
    _bytes("oom", 3, 13, lambda reading: reading.usage.oom_kills),
    _share("cpu-p", 5, 12, _of("cpu")),
    _share("mem-p", 5, 12, _of("memory")),
    _share("io-p", 5, 12, _of("io")),
    Column(
        "cpu-time", 8, 10,
        lambda reading: lasting(None if reading.usage.cpu_usec is None else reading.usage.cpu_usec / 1e6),
        lambda reading: _number(reading.usage.cpu_usec),
    ),
    Column("up", 6, 7, lambda reading: lasting(_age(reading)), lambda reading: _number(_age(reading))),
)  # fmt: skip


def fitting(width: int, longest: int, *, gap: int = 1) -> tuple[int, tuple[Column, ...]]:
    """Give how wide the column of the names is, ``longest`` at best, and the others that a line of ``width`` has room
    for with a ``gap`` in front of each."""
    wanted = min(max(longest, NAME_MIN), NAME_MAX)
    # A long name must not cost a narrow terminal its columns.
    names = min(wanted, max(width // 4, NAME_MIN))
    left = width - names
    chosen = set[str]()
    for rank in sorted({column.rank for column in COLUMNS}):
        group = [column for column in COLUMNS if column.rank == rank]
        needed = sum(column.width + gap for column in group)
        if needed > left:
            break
        left -= needed
        chosen.update(column.name for column in group)
    return min(wanted, names + left), tuple(column for column in COLUMNS if column.name in chosen)


def plain_row(reading: Reading, columns: Sequence[Column]) -> dict[str, object]:
    """Give a row of a table that is not redrawn."""
    return {"name": reading.name, **{column.name: column.show(reading) for column in columns}}
