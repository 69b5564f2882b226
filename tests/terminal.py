# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command at a terminal that a test types on."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from types import TracebackType


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, argv: list[str], *, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = os.openpty()
        self.seen = ""
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self._process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | {"TERM": "xterm"},
        )
        self._slave = slave

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._slave)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Change its size, as a window manager does."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, *, limit: float = 20) -> re.Match[str]:
        """Wait until ``pattern`` is shown, and forget what was shown up to there."""
        end = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end() :]
                return match
            assert time.monotonic() < end, f"{pattern!r} was not shown in {limit} s: {self.seen!r}"
            self._read(0.2)

    def ended(self, *, limit: float = 20) -> int:
        """Wait until the command ends; give its exit status."""
        end = time.monotonic() + limit
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.seen!r}"
            self._read(0.1)
        return self._process.returncode

    def modes(self) -> list[object]:
        """Give the terminal's modes."""
        return termios.tcgetattr(self._slave)

    def _read(self, limit: float) -> None:
        if select.select([self._master], [], [], limit)[0]:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
