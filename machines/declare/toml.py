# SPDX-License-Identifier: LGPL-2.1-or-later
"""TOML to values and back. What machctl writes itself is read line by line as JSON, of which it is a part too.

tomllib, which is written in Python, takes longer to import and to read one such file than this does for fifty.
"""

from __future__ import annotations

import json
from collections.abc import Container

# What a key may be made of without quotation marks.
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_DECODER = json.JSONDecoder()
# What JSON and TOML read differently, or only JSON takes.
_JSON_ONLY = ("\\", "null", "NaN", "Infinity")


def parse_toml(text: str) -> dict[str, object]:
    """Read TOML (toml.io, 1.0.0). Raises ValueError with the place of what is wrong."""
    plain = _plain(text)
    if plain is not None:
        return plain
    import tomllib

    return tomllib.loads(text)


def declares_only(text: str, kind: str, name: str) -> bool:
    """Tell whether a declaration file says nothing but ``[KIND.NAME]``: no others, and nothing else that would be lost.

    What cannot be read may say anything.
    """
    try:
        content = parse_toml(text)
    except ValueError:
        return False
    declared = content.pop(kind, None)
    return isinstance(declared, dict) and set(declared) == {name} and not any(content.values())


def quote_key(name: str) -> str:
    """Give a name as it stands in a header or before a value."""
    return name if name and _BARE.issuperset(name) else format_toml(name)


def format_toml(value: object) -> str:
    """Give strings, numbers, booleans and lists of them as TOML: as in JSON, but for DEL (toml.io, 1.0.0)."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(text: str) -> dict[str, object] | None:
    """Read tables of one line a value, each of which means the same in JSON; None where there is anything else."""
    top: dict[str, object] = {}
    table, headers, inline = top, set[str](), set[int]()
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            if not line.isprintable():
                return None
            continue
        if line.startswith("["):
            inner = _table(line[1:-1].split("."), top, inline) if line.endswith("]") and line not in headers else None
            if inner is None:
                return None
            table = inner
            headers.add(line)
            continue
        key, equals, value = line.partition(" = ")
        if not equals or not _BARE.issuperset(key) or not key or key in table or not line.isprintable():
            return None
        if any(mark in value for mark in _JSON_ONLY):
            return None
        try:
            if value.startswith("{ "):
                table[key] = made = _inline(value)
                inline.add(id(made))
            else:
                table[key] = _value(value)
        except ValueError:
            return None
    return top


def _value(text: str) -> object:
    """Read a string, number, boolean or list of these that is the same in JSON. Raises ValueError for all else."""
    value, end = _first(text)
    if end != len(text):
        raise ValueError(text)
    return value


def _first(text: str) -> tuple[object, int]:
    """Read the value that a text begins with, and give where it ends; no object of JSON, which no list may hold."""
    if text[:1] not in '"[tf0123456789':
        raise ValueError(text)
    value, end = _DECODER.raw_decode(text)
    if _has_table(value):
        raise ValueError(text)
    return value, end


def _has_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_table, value)))


def _inline(text: str) -> dict[str, object]:
    """Read ``{ key = value, key = value }``. Raises ValueError for what may be anything else."""
    if not text.endswith(" }"):
        raise ValueError(text)
    table: dict[str, object] = {}
    rest = f", {text[2:-2]}"
    while rest:
        comma, key, equals, rest = rest[:2], *rest[2:].partition(" = ")
        if comma != ", " or not equals or not key or not _BARE.issuperset(key) or key in table:
            raise ValueError(text)
        table[key], end = _first(rest)
        rest = rest[end:]
    return table


def _table(names: list[str], top: dict[str, object], inline: Container[int]) -> dict[str, object] | None:
    """Make the table of a header; None where it is there already, or in an ``inline`` one, or has no plain name."""
    table = top
    for name in names:
        inner = table.setdefault(name, {})
        if not name or not _BARE.issuperset(name) or not isinstance(inner, dict) or id(inner) in inline:
            return None
        table = inner
    return None if table else table
