# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where files are copied from and to."""

from __future__ import annotations

from machines.model.frozen import NamedTuple


class Place(NamedTuple):
    """A path with ``root`` as "/"; ``machine`` is "" for the host, ``shift`` where the machine's private ids begin."""

    machine: str
    root: str
    path: str
    shift: int = 0

    def __str__(self) -> str:
        return f"{self.machine}:{self.path}" if self.machine else self.path
