# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unit and .nspawn files, read as systemd and nspawn do."""

from __future__ import annotations

from collections.abc import Iterator

CONTINUATION = "\\"


def settings(text: str) -> list[tuple[str, str, str]]:
    """Read a unit file as systemd does (systemd.syntax(7)): section, key and value of every assignment."""
    found = []
    section, pending = "", ""
    # "\n" alone ends a line there, whatever Python's splitlines() thinks.
    for raw in text.split("\n"):
        line = pending + raw
        pending = ""
        if not line.strip(" \t\r") or (line[0] in "#;"):
            continue
        if (len(line) - len(line.rstrip(CONTINUATION))) % 2:
            pending = line[:-1] + " "
            continue
        line = line.strip(" \t\r")
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        assert equals, f"{line!r} is no assignment"
        found.append((section, key.rstrip(), value.lstrip()))
    return found


def words(value: str) -> Iterator[str]:
    r"""Split as nspawn splits Bind=: extract_first_word() at ":" without coalescing; "\" takes the next as it is."""
    word, escaped = "", False
    for character in value:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        elif character == ":":
            yield word
            word = ""
        else:
            word += character
    assert not escaped, "a backslash at the end escapes nothing"
    yield word


def shell_words(value: str) -> list[str]:
    """Split as nspawn splits Parameters=: extract_first_word() with EXTRACT_UNQUOTE and EXTRACT_RETAIN_ESCAPE."""
    found: list[str] = []
    word: str | None = None
    quote = ""
    for character in value:
        if quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "\"'":
            quote, word = character, word or ""
        elif character in " \t":
            found += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + character
    assert not quote, "a quote that does not end is no list"
    return found + ([] if word is None else [word])


def values(files: dict[str, str], path: str, section: str, key: str) -> list[str]:
    """Give what is assigned to a key of a section, one assignment after the other."""
    return [value for in_section, name, value in settings(files[path]) if (in_section, name) == (section, key)]
