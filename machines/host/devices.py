# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is at the places of devices."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from machines.host.matching import matching
from machines.model.settings import Node

_FOR_ALL = stat.S_IROTH | stat.S_IWOTH


def devices(paths: Iterable[str]) -> dict[str, Node]:
    """Give what there is at each path, symlinks followed; nothing for what is not there."""
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        kind = _kind(status.st_mode)
        inside = tuple(sorted(filter(_is_node, matching(f"{path}/*")))) if kind == "directory" else ()
        found[path] = Node(kind, status.st_mode & _FOR_ALL == _FOR_ALL, inside)
    return found


def _is_node(path: str) -> bool:
    try:
        return _kind(os.stat(path).st_mode) in {"char", "block"}
    except OSError:
        return False


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISCHR, "char"), (stat.S_ISBLK, "block"), (stat.S_ISDIR, "directory"))
    return next((kind for test, kind in kinds if test(mode)), "other")
