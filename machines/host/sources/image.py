# SPDX-License-Identifier: LGPL-2.1-or-later
"""image: a tree or disk image that machinectl, or somebody by hand, put into the pool."""

from __future__ import annotations

from machines.errors import NotFound, Unsupported
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.directory import copy_tree
from machines.host.sources.raw import copy_image
from machines.host.storage import pool
from machines.host.threads import in_thread
from machines.model.base import Payload
from machines.model.tree import Tree


class Maker:
    """Copies what is in the pool as it is now; bases that have a name are found before anybody asks here."""

    def identity(self, request: SourceRequest) -> dict[str, object] | None:
        """Give None: nothing short of reading all of it says whether a tree changed. Raises NotFound."""
        self._find(request)
        return None

    def kind(self, request: SourceRequest) -> str:
        """Tell whether it is a tree or a raw image."""
        return "raw" if self._find(request).kind == "raw" else "tree"

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Copy into ``request.target``, or beside it where it is a disk image."""
        tree = self._find(request)
        if tree.kind == "raw":
            await copy_image(tree.path, f"{request.scratch}/disk.raw", log=request.log, progress=progress)
            return None

        def work(report: Progress) -> None:
            copy_tree(tree.path, request.target, report)

        await in_thread(work, progress)
        return None

    def _find(self, request: SourceRequest) -> Tree:
        name = request.source.reference
        tree = pool.trees().get(name)
        if tree is None:
            raise NotFound(f"there is no image {name}", hint="machctl image ls and machinectl list-images show them")
        if tree.kind == "overlay" and not pool.is_mounted(tree.path):
            raise Unsupported(f"the tree of {name} is not mounted", hint=f"machctl start {name}")
        return tree
