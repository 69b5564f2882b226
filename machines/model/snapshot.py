# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots: how a machine's tree was at some time."""

from __future__ import annotations

import time
from collections.abc import Container
from itertools import chain, count

from machines.model.frozen import NamedTuple


class Snapshot(NamedTuple):
    """A snapshot of a machine, kept by the driver that keeps the machine; ``created`` in seconds since the epoch.

    Of a layer it is the layer only: ``base`` is what lies below it, ``uid`` the first id of its owners.
    """

    machine: str
    name: str
    created: float
    storage: str
    base: str = ""
    uid: int | None = None
    note: str = ""


class Origin(NamedTuple):
    """Something a machine's tree can be a copy of: a machine or a snapshot of one, at ``path``."""

    path: str
    storage: str
    base: str = ""
    uid: int | None = None


def timed_name(taken: Container[str], prefix: str = "") -> str:
    """Name a snapshot by the time behind ``prefix``: 20260102-030405, and 20260102-030405.2 where that is ``taken``."""
    now = time.strftime(f"{prefix}%Y%m%d-%H%M%S")
    names = chain((now,), (f"{now}.{number}" for number in count(2)))
    return next(name for name in names if name not in taken)


def is_timed_name(name: str, prefix: str) -> bool:
    """Tell whether timed_name() gave a name, and not somebody whose word only begins like those."""
    import re

    return re.fullmatch(re.escape(prefix) + r"[0-9]{8}-[0-9]{6}(\.[0-9]+)?", name) is not None
