# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is being done to many machines at once: a line for each, drawn in place on a terminal."""

from __future__ import annotations

import shutil
import sys
import time

from machines.cli.options import Options
from machines.cli.progress import Progress
from machines.errors import MachctlError
from machines.plan.steps import (
    MakeTree,
    RemoveTree,
    RestartMachine,
    StartMachine,
    Step,
    StopMachine,
    TakeSnapshot,
    WriteFile,
)

_REDRAW_SECONDS = 0.1
_DOING = {
    MakeTree: "making its tree", RemoveTree: "removing its tree", RestartMachine: "restarting",
    StartMachine: "starting", StopMachine: "stopping", TakeSnapshot: "taking a snapshot", WriteFile: "writing files",
}  # fmt: skip
_DONE = {
    MakeTree: "made", RemoveTree: "removed", RestartMachine: "restarted", StartMachine: "started",
    StopMachine: "stopped",
}  # fmt: skip
_LEFT = "left as it is"


class FleetProgress(Progress):
    """Has a line for every machine that something is done to: how far it is, and in the end how long it took."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._began: dict[str, float] = {}
        self._doing: dict[str, str] = {}
        self._did: dict[str, list[type[Step]]] = {}
        self._rows = 0

    def step(self, step: Step) -> None:
        super().step(step)
        name = step.machine
        if not name or (name in self._doing and self._doing[name] == _DOING.get(type(step))):
            return
        self._began.setdefault(name, time.monotonic())
        self._did.setdefault(name, []).append(type(step))
        self._say(name, _DOING.get(type(step), self._doing.get(name, "changing")))

    def progress(self, machine: str, stage: str, done: int, total: int | None) -> None:
        if not self.bar:
            super().progress(machine, stage, done, total)
            return
        count = f" {done}/{total}" if total else f" {done}" if done else ""
        self._began.setdefault(machine, time.monotonic())
        self._say(machine, stage + count)

    def ended(self, machine: str, error: MachctlError | None) -> None:
        if self.options.quiet:
            return
        took = f"in {time.monotonic() - self._began.get(machine, self._started):.1f} s"
        if error is not None:
            line = f"{machine}: {_LEFT}" if machine not in self._did else f"{machine}: failed {took}"
        else:
            line = f"{machine}: {self._words(machine)} {took}"
        self._doing.pop(machine, None)
        self._line(line)
        self._draw_all()

    def clear(self) -> None:
        """Take the lines away."""
        if self._rows:
            sys.stderr.write(f"\x1b[{self._rows}A\r\x1b[J")
            sys.stderr.flush()
            self._rows = 0

    def _words(self, machine: str) -> str:
        did = self._did.get(machine, [])
        if RemoveTree in did and MakeTree not in did:
            return "removed"
        words = dict.fromkeys(_DONE[kind] for kind in did if kind in _DONE and kind is not RemoveTree)
        if RemoveTree in did:
            words = dict.fromkeys(["made anew", *(word for word in words if word not in {"made", "stopped"})])
        return " and ".join(words) or "changed"

    def _say(self, machine: str, what: str) -> None:
        new = machine not in self._doing
        self._doing[machine] = what
        now = time.monotonic()
        if self.bar and (new or now - self._drawn >= _REDRAW_SECONDS):
            self._drawn = now
            self._draw_all()

    def _draw_all(self) -> None:
        """Draw the machines that something is being done to, as many as there is room for."""
        if not self.bar:
            return
        columns, rows = shutil.get_terminal_size()
        names = list(self._doing)[: max(rows - 2, 1)]
        width = max(map(len, names), default=0)
        now = time.monotonic()
        lines = [
            f"{name:<{width}}  {self._doing[name]}  {now - self._began.get(name, now):.0f} s"[: columns - 1]
            for name in names
        ]
        if len(self._doing) > len(names):
            lines[-1] = f"and {len(self._doing) - len(names) + 1} more"
        up = f"\x1b[{self._rows}A" if self._rows else ""
        sys.stderr.write(f"{up}\r\x1b[J" + "".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
        self._rows = len(lines)
