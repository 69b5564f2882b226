# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copying files between places that have a root of their own: the host, and machines that may set traps.

What goes where is as docker-cp(1) has it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, NotPermitted
from machines.host.archive.compress import create_archive, open_archive
from machines.host.archive.entries import CAPABILITY, Counts, Entry, below, id_out
from machines.host.archive.tar import read_tar, write_tar
from machines.host.archive.tree import read_tree, write_tree
from machines.host.interfaces import Progress
from machines.host.openat import IN_ROOT, NO_MAGICLINKS, open_at
from machines.model.place import Place

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_LOOK = os.O_PATH | os.O_NOFOLLOW


def copy(source: Place, target: Place, *, progress: Progress, archive: bool = False, follow: bool = False) -> Counts:
    """Copy a file or tree. Without ``archive`` it belongs to the root of ``target`` and is not setuid; no devices.

    ``follow`` takes what a symlink leads to instead of the symlink. Raises NotFound, Conflict, NotPermitted,
    MachctlError, each naming the place.
    """
    with _opened(source, follow=follow) as (fd, entries):
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        above, name = _lands(source, target, directory=directory)
        with _directory(above) as parent:
            if directory:
                _refuse_into_itself(source, target, fd, parent)
            if name:
                chosen: Iterable[Entry] = below(entries, name)
            else:
                chosen = (entry for entry in entries if entry.path)
            return _write(chosen, parent, target, name=str(source), progress=progress, archive=archive)


def check(source: Place | None, target: Place | None, *, follow: bool = False) -> None:
    """Raise what copy(), pack() or unpack() would raise before anything is written; None is a stream."""
    if source is None:
        assert target is not None
        with _directory(target):
            return
    with _opened(source, follow=follow) as (fd, _):
        if target is None:
            return
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        above, _ = _lands(source, target, directory=directory)
        with _directory(above) as parent:
            if directory:
                _refuse_into_itself(source, target, fd, parent)


def _lands(source: Place, target: Place, *, directory: bool) -> tuple[Place, str]:
    """Give the directory that ``source`` comes to lie in and what it is called there, "" for what is in it.

    ``directory`` says whether it is one. Raises Conflict, InvalidValue, NotFound.
    """
    there = _look(target)
    into = there is not None and stat.S_ISDIR(there.st_mode)
    if there is not None and directory and not into:
        raise Conflict(f"{target} is no directory, but {source} is one", hint="name a directory, or a new path")
    if there is None and target.path.endswith("/") and not directory:
        raise NotFound(f"there is no directory {target}", hint="make it first, or leave the / at its end away")
    if not into and target.path.endswith("/") and not directory:
        raise Conflict(f"{target} is no directory")
    path = target.path.rstrip("/") or "/"
    if into and not (directory and _means_contents(source.path)):
        name = os.path.basename(os.path.normpath(source.path).rstrip("/"))
        above = path
    elif into:
        name, above = "", path
    else:
        above, name = os.path.split(path)
    if into and not name and not _means_contents(source.path):
        raise InvalidValue(f"{source} has no name of its own", hint=f"copy what is in it: {source}/.")
    return target._replace(path=above or ("/" if target.path.startswith("/") else ".")), name


def pack(source: Place, fd: int, *, progress: Progress, follow: bool = False) -> Counts:
    """Write a file or tree as a tar archive to ``fd``, with the owners it has in its machine."""
    with _opened(source, follow=follow) as (_, entries), create_archive(fd, compression="none") as stream:
        name = os.path.basename(os.path.normpath(source.path))
        chosen = entries if not name or _means_contents(source.path) else below(entries, name)
        return write_tar(chosen, stream, progress=progress, stage="copying")


