# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives as streams: what they are compressed with is seen by their first bytes, and undone by the tool for it."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

from machines.errors import CommandFailed, InvalidValue, MachctlError, NotFound, NotPermitted
from machines.host.run import pipe

Compression = Literal["zstd", "gzip", "xz", "none"]

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
_MAGIC_SIZE = 6
# zstd(1) may begin with frames that hold no data; their magic numbers are 0x184D2A50 to 5F.
_SKIPPABLE = b"\x2a\x4d\x18"

_UNPACK = {
    # gzip(1): 2 is a warning, of bytes behind the end.
    "gzip": (["gzip", "-dc"], (0, 2)),
    "xz": (["xz", "-qdc", "-T0"], (0,)),
    "zstd": (["zstd", "-qdc"], (0,)),
    "bzip2": (["bzip2", "-dc"], (0,)),
}
_PACK = {"gzip": ["gzip", "-nc"], "xz": ["xz", "-qc", "-T0"], "zstd": ["zstd", "-qc", "-T0"]}
_TOO_SHORT = ("unexpected end", "premature end", "ends unexpectedly", "truncated")


@contextlib.contextmanager
def open_archive(source: str | int | BinaryIO, *, name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file, a descriptor or a stream for reading, decompressed if it is compressed.

    ``name`` is what errors call it. A descriptor or stream stays the caller's, and need not be seekable.
    Raises NotFound, NotPermitted, Unsupported where the tool is missing, MachctlError saying truncated or corrupt.
    """
    called = name or (source if isinstance(source, str) else "the archive")
    with _opened(source, called) as file:
        start = file.tell() if file.seekable() else None
        head = file.read(_MAGIC_SIZE)
        if start is not None:
            file.seek(start)
        kind = _kind(head)
        if kind is None:
            yield file if start is not None else _joined(head, file)
            return
        argv, fine = _UNPACK[kind]
        with _descriptor(file, start, head) as fd:
            try:
                with pipe(argv, source=fd, fine=fine) as stream:
                    yield stream
            except CommandFailed as error:
                short = any(words in error.message.lower() for words in _TOO_SHORT)
                raise MachctlError(
                    f"{called} is {'truncated' if short else 'corrupt'}: {error.message}", hint="get it again"
                ) from error


@contextlib.contextmanager
def create_archive(target: str | int, *, compression: Compression = "zstd") -> Iterator[BinaryIO]:
    """Open a file, or a descriptor such as that of stdout, for writing, compressed on the way.

    A file appears whole or not at all: it is written beside its place, for its owner alone, and renamed.
    Raises NotFound, NotPermitted, Unsupported where the tool is missing, MachctlError where there is no room,
    BrokenPipeError where nobody reads it any more.
    """
    if compression not in {*_PACK, "none"}:
        raise InvalidValue(f"{compression!r} is no compression", hint="use zstd, gzip, xz or none")
    called = target if isinstance(target, str) else "the output"
    temporary = None
    try:
        if isinstance(target, str) and not _is_special(target):
            directory, name = os.path.split(target)
            temporary = os.path.join(directory, f".{name}.{os.urandom(6).hex()}.part")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        else:
            fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC) if isinstance(target, str) else os.dup(target)
        try:
            if compression == "none":
                with open(fd, "wb", closefd=False) as file:
                    yield file
            else:
                with pipe(_PACK[compression], target=fd) as stream:
                    yield stream
            if temporary is not None:
                os.fsync(fd)
        finally:
            os.close(fd)
        if isinstance(target, str) and temporary is not None:
            os.rename(temporary, target)
            temporary = None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _cannot(called, "written", error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def is_compressed(path: str) -> bool:
    """Tell whether open_archive() decompresses a file. Raises NotFound, NotPermitted."""
    with _opened(path, path) as file:
        return _kind(file.read(_MAGIC_SIZE)) is not None


def _kind(head: bytes) -> str | None:
    if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


@contextlib.contextmanager
def _opened(source: str | int | BinaryIO, called: str) -> Iterator[BinaryIO]:
    if not isinstance(source, (str, int)):
        yield source
        return
    try:
        file = open(source, "rb", closefd=isinstance(source, str))  # noqa: SIM115
    except OSError as error:
        raise _cannot(called, "read", error) from error
    with file:
        yield file


@contextlib.contextmanager
def _descriptor(file: BinaryIO, start: int | None, head: bytes) -> Iterator[int]:
    """Give a descriptor from which all of ``file`` can be read, though ``head`` of it was already."""
    if start is not None:
        with contextlib.suppress(io.UnsupportedOperation):
            fd = file.fileno()
            os.lseek(fd, start, os.SEEK_SET)
            yield fd
            return
    import threading

    read, write = os.pipe()
    feeder = threading.Thread(target=_feed, args=(file, b"" if start is not None else head, write), daemon=True)
    feeder.start()
    try:
        yield read
    finally:
        os.close(read)


def _feed(file: BinaryIO, head: bytes, fd: int) -> None:
    with contextlib.suppress(OSError, ValueError), open(fd, "wb", buffering=0) as pipe_end:
        pipe_end.write(head)
        while data := file.read(65536):
            view = memoryview(data)
            while view:
                view = view[pipe_end.write(view) :]


class _Joined(io.RawIOBase):
    """What was read of a stream already, and the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _joined(head: bytes, rest: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(_Joined(head, rest), 1024 * 1024))


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _cannot(called: str, done: str, error: OSError) -> MachctlError:
    message = f"{called} cannot be {done}: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return NotFound(message)
    if isinstance(error, PermissionError):
        return NotPermitted(message, hint="run machctl as root")
    return MachctlError(message)
