# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots: how a machine's tree was at some time."""

from __future__ import annotations

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
