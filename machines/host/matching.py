# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that match a pattern, as glob(7) has it but with one ``*`` in a name only: glob takes long to import."""

from __future__ import annotations

import os


def matching(pattern: str) -> list[str]:
    """Give the paths that match an absolute pattern, sorted; ``*`` does not stand for the dot of a hidden name."""
    found, star = [""], ""
    for part in pattern.split("/")[1:]:
        prefix, star, suffix = part.partition("*")
        if star:
            found = [f"{path}/{name}" for path in found for name in _names(path or "/", prefix, suffix)]
        else:
            found = [f"{path}/{part}" for path in found]
    return found if star else [path for path in found if os.path.lexists(path)]


def _names(directory: str, prefix: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    least = len(prefix) + len(suffix)
    return sorted(
        name
        for name in names
        if name.startswith(prefix)
        and name.endswith(suffix)
        and len(name) >= least
        and (prefix or not name.startswith("."))
    )
