# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table of what machines use, drawn anew every few seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from machines.cli.options import Options
from machines.cli.output import colored, colours
from machines.cli.screen import Screen
from machines.cli.usage import COLUMNS, Column, bar, fitting, heat, percent, share, short
from machines.operations.usage import Look, Reading

SORTS = {
    "c": "cpu%", "m": "memory", "r": "read/s", "w": "write/s", "i": "in/s", "o": "out/s", "t": "tasks", "p": "waits%",
    "u": "up", "n": "name",
}  # fmt: skip
_KEYS = (
    ("q", "quit"), ("c", "cpu"), ("m", "memory"), ("r", "read"), ("w", "write"), ("i", "in"), ("o", "out"),
    ("t", "tasks"), ("p", "pressure"), ("u", "up"), ("n", "name"), ("R", "reverse"), ("+/-", "interval"),
)  # fmt: skip
_INTERVALS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class View:
    """What is to be shown of a look: sorted by what, from which machine on."""

    def __init__(self, options: Options, *, sort: str, interval: float) -> None:
        self.options = options
        self.sort = sort
        self.interval = interval
        self.reverse = False
        self.first = 0
        self._page = 1

    def press(self, key: str) -> None:
        """Take a key."""
        if key in SORTS:
            self.reverse = not self.reverse if self.sort == SORTS[key] else False
            self.sort, self.first = SORTS[key], 0
        elif key == "R":
            self.reverse = not self.reverse
        elif key in {"+", "-"}:
            longer = [each for each in _INTERVALS if each > self.interval]
            shorter = [each for each in _INTERVALS if each < self.interval]
            choice = longer[:1] if key == "+" else shorter[-1:]
            self.interval = choice[0] if choice else self.interval
        else:
            page = self._page
            steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -page, "page-down": page, " ": page}
            self.first = 0 if key == "home" else 10**9 if key == "end" else self.first + steps.get(key, 0)

    def lines(self, look: Look, columns: int, rows: int) -> list[str]:
        """Give the lines of a terminal of that size."""
        if columns < 20 or rows < 4:
            return [f"{len(look.machines)} machines"[:columns]]
        head = [*self._head(look, columns), ""] if rows >= 10 else []
        foot = [self._foot(columns)] if rows >= 8 else []
        readings = self.ordered(look)
        names, shown = fitting(columns, max((len(reading.name) for reading in readings), default=0))
        gaps = _gaps(columns - names, shown)
        self._page = max(rows - len(head) - len(foot) - 1, 1)
        self.first = max(0, min(self.first, len(readings) - self._page))
        body = [self._line(reading, names, shown, gaps) for reading in readings[self.first : self.first + self._page]]
        if not readings:
            body = ["", "no machine runs; machctl start NAME starts one, machctl list shows those there are"[:columns]]
        lines = [*head, self._heading(names, shown, gaps, columns), *body]
        lines += [""] * (rows - len(foot) - len(lines))
        return [*lines[: rows - len(foot)], *foot]

    def ordered(self, look: Look) -> list[Reading]:
        """Give the machines in their order: the one that uses most first, names from A on."""
        backwards = self.sort == "name" and self.reverse
        readings = sorted(look.machines.values(), key=lambda reading: reading.name, reverse=backwards)
        column = next((column for column in COLUMNS if column.name == self.sort), None)
        if column is not None:
            readings.sort(key=column.order, reverse=not self.reverse)
        return readings

    def _head(self, look: Look, width: int) -> list[str]:
        host = look.host
        states = sorted(look.states, key=lambda state: state != "running")
        counts = [f"{look.states[state]} {state}" for state in states]
        left = f"{os.uname().nodename}: {', '.join(counts) or 'no machine runs'}"
        if self.first or len(look.machines) > self._page:
            left += f" ({self.first + 1}-{min(self.first + self._page, len(look.machines))} of {len(look.machines)})"
        load = "" if host.load is None else f"load {host.load:.2f}  "
        right = f"{load}{time.strftime('%H:%M:%S')}"
        room = max(width - len(right) - 2, 0)
        used = share(host.memory, host.memory_max)
        half = (width - 2) // 2
        meters = (
            self._meter("CPU", look.cpu, f"{percent(look.cpu)}% of {host.cpus}", half)
            + "  "
            + self._meter("Mem", used, f"{short(host.memory)} of {short(host.memory_max)}", half)
        )
        return [f"{left[:room]:<{room}}  {right}"[:width], meters]

    def _meter(self, name: str, value: float | None, text: str, width: int) -> str:
        room = width - len(name) - len(text) - 2
        if room < 6:
            return f"{name} {text}"[:width].ljust(width)
        drawn = bar(value, room)
        return f"{name} {self._painted(drawn, heat(value) or '32')} {text}"

    def _heading(self, names: int, shown: Sequence[Column], gaps: Sequence[int], width: int) -> str:
        words = [self._title("name", "NAME".ljust(names))]
        for column, gap in zip(shown, gaps, strict=True):
            words.append(" " * gap + self._title(column.name, column.padded(column.name.upper())))
        length = names + sum(gap + column.width for column, gap in zip(shown, gaps, strict=True))
        return f"\x1b[7m{''.join(words)}{' ' * (width - length)}\x1b[0m"

    def _title(self, name: str, text: str) -> str:
        return f"\x1b[1;4m{text}\x1b[22;24m" if name == self.sort else text

    def _line(self, reading: Reading, names: int, shown: Sequence[Column], gaps: Sequence[int]) -> str:
        name = reading.name if len(reading.name) <= names else reading.name[: names - 1] + "~"
        line = name.ljust(names)
        for column, gap in zip(shown, gaps, strict=True):
            text = column.show(reading)[: column.width]
            padded = column.padded(text)
            # A state has a colour of its own.
            painted = self._painted(padded, heat(column.percent(reading)))
            line += " " * gap + (colored(padded, self.options, key=text) if column.left else painted)
        return line

    def _foot(self, width: int) -> str:
        text, length = "", 0
        for key, meaning in _KEYS:
            more = len(key) + len(meaning) + (3 if length else 1)
            if length + more > width:
                break
            text += ("  " if length else "") + f"\x1b[1m{key}\x1b[22m {meaning}"
            length += more
        return text

    def _painted(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() and colours(self.options) else text


def _gaps(room: int, shown: Sequence[Column]) -> list[int]:
    """Give the space in front of each column: one, or two where there is room for it."""
    spare = room - sum(column.width + 1 for column in shown)
    return [1 + (1 if index < spare else 0) for index in range(len(shown))]


def watch(look: Callable[[Look | None], Look], view: View) -> int:
    """Draw until q or ^C is typed; give the exit status."""
    with Screen() as screen:
        seen = look(None)
        # The first rates are of a short while, so that there are some at once.
        due = time.monotonic() + min(0.5, view.interval)
        ended = False
        while not ended:
            screen.draw(view.lines(seen, *screen.size()))
            for key in screen.wait(due):
                ended = ended or key == "q"
                view.press(key)
            if time.monotonic() >= due:
                seen = look(seen)
                due = time.monotonic() + view.interval
        ending = screen.ending
    return 0 if ending in {0, 2} else 128 + ending
