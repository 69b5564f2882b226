# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is being done, on stderr: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
import time

from machines.cli.options import Options
from machines.operations.reporter import Reporter
from machines.plan.steps import MakeBase, Step

_REDRAW_SECONDS = 0.1
_OF_PACKAGES = {"fetching", "unpacking", "configuring", "installing"}


class Progress(Reporter):
    """Draws long steps; with --verbose it says the short ones as well, with --quiet nothing."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bar = sys.stderr.isatty() and not options.quiet
        self._stage: dict[str, str] = {}
        self._said: set[str] = set()
        self._drawn = 0.0
        self._started = time.monotonic()

    def step(self, step: Step) -> None:
        if self.options.verbose or (isinstance(step, MakeBase) and not self.options.quiet and not self.bar):
            self._line(f"{step.machine + ': ' if step.machine else ''}{step} ({step.reason})")

    def progress(self, machine: str, stage: str, done: int, total: int | None) -> None:
        if self.options.quiet:
            return
        if not self.bar:
            line = f"{machine}: {stage}" + (f" {total} packages" if total and stage in _OF_PACKAGES else "")
            # dpkg goes back and forth between unpacking and configuring; that is no news.
            if line not in self._said:
                self._said.add(line)
                self._line(line)
            return
        now = time.monotonic()
        if self._stage.get(machine) == stage and now - self._drawn < _REDRAW_SECONDS and done != total:
            return
        self._stage[machine], self._drawn = stage, now
        self._draw(machine, stage, done, total)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def quietly(self) -> Reporter:
        self.clear()
        return Reporter()

    def clear(self) -> None:
        """Take the bar away."""
        if self.bar and self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = 0.0

    def _draw(self, machine: str, stage: str, done: int, total: int | None) -> None:
        import shutil

        width = shutil.get_terminal_size().columns
        count = f" {done}/{total}" if total else (f" {done}" if done else "")
        text = f"{machine}: {stage}{count}"
        seconds = f"{time.monotonic() - self._started:.0f} s"
        room = width - len(text) - len(seconds) - 6
        if total and room >= 10:
            length = min(room, 40)
            filled = length * min(done, total) // total
            text += f" [{'=' * filled}{' ' * (length - filled)}]"
        sys.stderr.write(f"\r\x1b[K{text} {seconds}"[: width + 4])
        sys.stderr.flush()

    def _line(self, text: str) -> None:
        self.clear()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
