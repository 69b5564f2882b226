# SPDX-License-Identifier: LGPL-2.1-or-later
"""A root tree of the pool."""

from __future__ import annotations

from machines.model.frozen import NamedTuple


class Tree(NamedTuple):
    """A root tree in the pool; ``kind`` is what machined calls its type: directory, subvolume, raw;
    overlay is a directory that a layer is mounted on, lost one whose layer cannot be mounted. A layer says itself which
    ``base`` it is over, and which ``uid`` its ids begin with."""

    name: str
    path: str
    kind: str = "directory"
    base: str = ""
    uid: int | None = None
