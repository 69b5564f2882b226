# SPDX-License-Identifier: LGPL-2.1-or-later
"""TOML to values. What machctl writes itself is read line by line as JSON, of which it is a part too.

tomllib, which is written in Python, takes longer to import and to read one such file than this does for fifty.
"""

from __future__ import annotations

import json

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
# What JSON and TOML read differently, or only JSON takes.
_JSON_ONLY = ("\\", "{", "null", "NaN", "Infinity")


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


def _plain(text: str) -> dict[str, object] | None:
    """Read tables of one line a value, each of which means the same in JSON; None where there is anything else."""
    top: dict[str, object] = {}
    table, headers = top, set[str]()
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            if not line.isprintable():
                return None
            continue
        if line.startswith("["):
            inner = _table(line[1:-1].split("."), top) if line.endswith("]") and line not in headers else None
            if inner is None:
                return None
            table = inner
            headers.add(line)
            continue
        key, equals, value = line.partition(" = ")
        if not equals or not _BARE.issuperset(key) or not key or key in table or not line.isprintable():
            return None
        if value[:1] not in '"[tf0123456789' or any(mark in value for mark in _JSON_ONLY):
            return None
        try:
            table[key] = json.loads(value)
        except ValueError:
            return None
    return top


def _table(names: list[str], top: dict[str, object]) -> dict[str, object] | None:
    """Make the table of a header; None where it is there already or its name is not a plain one."""
    table = top
    for name in names:
        inner = table.setdefault(name, {})
        if not name or not _BARE.issuperset(name) or not isinstance(inner, dict):
            return None
        table = inner
    return None if table else table