def unpack(fd: int, target: Place, *, progress: Progress, archive: bool = False) -> Counts:
    """Unpack the tar archive that is read from ``fd``, compressed or not, into the directory ``target``."""
    with _directory(target) as there, open_archive(fd, name="the archive on stdin") as stream:
        entries = (entry for entry in read_tar(stream, name="the archive on stdin") if entry.path)
        return _write(entries, there, target, name="the archive on stdin", progress=progress, archive=archive)


def _write(entries: Iterable[Entry], fd: int, target: Place, *, name: str, progress: Progress, archive: bool) -> Counts:
    owner = None if archive else (target.shift or os.geteuid(), target.shift or os.getegid())
    return write_tree(
        entries if archive else map(_harmless, entries), fd,
        shift=target.shift, owner=owner, devices=archive, progress=progress, stage="copying", name=name,
    )  # fmt: skip


def _harmless(entry: Entry) -> Entry:
    """Give an entry that gives nobody rights: whoever made it is not the one it will belong to."""
    xattrs = {key: value for key, value in entry.xattrs.items() if key != CAPABILITY}
    return entry._replace(mode=entry.mode & 0o1777, xattrs=xattrs)


@contextmanager
def _opened(place: Place, *, follow: bool) -> Iterator[tuple[int, Iterable[Entry]]]:
    try:
        # A slash at the end means what a symlink leads to (path_resolution(7)).
        fd = _open(place, os.O_PATH if follow or place.path.endswith(("/", "/.")) else _LOOK)
    except OSError as error:
        raise _cannot(place, error) from error
    try:
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            yield fd, [_symlink(fd, status, place.shift)]
        elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
            # Opened anew by what it is, so that nothing else can have taken its place.
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                yield fd, read_tree(readable, shift=place.shift)
            finally:
                os.close(readable)
        else:
            raise MachctlError(f"{place} is neither a file nor a directory")
    finally:
        os.close(fd)


def _symlink(fd: int, status: os.stat_result, shift: int) -> Entry:
    uid, gid = (id_out(status.st_uid, shift), id_out(status.st_gid, shift)) if shift else status[4:6]
    return Entry("", "symlink", 0o777, uid, gid, status.st_mtime_ns, target=os.readlink("", dir_fd=fd))


@contextmanager
def _directory(place: Place) -> Iterator[int]:
    try:
        fd = _open(place, _DIRECTORY)
    except OSError as error:
        raise _cannot(place, error, what="directory") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _open(place: Place, flags: int) -> int:
    if not place.machine:
        return os.open(place.path, flags | os.O_CLOEXEC)
    root = os.open(place.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_at(root, place.path, flags, resolve=IN_ROOT | NO_MAGICLINKS)
    finally:
        os.close(root)


def _look(place: Place) -> os.stat_result | None:
    """Give what is at a place, or None."""
    try:
        fd = _open(place, os.O_PATH)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot(place, error) from error
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _means_contents(path: str) -> bool:
    return path in {".", "/"} or path.endswith("/.")


def _refuse_into_itself(source: Place, target: Place, fd: int, parent: int) -> None:
    """Raise InvalidValue where a directory would be copied to below itself, which has no end."""
    own = os.fstat(fd)
    current = os.dup(parent)
    try:
        while True:
            status = os.fstat(current)
            if (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino):
                raise InvalidValue(f"{source} cannot be copied into itself, to {target}")
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = above
            higher = os.fstat(current)
            if (higher.st_dev, higher.st_ino) == (status.st_dev, status.st_ino):
                return
    finally:
        os.close(current)


def _cannot(place: Place, error: OSError, *, what: str = "file or directory") -> MachctlError:
    if error.errno == errno.ENOENT:
        return NotFound(
            f"there is no {what} {place}", hint=f"machctl exec {place.machine} -- ls /" * bool(place.machine)
        )
    if error.errno == errno.ENOTDIR:
        return Conflict(f"{place} is no directory, or what is above it is none")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotPermitted(f"{place} cannot be opened: {error.strerror}", hint="run machctl as root")
    return MachctlError(f"{place} cannot be opened: {error.strerror}")
