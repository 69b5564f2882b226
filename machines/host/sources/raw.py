# SPDX-License-Identifier: LGPL-2.1-or-later
"""raw: a disk image, of this host or fetched from a URL, kept as it is."""

from __future__ import annotations

from machines.errors import MachctlError
from machines.host import run
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.tar import file_identity, local_file
from machines.model.base import Payload

# The first sector of an MBR or of the one that protects a GPT; the magic of ext4 and btrfs where they are alone.
_SIGNATURES = ((510, b"\x55\xaa"), (0x438, b"\x53\xef"), (0x10040, b"_BHRfS_M"), (0, b"hsqs"), (0, b"XFSB"))


class Maker:
    """Copies the image as cheaply as the file system can."""

    def identity(self, request: SourceRequest) -> dict[str, object]:
        """Give what says whether the image is still the one it was. Raises NotFound."""
        return file_identity(request)

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Put the image beside ``request.target``, which stays empty. Raises MachctlError for what is no image."""
        path = await local_file(request, progress)
        _check(path, str(request.source))
        await copy_image(path, f"{request.scratch}/disk.raw", log=request.log, progress=progress)
        return None


async def copy_image(source: str, target: str, *, log: str, progress: Progress) -> None:
    """Copy a disk image: its blocks are shared where the file system can, its holes stay holes. Raises MachctlError."""
    progress("copying the image", 0, None)
    words: list[str] = []
    argv = ["cp", "--reflink=auto", "--sparse=always", "--no-target-directory", "--", source, target]
    if await run.stream(argv, on_line=words.append, log=log) != 0:
        raise MachctlError(f"{source} could not be copied: {run.last_line(chr(10).join(words))}", hint=f"see {log}")


def _check(path: str, what: str) -> None:
    with open(path, "rb") as file:
        head = file.read(0x10048)
    if not any(head[offset : offset + len(magic)] == magic for offset, magic in _SIGNATURES):
        hint = "it is compressed: unpack it first" if head[:4] in {b"\x28\xb5\x2f\xfd", b"\xfd7zX"} or head[:2] in {
            b"\x1f\x8b", b"QF", b"BZ"
        } else f"file {path} says what it is"  # fmt: skip
        raise MachctlError(f"{what} is not a raw disk image", hint=hint)
