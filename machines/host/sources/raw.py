# SPDX-License-Identifier: LGPL-2.1-or-later
"""raw: a disk image, of this host or fetched from a URL, kept as it is."""

from __future__ import annotations

from machines.errors import MachctlError
from machines.host import run
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.tar import file_identity, local_file
from machines.host.streaming import stream
from machines.model.base import Payload

_BLOCK = 64 * 1024


class Maker:
    """Copies the image as cheaply as the file system can, or unpacks it; keeps none that has no tree to be mounted."""

    def identity(self, request: SourceRequest) -> dict[str, object]:
        """Give what says whether the image is still the one it was. Raises NotFound."""
        return file_identity(request)

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Put the image beside ``request.target``, which stays empty. Raises MachctlError for what is no image."""
        from machines.host.sources import disk
        from machines.host.threads import in_thread

        path, what, target = await local_file(request, progress), str(request.source), f"{request.scratch}/disk.raw"
        called = request.source.path or "FILE"
        if unpacked := await in_thread(lambda report: unpack(path, target, what, report), progress):
            called = called.rpartition(".")[0] or called
        partition = disk.examine(target if unpacked else path, what, called=called)
        if not unpacked:
            await copy_image(path, target, log=request.log, progress=progress)
        disk.look_into(target, what, partition, called=called)
        return None


def unpack(source: str, target: str, what: str, progress: Progress) -> bool:
    """Write what a compressed image holds to ``target``, its zeros as holes; tell whether it was compressed.

    Raises MachctlError where it is cut off or corrupt.
    """
    from machines.host.archive.compress import is_compressed, open_archive

    if not is_compressed(source):
        return False
    with open_archive(source, name=what) as packed, open(target, "wb") as file:
        done = 0
        while block := packed.read(_BLOCK):
            if block.count(0) == len(block):
                file.seek(len(block), 1)
            else:
                file.write(block)
            done += len(block)
            progress("unpacking the image", done, None)
        file.truncate(done)
    return True


async def copy_image(source: str, target: str, *, log: str, progress: Progress) -> None:
    """Copy a disk image: its blocks are shared where the file system can, its holes stay holes. Raises MachctlError."""
    progress("copying the image", 0, None)
    words: list[str] = []
    argv = ["cp", "--reflink=auto", "--sparse=always", "--no-target-directory", "--", source, target]
    if await stream(argv, on_line=words.append, log=log) != 0:
        raise MachctlError(f"{source} could not be copied: {run.last_line(chr(10).join(words))}", hint=f"see {log}")
