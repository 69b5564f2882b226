# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed in a machine since it was made, or between its snapshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from machines.errors import NotFound, Unsupported
from machines.model.difference import Contents, Difference
from machines.model.ids import first_of_range
from machines.model.snapshot import Origin
from machines.operations.copies import find_snapshot, tree_of
from machines.operations.differences import compare
from machines.operations.forgetting import not_kept
from machines.operations.observe import observe
from machines.operations.ready import check_ready

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def changes(name: str, host: Host, *, before: str | None, after: str | None) -> Difference:
    """Compare a machine's snapshot ``before``, or its base, with the snapshot ``after``, or how it is now.

    Raises NotFound for what is not there, Unsupported for disk images.
    """
    check_ready(host, verb="diff")
    observed = observe(host)
    record = tree_of(name, observed)
    if observed.trees[name].kind == "raw":
        raise Unsupported(f"machine {name} is a disk image; what is in it cannot be compared", hint="machctl shell")
    # The later one first: once something is mounted for this process alone, it does not see what others mount.
    now = _snapshot(name, after, host) if after else _now(name, observed.trees[name].path, record.storage, host)
    missing = not_kept(name, host) if not after else ""
    if missing:
        now = now._replace(unread=(*now.unread, f"{missing.replace('it', name, 1)}, which it forgets when it stops"))
    if before is not None:
        return compare(_snapshot(name, before, host), now)
    base = observed.bases.get(record.base)
    if base is None:
        raise NotFound(
            f"what machine {name} was made of is not kept",
            hint=f"compare it with a snapshot: machctl diff {name} SNAPSHOT",
        )
    return compare(host.contents(host.storage.base_path(base), shift=0), now)


def _now(name: str, tree: str, storage: str, host: Host) -> Contents:
    if storage == "overlay":
        host.storage.mount(name)
    return host.contents(tree, shift=first_of_range(os.stat(tree).st_uid))


def _snapshot(name: str, snapshot: str, host: Host) -> Contents:
    origin = host.storage.origin_of_snapshot(find_snapshot(name, snapshot, host))
    with _shown(origin, host) as tree:
        return host.contents(tree, shift=first_of_range(os.stat(tree).st_uid))


@contextmanager
def _shown(origin: Origin, host: Host) -> Iterator[str]:
    if origin.storage != "overlay" or origin.uid is None:
        yield origin.path
        return
    base = host.storage.bases().get(origin.base)
    if base is None:
        raise NotFound(f"the base {origin.base} below this snapshot is gone")
    with host.storage.view(origin.path, host.storage.base_path(base), origin.uid) as tree:
        yield tree
