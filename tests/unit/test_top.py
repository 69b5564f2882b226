# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of what machines use, for terminals of every size, and the terminal that it is drawn on."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from machines.cli.options import Options
from machines.cli.screen import keys_of, visible
from machines.cli.top import SORTS, View
from machines.cli.usage import COLUMNS, fitting, lasting, percent, short
from machines.model.usage import HostUsage, Pressure, Rates, Usage
from machines.operations.usage import Look, Reading
from terminal import Terminal

FULL = Usage(
    cpu_usec=10**12, cpus=1.5, memory=2**30, memory_max=2**30, cache=1, swap=0, oom_kills=12, io_read=1, io_write=1,
    net_in=1, net_out=1, tasks=4096, pressure={"cpu": Pressure(3.0, 0.0, 1, 1), "io": Pressure(99.99, 0.0, 1, 1)},
)  # fmt: skip


def reading(name: str, usage: Usage = FULL, cpu: float | None = 149.9, **more: Any) -> Reading:
    fast = 999.4 * 2**40
    values: dict[str, Any] = {"state": "running", "health": "", "unit": "u", "leader": 7, "since": 1, **more}
    return Reading(name=name, usage=usage, rates=Rates(cpu, fast, fast, fast, fast), **values)


def look(*readings: Reading) -> Look:
    host = HostUsage(cpus=2, memory=2**31, memory_max=2**32, load=0.5)
    return Look(host, 43.21, {each.name: each for each in readings}, {"failed": 1, "running": len(readings)})


def view(sort: str = "cpu%") -> View:
    return View(Options(color="always"), sort=sort, interval=2.0)


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


MACHINES = look(
    reading("a-machine-with-a-rather-long-name-of-48-characters"),
    reading("web", health="unhealthy"),
    reading("idle", Usage(), None, state="stopping", since=0),
)


@pytest.mark.parametrize("columns", [*range(1, 30), 40, 79, 80, 81, 100, 132, 199, 200, 400])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 10, 24, 60])
def test_it_fits_every_terminal(columns: int, rows: int) -> None:
    for seen in (MACHINES, look()):
        lines = view().lines(seen, columns, rows)
        assert len(lines) <= rows
        assert max(map(visible, lines)) <= columns


def test_80_columns_have_what_matters() -> None:
    lines = plain(view().lines(look(reading("web"), reading("db", Usage(), None)), 80, 24))
    assert "2 running, 1 failed" in lines[0]
    assert "43.2% of 2" in lines[1]
    assert lines[3].split()[:10] == [
        "NAME", "STATE", "CPU%", "MEMORY", "READ/S", "WRITE/S", "IN/S", "OUT/S", "TASKS", "WAITS%"
    ]  # fmt: skip
    assert lines[4].split()[:11] == [
        "web",
        "running",
        "149.9",
        "1.0G",
        "999T",
        "999T",
        "999T",
        "999T",
        "4096",
        "100",
        "io",
    ]
    assert lines[5].split()[:4] == ["db", "running", "-", "-"]
    assert lines[-1].startswith("q quit")


def test_200_columns_have_everything() -> None:
    lines = plain(view().lines(MACHINES, 200, 24))
    assert {column.name.upper() for column in COLUMNS} <= set(lines[3].split())


def test_no_column_is_wider_than_its_place() -> None:
    for column in COLUMNS:
        for each in MACHINES.machines.values():
            assert len(column.show(each)) <= column.width
        assert len(column.name) <= column.width
    assert 20 <= fitting(80, 50)[0] < 32
    assert fitting(400, 50)[0] == 32


def test_keys_sort_and_scroll() -> None:
    many = look(*(reading(f"m{number:02}", cpu=float(number % 7)) for number in range(30)))
    shown = view()

    def names(rows: int = 10) -> list[str]:
        return [line.split()[0] for line in plain(shown.lines(many, 80, rows))[4:-1]]

    assert names() == ["m06", "m13", "m20", "m27", "m05"]
    shown.press("c")
    assert names()[0] == "m00"
    shown.press("n")
    assert names() == ["m00", "m01", "m02", "m03", "m04"]
    shown.press("page-down")
    shown.press("down")
    assert names()[0] == "m06"
    shown.press("end")
    assert names()[-1] == "m29"
    assert "(26-30 of 30)" in plain(shown.lines(many, 80, 10))[0]
    shown.press("home")
    shown.press("R")
    assert names()[0] == "m29"
    for key in ("+", "+", "-", "-", "-", "-", "-", "resize", "é"):
        shown.press(key)
    assert shown.interval == 0.5


@pytest.mark.parametrize("key", SORTS)
def test_every_order_is_one(key: str) -> None:
    shown = view()
    shown.press(key)
    assert len(shown.ordered(MACHINES)) == 3


def test_words_are_short() -> None:
    assert [short(value) for value in (None, 0, 999, 1000, 1023, 10189, 10**6, 2**30 - 1, 5 * 2**30)] == [
        "-", "0", "999", "1.0K", "1.0K", "10K", "977K", "1.0G", "5.0G"
    ]  # fmt: skip
    assert max(len(short(float(10**power) - 1)) for power in range(20)) <= 4
    assert [percent(value) for value in (None, 0.04, 99.96, 12800)] == ["-", "0.0", "100.0", "12800"]
    assert [lasting(value) for value in (None, 5.9, 65, 3700, 90000, 90000000)] == [
        "-", "5s", "1m05s", "1h01m", "1d01h", "1041d"
    ]  # fmt: skip


def test_keys_of_a_terminal() -> None:
    assert keys_of("q\x1b[A\x1bOBm\x1b[6~\x1b[1;5C\x03\x07") == ["q", "up", "down", "m", "page-down", "q"]
    assert keys_of("\x1b") == ["q"]
    assert visible("\x1b[1;4mCPU%\x1b[22;24m x") == 6


PROGRAM = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
import test_top
from machines.cli.top import watch
count = 0
def look(before):
    global count
    count += 1
    return test_top.look(test_top.reading(f"look-{{count}}"))
view = test_top.View(test_top.Options(), sort="cpu%", interval=0.3)
sys.exit(watch(look, view))
"""


@pytest.fixture
def terminal() -> Any:
    with Terminal([sys.executable, "-W", "ignore", "-c", PROGRAM]) as terminal:
        terminal.expect(r"\x1b\[\?1049h.*look-1 ")
        yield terminal
        assert terminal.ended() is not None
        assert terminal.modes() == terminal.before


@pytest.mark.parametrize(("typed", "status"), [("q", 0), ("\x03", 0), ("\x1b", 0)])
def test_it_ends_and_leaves_the_terminal_as_it_was(terminal: Terminal, typed: str, status: int) -> None:
    terminal.expect("look-2 ")
    terminal.type(typed)
    assert terminal.ended() == status
    terminal.expect(r"\x1b\[\?25h\x1b\[\?1049l$")


def test_it_is_drawn_anew_in_another_size(terminal: Terminal) -> None:
    terminal.resize(30, 100)
    terminal.expect(r"\x1b\[2J.*\x1b\[30;1H.*quit")
    # Only what differs is written.
    terminal.expect("look-[0-9]+ ")
    terminal.expect("look-[0-9]+ ")
    assert "quit" not in terminal.seen.partition("look")[0]
    terminal.type("q")
    assert terminal.ended() == 0


def test_a_signal_ends_it_in_order(terminal: Terminal) -> None:
    terminal._process.send_signal(signal.SIGTERM)
    assert terminal.ended() == 128 + signal.SIGTERM
    terminal.expect(r"\x1b\[\?1049l")
