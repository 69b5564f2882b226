# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a child prints, line by line."""

from __future__ import annotations


class Lines:
    """Bytes in, whole lines out; a carriage return ends a line as well, for tools that redraw theirs."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take what was read and give the lines that it completes, without the blank ones."""
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        return [line.decode(errors="replace") for line in whole if line.strip()]

    def end(self) -> list[str]:
        """Give what came after the last line end, at the end of the output."""
        return self.feed(b"\n")
