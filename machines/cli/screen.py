# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole terminal that is drawn again and again, and is what it was before when it is left.

With the sequences that every terminal of today has (console_codes(4), xterm's ctlseqs): curses wants a description of
the terminal in terminfo, and a small host has few of those.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from machines.host.bus.signals import LONGEST_SECONDS, Caught

# Another screen, no cursor, nothing that wraps; and the other way round.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEYS = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "page-up", "\x1b[6~": "page-down",
    "\x1b[H": "home", "\x1b[F": "end", "\x1bOH": "home", "\x1bOF": "end", "\x1b[1~": "home", "\x1b[4~": "end",
    "\x1b": "q", "\x03": "q", "\x04": "q",
}  # fmt: skip
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Screen:
    """The terminal of stdin and stdout; a context manager, on the main thread.

    After a signal that ends it, ``ending`` is its number, and wait() gives "q".
    """

    def __init__(self) -> None:
        self.ending = 0
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._modes = termios.tcgetattr(self._in) if os.isatty(self._in) else None
        self._listens = self._modes is not None
        self._drawn: list[str] = []
        self._caught = Caught((signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP, *_ENDING))

    def __enter__(self) -> Self:
        self._caught.__enter__()
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._caught.__exit__(kind, error, trace)

    def size(self) -> tuple[int, int]:
        """Give the columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        # A terminal that nobody told its size has none.
        return columns or 80, rows or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines, each as wide as the terminal at most; only those that differ from what is there are written."""
        text = ""
        width, _ = self.size()
        for index, line in enumerate(lines):
            if index >= len(self._drawn) or self._drawn[index] != line:
                # Behind the last column the cursor stays in it, and the rest of the line would begin there.
                rest = "\x1b[K" if visible(line) < width else ""
                text += f"\x1b[{index + 1};1H{line}{rest}"
        if len(self._drawn) > len(lines):
            text += f"\x1b[{len(lines) + 1};1H\x1b[J"
        self._drawn = list(lines)
        self._write(text)

    def wait(self, until: float) -> list[str]:
        """Wait for keys, a new size ("resize") or the moment ``until`` (monotonic); give what came, maybe nothing."""
        left = until - time.monotonic()
        poll = select.poll()
        poll.register(self._caught.fileno(), select.POLLIN)
        if self._listens:
            poll.register(self._in, select.POLLIN)
        self._caught.unblock()
        ready = {fd for fd, _ in poll.poll(min(max(left, 0), LONGEST_SECONDS) * 1000)}
        self._caught.block()
        keys = self._signals()
        if self._in in ready:
            keys += self._read()
        return keys

    def _signals(self) -> list[str]:
        found = []
        for number in self._caught.take():
            if number in _ENDING:
                self.ending = number
                found.append("q")
            elif number == signal.SIGTSTP:
                self._stop()
                found.append("resize")
            else:
                # Whoever stopped us another way left the terminal as it is.
                if number == signal.SIGCONT:
                    self._enter()
                self._drawn = []
                self._write("\x1b[2J")
                found.append("resize")
        return found

    def _read(self) -> list[str]:
        try:
            data = os.read(self._in, 4096).decode(errors="replace")
        except OSError:
            data = ""
        if not data:
            # The terminal was hung up.
            return ["q"]
        return keys_of(data)

    def _stop(self) -> None:
        """Let the shell have its terminal while we are stopped (^Z)."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    def _enter(self) -> None:
        if self._modes is not None:
            tty.setcbreak(self._in, termios.TCSADRAIN)
        self._drawn = []
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_LEAVE)
        if self._modes is not None:
            try:
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._modes)
            except termios.error:
                # It was hung up.
                return

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            # Nobody looks any more.
            self.ending = self.ending or signal.SIGHUP


def visible(line: str) -> int:
    """Give how many columns a line takes whose characters are one wide each: without its colours (SGR)."""
    first, *rest = line.split("\x1b[")
    return len(first) + sum(len(part.partition("m")[2]) for part in rest)


def keys_of(data: str) -> list[str]:
    """Give the keys that a terminal sent: characters, and the names of some that have none; others are left out."""
    found = []
    while data:
        end = 1
        if data[0] == "\x1b" and len(data) > 1 and data[1] in "[O":
            end = 2
            while end < len(data) and not ("@" <= data[end] <= "~"):
                end += 1
            end += 1
        key, data = data[:end], data[end:]
        if key in _KEYS:
            found.append(_KEYS[key])
        elif len(key) == 1 and key.isprintable():
            found.append(key)
    return found
