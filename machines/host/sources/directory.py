# SPDX-License-Identifier: LGPL-2.1-or-later
"""dir: a root tree that lies on this host, copied as it is now."""

from __future__ import annotations

import os

from machines.errors import Conflict, MachctlError, NotFound
from machines.host.interfaces import Progress, SourceRequest
from machines.host.threads import in_thread
from machines.model.base import Payload
from machines.model.ids import first_of_range


class Maker:
    """Copies a directory, without what is mounted in it."""

    def identity(self, request: SourceRequest) -> dict[str, object] | None:
        """Give None: nothing short of reading all of it says whether a directory changed. Raises NotFound."""
        path = request.source.reference
        if not os.path.isdir(path):
            raise NotFound(f"{request.source}: there is no directory {path}", hint="give the root of a system's tree")
        return None

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Copy into ``request.target``. Raises Conflict for the host's own root."""
        path = request.source.reference
        if os.path.samefile(path, "/"):
            raise Conflict("the host's own root is no source", hint="make an archive of what you want of it: tar:PATH")

        def work(report: Progress) -> None:
            copy_tree(path, request.target, report)

        await in_thread(work, progress)
        return None


def check_system(tree: str, called: str, *, hint: str) -> None:
    """Raise MachctlError, which calls it ``called``, for a tree that has no system in it."""
    if not any(os.path.lexists(f"{tree}/{name}") for name in ("etc", "usr", "bin", "sbin")):
        raise MachctlError(f"{called} is not the root of a system: it has neither etc nor usr", hint=hint)


def copy_tree(source: str, target: str, progress: Progress) -> None:
    """Copy a tree into an empty directory; it belongs to root where the source does to a private range of ids.

    Raises MachctlError for what has no system in it.
    """
    from machines.host.archive.tree import read_tree, write_tree

    check_system(source, source, hint=f"ls {source}")
    here = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    there = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = read_tree(here, shift=first_of_range(os.fstat(here).st_uid))
        write_tree(entries, there, progress=progress, stage="copying", name=source)
    finally:
        os.close(here)
        os.close(there)
