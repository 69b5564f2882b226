# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots that are taken again and again: the newest are kept, and none that somebody took otherwise is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.model.snapshot import Snapshot, is_timed_name
from machines.operations.copies import drop, take
from machines.operations.reporter import Reporter

if TYPE_CHECKING:
    from machines.host.interfaces import Host

PREFIX = "auto-"
"""What the names of these snapshots begin with."""


async def take_in_turn(
    name: str, keep: int, host: Host, reporter: Reporter, *, dry_run: bool
) -> tuple[Snapshot, list[str]]:
    """Take a snapshot of a machine, then remove the oldest but ``keep`` of those taken so; give it and them.

    Raises NotFound for a machine that is not there. A failure leaves what there was.
    """
    there = host.storage.snapshots_of(name)
    taken = await take(name, "", host, reporter, dry_run=dry_run, note="taken in turn", prefix=PREFIX)
    gone = outdated({**there, taken.name: taken}, keep)
    if gone:
        await drop(name, gone, host, reporter, dry_run=dry_run)
    return taken, gone


def outdated(snapshots: dict[str, Snapshot], keep: int) -> list[str]:
    """Name those of the snapshots taken in turn that are not among the ``keep`` newest, the oldest first."""
    own = sorted(
        (each for each in snapshots.values() if is_timed_name(each.name, PREFIX)), key=lambda each: each.created
    )
    return [each.name for each in own[: max(len(own) - keep, 0)]]
