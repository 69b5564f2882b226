# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files on the host: written whole or not at all, removed with what machctl made around them, and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from machines.errors import Conflict, NotPermitted

LOCK_DIRECTORY = "/run/machctl"

# Directories that machctl may have made and that go when the last file in them has gone.
_PRUNED = (
    "/etc/machctl",
    "/etc/machctl/fleet.d",
    "/etc/systemd/nspawn",
    "/var/lib/machctl",
    "/var/lib/machctl/machines",
    "/var/lib/machctl/nat",
    "/var/lib/machctl/networks",
    "/var/log/machctl",
)
_WRITTEN = (*_PRUNED, "/etc/systemd/system", "/etc/systemd/system/*.service.d", "/etc/systemd/network")


def read_files(patterns: Iterable[str]) -> dict[str, str]:
    """Give the text of every readable regular file that matches one of the glob ``patterns``, by path."""
    found = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            text = read_text(path)
            if text is not None:
                found[path] = text
    return found


def read_text(path: str) -> str | None:
    """Give the text of a file of the host, None where there is none to read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None


def write_file(path: str, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that after a crash it holds the old text or the new one, never a part (rename(2), fsync(2))."""
    directory = os.path.dirname(path)
    _make_directory(directory)
    temporary = f"{directory}/.#machctl-{os.getpid()}-{os.path.basename(path)}"
    with contextlib.suppress(FileNotFoundError):
        # Of a process that had our number before and was killed.
        os.unlink(temporary)
    try:
        with open(temporary, "w", encoding="utf-8", opener=_exclusive) as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be written: {error.strerror}", hint="run machctl as root") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def remove_file(path: str) -> None:
    """Remove a file, then the directories around it that only machctl used and that are empty now; none is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    directory = os.path.dirname(path)
    while directory in _PRUNED or directory.endswith(".service.d"):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY}:
                return
            raise
        directory = os.path.dirname(directory)


def abandoned() -> list[str]:
    """Give the files that write_file() was killed over: they are named for a process that is no more."""
    found = []
    for directory in _WRITTEN:
        for path in glob.glob(f"{directory}/.#machctl-*"):
            pid = os.path.basename(path).split("-")[1]
            if not os.path.exists(f"/proc/{pid}"):
                found.append(path)
    return sorted(found)


@contextlib.contextmanager
def lock(name: str, *, wait: bool, what: str) -> Iterator[None]:
    """Hold the lock ``name`` (flock(2)); the kernel drops it with the process, however that ends.

    Raises Conflict if somebody else has it and ``wait`` is off.
    """
    _make_directory(LOCK_DIRECTORY)
    path = f"{LOCK_DIRECTORY}/{name}.lock"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
            os.close(fd)
            raise Conflict(
                f"{what} is being changed by another machctl (process {holder})",
                hint="wait for it to end, then try again",
            ) from None
        # Whoever had it before may have removed the file: a lock on a file without a name keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                break
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)


def is_locked(name: str) -> bool:
    """Tell whether a process holds the lock ``name`` right now."""
    try:
        fd = os.open(f"{LOCK_DIRECTORY}/{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _make_directory(path: str) -> None:
    try:
        Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be made: {error.strerror}", hint="run machctl as root") from error


def _exclusive(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
