# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside a throwaway host: one more machine from a tree that is there, beside podman and Incus and by hand.

Everybody takes turns, and the medians are printed. Run with the word prepare, it only has all of them ready.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable

from bench import POOL, Failed, head, report, sh
from bench_tools import KIND, MACHCTL, ByHand, Incus, Machctl, Podman, PodmanWithNetwork, Tool

ONE, TWO = "bench-1", "bench-2"
ROUNDS = 7
ROUNDS_OF_DATA = 3
CREATED = 10


class Figures:
    """What has been measured, by row and tool."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, row: str, tool: Tool | ByHand, value: float) -> None:
        self.of[row, tool.name].append(value)

    def median(self, row: str, tool: Tool | ByHand) -> float:
        return statistics.median(self.of[row, tool.name])


def used() -> int:
    """Give the bytes that are taken of the pool's file system, once what was deleted is gone."""
    if KIND == "btrfs":
        # Only a commit wakes the kernel's cleaner; the next one may be 30 s away.
        sh(f"btrfs filesystem sync {POOL}")
        sh(f"timeout 20 btrfs subvolume sync {POOL}", check=False)
    os.sync()
    state = os.statvfs(POOL)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def in_turn(tools: list[Tool], number: int, step: Callable[[Tool], None]) -> None:
    """Let each tool do its step, each round another one first; one that fails is out, and why is said."""
    first = number % max(len(tools), 1)
    for tool in tools[first:] + tools[:first]:
        try:
            step(tool)
        except Failed as why:
            give_up(tool, why)
            tools.remove(tool)


def give_up(tool: Tool, why: Failed) -> None:
    if isinstance(tool, Machctl):
        raise why
    print(f"no {tool.name} on {KIND}: {' '.join(str(why).split())}", flush=True)


def prepare(tools: list[Tool]) -> None:
    """Install everybody, give them the tree, and leave out who cannot be had."""
    in_turn(tools, 0, lambda tool: tool.prepare())
    # What an interrupted run has left.
    for tool in tools:
        sh(tool.leftovers, check=False)


def measure(tools: list[Tool]) -> None:
    """Take every figure in rounds, and print the medians."""
    figures = Figures()
    by_hand = ByHand()
    by_hand.prepare()
    by_hand.launch()
    by_hand.clean()

    def create(tool: Tool) -> None:
        figures.add("create", tool, tool.create(ONE))
        figures.add("clone", tool, tool.clone(ONE, TWO))
        tool.remove(ONE, TWO)

    def launch(tool: Tool) -> None:
        figures.add("create --start", tool, tool.launch(ONE))
        tool.stop(ONE)
        if len(figures.of["clone with data", tool.name]) < ROUNDS_OF_DATA:
            figures.add("clone with data", tool, tool.copy_data(ONE, TWO))
            tool.remove(TWO)
        figures.add("rm", tool, tool.remove(ONE))

    def launch_only(tool: Tool) -> None:
        figures.add("create --start", tool, tool.launch(ONE))
        tool.stop(ONE)
        tool.remove(ONE)

    def fill(tool: Tool) -> None:
        names = [f"bench-many{number}" for number in range(CREATED)]
        before = used()
        for machine in names:
            tool.create(machine)
        figures.add("disk of one more", tool, (used() - before) / CREATED)
        tool.remove(*names)

    alike: list[Tool] = [tool for tool in tools if not isinstance(tool, PodmanWithNetwork)]
    others: list[Tool] = [tool for tool in tools if isinstance(tool, PodmanWithNetwork)]
    for number in range(ROUNDS):
        in_turn(alike, number, create)
        in_turn(alike, number, launch)
        in_turn(others, number, launch_only)
        figures.add("version", by_hand, sh("machctl version"))
        figures.add("copy", by_hand, by_hand.copy())
        by_hand.clean()
        figures.add("create --start", by_hand, by_hand.launch())
        by_hand.clean()
    in_turn(alike, 0, fill)

    floor = figures.median("version", by_hand) + figures.median("copy", by_hand)
    report("create / version + copy", figures.median("create", MACHCTL) * 1000, floor * 1000, limit=2)
    report_row(figures, "create --start", by_hand, limit=1.2)
    for row in ("create", "create --start", "rm", "clone", "clone with data", "disk of one more"):
        for tool in (*alike[1:], *others):
            if figures.of[row, tool.name]:
                report_row(figures, row, tool, limit=1)


def report_row(figures: Figures, row: str, other: Tool | ByHand, *, limit: float) -> None:
    """Print machctl's median beside that of another."""
    unit, scale = ("KiB", 1 / 1024) if row.startswith("disk") else ("ms ", 1000)
    ours, theirs = (scale * figures.median(row, tool) for tool in (MACHCTL, other))
    report(f"{row} / {other.name}", ours, theirs, limit=limit, unit=unit)


if __name__ == "__main__":
    everybody: list[Tool] = [MACHCTL, Podman(), PodmanWithNetwork(), Incus()]
    if sys.argv[1:] == ["prepare"]:
        prepare(everybody)
    else:
        head(KIND, "peer")
        prepare(everybody)
        measure(everybody)
