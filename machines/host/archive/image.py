# SPDX-License-Identifier: LGPL-2.1-or-later
"""OCI images as values: a config, and layers in a layout directory or in an archive of one (image-spec, layout)."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Mapping
from typing import BinaryIO, Protocol, cast

from machines.errors import MachctlError, NotFound
from machines.host.archive.entries import CHUNK, shown
from machines.host.openat import BENEATH, NO_MAGICLINKS, open_at
from machines.model.frozen import NamedTuple


class OciConfig(NamedTuple):
    """How an image's process is run, as its configuration has it: ``env`` are NAME=VALUE, ``ports`` as 80/tcp."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    ports: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = {}


class Layer(NamedTuple):
    """A layer: where it is among the blobs, its digest (of what is stored, or unpacked with ``unpacked``), its size."""

    path: str
    digest: str
    size: int | None
    unpacked: bool = False


class Image(NamedTuple):
    """An image for one architecture; ``digest`` is that of its manifest, ``size`` the bytes of its layers."""

    name: str
    digest: str
    architecture: str
    config: OciConfig
    layers: tuple[Layer, ...]
    size: int
    blobs: Blobs


class Blobs(Protocol):
    """The files of an OCI layout or of an archive of one."""

    name: str

    def open(self, path: str) -> BinaryIO:
        """Open a file. Raises NotFound."""
        ...

    def has(self, path: str) -> bool: ...


class DirectoryBlobs:
    """A layout that is a directory; nothing in it leads out of it."""

    def __init__(self, path: str) -> None:
        self.name = path

    def open(self, path: str) -> BinaryIO:
        """Open a file. Raises NotFound."""
        try:
            top = os.open(self.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = open_at(top, path, os.O_RDONLY | os.O_NONBLOCK, resolve=BENEATH | NO_MAGICLINKS)
            finally:
                os.close(top)
            return open(fd, "rb")
        except OSError as error:
            raise NotFound(f"{self.name} has no readable {shown(path)}: {error.strerror}") from error

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""
        return os.path.isfile(os.path.join(self.name, path))


class ArchiveBlobs:
    """A layout in a tar archive that can be sought in, not unpacked: where each file begins is all that is kept."""

    def __init__(self, name: str, fd: int) -> None:
        import weakref

        from machines.host.archive.tar import read_tar

        self.name = name
        self.fd = fd
        weakref.finalize(self, os.close, fd)
        self._where: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        with open(fd, "rb", closefd=False) as file:
            for entry in read_tar(file, name=name):
                if entry.kind == "file":
                    if entry.content is not None and tuple(entry.content.segments) != ((0, entry.size),):
                        raise MachctlError(f"{name}: {shown(entry.path)} is a sparse file")
                    self._where[entry.path] = (file.tell(), entry.size)
                elif entry.kind == "symlink":
                    # docker save writes a layer that is there twice once.
                    above = posixpath.dirname(entry.path)
                    self._links[entry.path] = posixpath.normpath(posixpath.join(above, entry.target))
                elif entry.kind == "hardlink":
                    self._links[entry.path] = entry.target

    def open(self, path: str) -> BinaryIO:
        """Open a file. Raises NotFound."""
        place = self._where.get(self._links.get(path, path))
        if place is None:
            raise NotFound(f"{self.name} has no {shown(path)}")
        return cast("BinaryIO", io.BufferedReader(_Window(self, *place), CHUNK))

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""
        return self._links.get(path, path) in self._where


class _Window(io.RawIOBase):
    """A part of a file. It cannot be sought in: whoever decompresses it is fed with it."""

    def __init__(self, archive: ArchiveBlobs, start: int, size: int) -> None:
        self._archive, self._at, self._end = archive, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._archive.fd, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_blobs(path: str) -> Blobs:
    """Give the files of the layout at ``path``: a directory, or an archive compressed or not.

    A compressed one is unpacked into a file without a name, which goes with the process however that ends.
    """
    if os.path.isdir(path):
        return DirectoryBlobs(path)
    import tempfile

    from machines.host.archive.compress import open_archive

    with open_archive(path) as stream:
        if stream.seekable():
            return ArchiveBlobs(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        with tempfile.TemporaryFile(dir="/var/tmp") as whole:
            while data := stream.read(CHUNK):
                whole.write(data)
            whole.seek(0)
            return ArchiveBlobs(path, os.dup(whole.fileno()))
