# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of systemd's syntax (systemd.syntax(7)): what they assign, line by line, and what is left of them."""

from __future__ import annotations

import re
from collections.abc import Collection

from machines.model.frozen import NamedTuple

_SECTION = re.compile(r"\s*\[(.*)\]\s*")


class Assignment(NamedTuple):
    """``key`` of ``section`` is ``value``; it stands in ``lines``, from the first to before the second."""

    section: str
    key: str
    value: str
    lines: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def assignments(text: str) -> list[Assignment]:
    """Give what a file assigns, in its order; a line that ends in a backslash goes on in the next."""
    found: list[Assignment] = []
    section, lines = "", text.splitlines()
    index = 0
    while index < len(lines):
        first, line = index, lines[index]
        index += 1
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        while line.endswith("\\") and index < len(lines):
            more = lines[index]
            index += 1
            # Comments may stand between.
            line = line[:-1] + (" " + more if more.lstrip()[:1] not in {"#", ";"} else "\\")
        if match := _SECTION.fullmatch(line):
            section = match[1]
            continue
        key, equals, value = line.partition("=")
        if equals:
            found.append(Assignment(section, key.strip(), value.strip(), (first, index)))
    return found


def without(text: str, gone: Collection[Assignment]) -> str:
    """Give the text of a file without some of its assignments; "" where nothing is assigned in it any more."""
    dropped = {index for each in gone for index in range(*each.lines)}
    left = "".join(line for index, line in enumerate(text.splitlines(keepends=True)) if index not in dropped)
    return left if assignments(left) else ""


def is_yes(value: str) -> bool | None:
    """Read a boolean as systemd does; None for what is none."""
    if value.lower() in {"1", "yes", "y", "true", "t", "on"}:
        return True
    return False if value.lower() in {"0", "no", "n", "false", "f", "off"} else None


def number(value: str) -> int | None:
    """Read a number of a size that counts or limits have; None for what is none."""
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None


def words(value: str) -> list[str]:
    """Split words at blanks, quoted ones being one (systemd.syntax(7))."""
    import shlex

    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def fields(value: str) -> list[str]:
    r"""Split a setting at its colons; ``\:`` is one that belongs to a path (systemd.nspawn(5), Bind=)."""
    found, escaped = [""], False
    for character in value:
        if escaped:
            found[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ":":
            found.append("")
        else:
            found[-1] += character
    return found
