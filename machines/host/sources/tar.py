# SPDX-License-Identifier: LGPL-2.1-or-later
"""tar: an archive of a root tree, of this host or fetched from a URL, plain or compressed."""

from __future__ import annotations

import os
from pathlib import Path

from machines.errors import NotFound
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.directory import check_system
from machines.host.sources.payload import fitting
from machines.host.threads import in_thread
from machines.model.base import Payload


class Maker:
    """Unpacks, after the checksum is found right."""

    def identity(self, request: SourceRequest) -> dict[str, object]:
        """Give what says whether the archive is still the one it was. Raises NotFound."""
        return file_identity(request)

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Unpack into ``request.target`` and give what the archive says that runs in place of an init.

        Raises MachctlError for what is no archive, not the one it should be, or has no system in it.
        """
        path = await local_file(request, progress)
        called = str(request.source)

        def work(report: Progress) -> Payload | None:
            from machines.host.archive.compress import open_archive
            from machines.host.archive.marks import payload_of, unmarked
            from machines.host.archive.tar import read_tar
            from machines.host.archive.tree import write_tree

            fd = os.open(request.target, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with open_archive(path) as stream:
                    said, entries = unmarked(read_tar(stream, name=called))
                    payload = payload_of(said, archive=called)
                    write_tree(entries, fd, progress=report)
            finally:
                os.close(fd)
            if payload:
                return fitting(payload, request.target)
            check_system(request.target, called, hint=f"see what is in it: tar tf {request.source.path or 'FILE'}")
            return None

        return await in_thread(work, progress)


def file_identity(request: SourceRequest) -> dict[str, object]:
    """Give what tells one state of a file from the next without reading it: its size and the time of its last change.

    Raises NotFound.
    """
    path = request.source.path
    if path is None:
        return {"checksum": request.checksum}
    try:
        status = os.stat(path)
    except OSError as error:
        raise NotFound(f"{request.source} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    return {"checksum": request.checksum, "size": status.st_size, "changed": status.st_mtime_ns}


async def local_file(request: SourceRequest, progress: Progress) -> str:
    """Give the file of a source on this host, fetched where it has to be, its checksum found right.

    Raises MachctlError.
    """
    from machines.host.archive import fetch

    path = request.source.path
    if path is None:
        path = f"{request.scratch}/fetched"
        await fetch.fetch(request.source.reference, Path(path), progress=progress)
    if request.checksum:
        kind = request.checksum.partition(":")[0]
        have = await in_thread(lambda report: fetch.digest_of(path, kind, progress=report), progress)
        fetch.check_sum(str(request.source), f"{kind}:{have}", request.checksum)
    return path
