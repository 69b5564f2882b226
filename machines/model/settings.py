# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is given beside its tree and its links: devices of the host and file systems in memory."""

from __future__ import annotations

from machines.model.frozen import NamedTuple

_UNITS = ((1024**4, "T"), (1024**3, "G"), (1024**2, "M"), (1024, "K"))


FUSE = "/dev/fuse"
"""What containers' files are kept by where overlayfs cannot lie over itself (fuse-overlayfs(1))."""


class Device(NamedTuple):
    """A device node of the host that the machine may use; ``access`` is made of r, w and m (DeviceAllow=)."""

    path: str
    access: str = "rw"

    def __str__(self) -> str:
        return self.path if self.access == "rw" else f"{self.path}:{self.access}"


class Tmpfs(NamedTuple):
    """A file system in memory at ``path``; ``size`` is in bytes, nspawn's own choice when None."""

    path: str
    size: int | None = None

    def __str__(self) -> str:
        if self.size is None:
            return self.path
        whole, unit = next(((size, unit) for size, unit in _UNITS if self.size % size == 0), (1, ""))
        return f"{self.path}:{self.size // whole}{unit}"


class Node(NamedTuple):
    """What there is at the path of a device: ``kind`` is char, block, directory or other, "" for nothing.

    ``open`` tells whether everybody may read and write it; ``inside`` are the nodes of a directory.
    """

    kind: str
    open: bool = False
    inside: tuple[str, ...] = ()
