# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where in a file a key stands. Neither tomllib nor tomlkit keep that, and only errors ask for it."""

from __future__ import annotations

from bisect import bisect_right

_SPACE = " \t\r\n"


def key_lines(text: str) -> dict[str, int]:
    """Give the line, from 1, of each key path (``machines.web.publish[0]``) of a text that is TOML."""
    scanner = _Scanner(text)
    try:
        scanner.scan()
    except IndexError:
        # It is not TOML after all; what was found until there is as good as before.
        pass
    return scanner.found


def line_of(path: str, lines: dict[str, int]) -> int | None:
    """Give the line of a key path, or that of the nearest table or list around it that has one."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)


class _Scanner:
    """Reads keys and skips values."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[str, int] = {}
        self._ends = [index for index, character in enumerate(text) if character == "\n"]

    def scan(self) -> None:
        table = ""
        while self._skip(_SPACE):
            if self.text[self.at] == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                table = self._keys("")
                self.at = self._after("]")
                self.at += self.text.startswith("]", self.at)
            else:
                self._pair(table)

    def _pair(self, table: str) -> None:
        path = self._keys(table)
        self.at = self._after("=")
        self._value(path)

    def _keys(self, table: str) -> str:
        """Read a dotted key, noting each part of it; give its path."""
        path = table
        while True:
            self._skip(" \t")
            start = self.at
            name = self._name()
            path = f"{path}.{name}" if path else name
            self.found.setdefault(path, bisect_right(self._ends, start - 1) + 1)
            self._skip(" \t")
            if self.text[self.at] != ".":
                return path
            self.at += 1

    def _name(self) -> str:
        start = self.at
        if self.text[start] in "\"'":
            self._string()
            return self.text[start + 1 : self.at - 1]
        while self.text[self.at] not in " \t.=]":
            self.at += 1
        return self.text[start : self.at]

    def _value(self, path: str) -> None:
        self._skip(" \t")
        first = self.text[self.at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self.at += 1
            while self._skip(_SPACE + ",") and self.text[self.at] != "}":
                self._pair(path)
            self.at += 1
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def _array(self, path: str) -> None:
        self.at += 1
        index = 0
        while self._skip(_SPACE + ",") and self.text[self.at] != "]":
            item = f"{path}[{index}]"
            self.found[item] = bisect_right(self._ends, self.at - 1) + 1
            self._value(item)
            index += 1
        self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        mark = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(mark)
        while not self.text.startswith(mark, self.at):
            # An escaped quotation mark ends nothing, where there are escapes.
            self.at += 2 if self.text[self.at] == "\\" and quote == '"' else 1
        self.at += len(mark)
        while len(mark) == 3 and self.text[self.at : self.at + 1] == quote:
            # Up to two more may stand before the three that end it.
            self.at += 1

    def _after(self, mark: str) -> int:
        self._skip(" \t")
        if self.text[self.at] != mark:
            raise IndexError
        return self.at + 1

    def _skip(self, what: str) -> bool:
        """Go on behind characters of ``what``, and behind comments; tell whether there is more."""
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
                if "\n" not in what:
                    return self.at < len(self.text)
            elif character in what:
                self.at += 1
            else:
                return True
        return False
