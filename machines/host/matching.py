# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that match a pattern, as glob(7) has it but with one ``*`` in a name only: glob takes long to import."""

from __future__ import annotations

import os
from collections.abc import Iterable


def matching(pattern: str) -> list[str]:
    """Give the paths that match an absolute pattern, sorted; ``*`` does not stand for the dot of a hidden name."""
    return _matching(pattern, {})


def all_matching(patterns: Iterable[str]) -> list[str]:
    """Give the paths that match any of ``patterns``, pattern by pattern. Each directory is read once."""
    listed: dict[str, list[str]] = {}
    return [path for pattern in patterns for path in _matching(pattern, listed)]


def _matching(pattern: str, listed: dict[str, list[str]]) -> list[str]:
    found, star = [""], ""
    for part in pattern.split("/")[1:]:
        prefix, star, suffix = part.partition("*")
        if star:
            found = [f"{path}/{name}" for path in found for name in _names(path or "/", prefix, suffix, listed)]
        else:
            found = [f"{path}/{part}" for path in found]
    return found if star else [path for path in found if os.path.lexists(path)]


def _names(directory: str, prefix: str, suffix: str, listed: dict[str, list[str]]) -> list[str]:
    names = listed.get(directory)
    if names is None:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            names = []
        listed[directory] = names
    least = len(prefix) + len(suffix)
    return [
        name
        for name in names
        if name.startswith(prefix)
        and name.endswith(suffix)
        and len(name) >= least
        and (prefix or not name.startswith("."))
    ]
