# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a machine's tree is kept, and which ids it has for itself."""

from __future__ import annotations

from collections.abc import Iterable

from machines.errors import Conflict
from machines.model.ids import SIZE, spread
from machines.model.machine import Machine
from machines.model.observed import Host

# As nspawn's --private-users=pick has it (UIDS-GIDS.md of systemd): ranges of 65536 ids.
FIRST, LAST = 0x00080000, 0x6FFF0000


_STORAGES = {"subvolume": "btrfs", "overlay": "overlay", "lost": "overlay", "raw": "raw"}


def storage_of(machine: Machine, host: Host) -> str:
    """Give the driver of a machine's tree: the one it was made with, or the one it is to be made with."""
    own = host.records.get(machine.name)
    if machine.name in host.trees:
        # Whoever lost the record still sees what the tree is.
        return own.storage if own and own.storage else _STORAGES.get(host.trees[machine.name].kind, "")
    if machine.source.kind == "raw":
        return "raw"
    return host.storage.get(machine.storage, "copy")


def uid_of(machine: Machine, host: Host, storage: str) -> int | None:
    """Give the first of a machine's ids where its storage fixes them: those of a layer cannot be changed at a start."""
    if storage != "overlay":
        return None
    own = host.records.get(machine.name)
    if own and own.uid is not None:
        return own.uid
    if machine.name in host.trees and host.trees[machine.name].uid is not None:
        return host.trees[machine.name].uid
    found = [record.uid for record in host.records.values()] + [tree.uid for tree in host.trees.values()]
    return choose_uid(machine.name, [uid for uid in found if uid is not None])


def choose_uid(name: str, taken: Iterable[int]) -> int:
    """Give the first id of a range that no machine in ``taken`` has; the same name gets the same one where it can.

    Raises Conflict when none is left.
    """
    used = set(taken)
    count = (LAST - FIRST) // SIZE + 1
    start = spread(name) % count
    for step in range(count):
        uid = FIRST + (start + step) % count * SIZE
        if uid not in used:
            return uid
    raise Conflict(
        "no range of ids is left for another machine", hint="remove machines that are not needed: machctl rm"
    )
