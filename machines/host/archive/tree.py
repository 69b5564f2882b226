# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees as entries, and back: by directory descriptors, never by a path that somebody else could bend.

What is read may change meanwhile, as a running machine's tree does; what is written comes from anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from machines.errors import MachctlError, NotPermitted
from machines.host.archive.entries import CHUNK, Content, Counts, Entry, id_out, is_kept, xattr_out
from machines.host.archive.writer import TreeWriter
from machines.host.interfaces import Progress
from machines.host.openat import BENEATH, NO_MAGICLINKS, NO_SYMLINKS, NO_XDEV, open_at

_INSIDE = BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV
# O_NONBLOCK: a fifo may have taken the place of a file.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# What comes of an entry that went away, or became another, between two looks at it.
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE, errno.ENODEV}
# So many directories of a path are held open; above them "..", checked, leads back.
_OPEN_MAX = 128
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


class _Level:
    """A directory on the way down: its open descriptor, or None while ``..`` has to lead back to it."""

    __slots__ = ("fd", "identity", "names", "path")

    def __init__(self, path: str, fd: int, identity: tuple[int, int], names: list[str]) -> None:
        self.path, self.identity, self.names = path, identity, names
        self.fd: int | None = fd


def read_tree(fd: int, *, shift: int = 0) -> Iterator[Entry]:
    """Give the entries of the directory that is open at ``fd``, or the single file there, parents first.

    Stays on its mount: of a mount point only the directory is given. Sockets are left out. ``shift`` is where the
    private ids of the machine begin. Content is to be read before the next entry is asked for; of a file that
    becomes shorter meanwhile the rest is missing. The caller keeps ``fd`` open, and closes it.
    Raises NotPermitted and MachctlError, which name the path below ``fd``.
    """
    links: dict[tuple[int, int], str] = {}
    levels: list[_Level] = []
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode):
        if stat.S_ISREG(status.st_mode):
            yield _file("", fd, status, shift)
        return
    try:
        yield _entry("", "directory", status, shift, xattrs=_xattrs(fd, shift))
        top = open_at(fd, ".", _DIRECTORY, resolve=_INSIDE)
        levels.append(_Level("", top, (status.st_dev, status.st_ino), _names(top)))
        while levels:
            level = levels[-1]
            if not level.names:
                _leave(levels)
                continue
            name = level.names.pop()
            path = f"{level.path}/{name}" if level.path else name
            try:
                yield from _one(path, name, level, levels, links, shift)
            except OSError as error:
                if error.errno not in _GONE:
                    raise _unreadable(path, error) from error
    finally:
        for level in levels:
            if level.fd is not None:
                os.close(level.fd)


def write_tree(
    entries: Iterable[Entry],
    fd: int,
    *,
    shift: int = 0,
    progress: Progress | None = None,
    stage: str = "unpacking",
    owner: tuple[int, int] | None = None,
    devices: bool = True,
    replace: bool = False,
    total: int | None = None,
    name: str = "archive",
) -> Counts:
    """Write ``entries`` into the directory that is open at ``fd`` and give what was written.

    ``shift`` is where the private ids of the machine begin, ``owner`` the ids that everything gets instead of its
    own, ``devices`` whether device nodes are made, ``replace`` whether a file may take the place of a directory
    that is not empty, ``name`` what errors call the source, ``total`` its bytes of data where they are known.
    Raises MachctlError, naming the entry, for one that would lead out of the tree and for what cannot be written.
    """
    with TreeWriter(
        fd, name=name, shift=shift, owner=owner, devices=devices, replace=replace,
        progress=progress, stage=stage, total=total,
    ) as writer:  # fmt: skip
        for entry in entries:
            writer.add(entry)
        return writer.finish()


def _one(
    path: str, name: str, level: _Level, levels: list[_Level], links: dict[tuple[int, int], str], shift: int
) -> Iterator[Entry]:
    """Give the entry ``name`` of a directory, and go down where it is one itself."""
    parent = level.fd
    assert parent is not None
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind == "directory":
        try:
            below = open_at(parent, name, _DIRECTORY, resolve=_INSIDE)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            yield _entry(path, kind, status, shift)
            return
        levels.append(_Level(path, below, (status.st_dev, status.st_ino), []))
        status = os.fstat(below)
        levels[-1].identity, levels[-1].names = (status.st_dev, status.st_ino), _names(below)
        if len(levels) > _OPEN_MAX:
            far = levels[-_OPEN_MAX]
            if far.fd is not None:
                os.close(far.fd)
                far.fd = None
        yield _entry(path, kind, status, shift, xattrs=_xattrs(below, shift))
        return
    if kind is None:
        return
    if status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            yield _entry(path, "hardlink", status, shift, target=first)
            return
    if kind == "file":
        try:
            file = open_at(parent, name, _READ, resolve=_INSIDE)
        except OSError as error:
            links.pop((status.st_dev, status.st_ino), None)
            # A file that is mounted over another belongs to the host.
            if error.errno == errno.EXDEV:
                return
            raise
        try:
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode):
                yield _file(path, file, status, shift)
        finally:
            os.close(file)
    elif kind == "symlink":
        yield _entry(path, kind, status, shift, target=os.readlink(name, dir_fd=parent))
    else:
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {"character", "block"} else (0, 0)
        yield _entry(path, kind, status, shift, device=device)


def _leave(levels: list[_Level]) -> None:
    """Go back up from the last directory; where ``..`` is not where it was, what is left of its parent is gone."""
    last = levels.pop()
    assert last.fd is not None
    if levels and levels[-1].fd is None:
        try:
            above = os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=last.fd)
        except OSError:
            above = -1
        if above >= 0:
            status = os.fstat(above)
            if (status.st_dev, status.st_ino) == levels[-1].identity:
                levels[-1].fd = above
            else:
                os.close(above)
        if levels[-1].fd is None:
            # Whoever moved directories about while they were read gets what was read before.
            while levels and levels[-1].fd is None:
                levels.pop()
    os.close(last.fd)


def _names(fd: int) -> list[str]:
    """Give what is in a directory, the first name last; sorted, so that equal trees make equal archives."""
    return sorted(os.listdir(fd), reverse=True)


def _entry(
    path: str,
    kind: str,
    status: os.stat_result,
    shift: int,
    *,
    size: int = 0,
    target: str = "",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
    content: Content | None = None,
) -> Entry:
    uid, gid = status.st_uid, status.st_gid
    if shift:
        uid, gid = id_out(uid, shift), id_out(gid, shift)
    mode = status.st_mode & 0o7777
    return Entry(path, kind, mode, uid, gid, status.st_mtime_ns, size, target, device, xattrs or {}, content)


def _file(path: str, fd: int, status: os.stat_result, shift: int) -> Entry:
    size = status.st_size
    content = None
    if size:
        segments = _segments(fd, size) if status.st_blocks * 512 < size else ((0, size),)
        content = Content(segments, partial(_chunks, fd, segments), fd)
    return _entry(path, "file", status, shift, size=size, xattrs=_xattrs(fd, shift), content=content)


def _segments(fd: int, size: int) -> Sequence[tuple[int, int]]:
    """Give where a file has data (lseek(2), SEEK_DATA)."""
    found: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            return ((0, size),)
        if start >= size:
            break
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        found.append((start, end - start))
    return tuple(found)


def _chunks(fd: int, segments: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    for start, length in segments:
        offset, end = start, start + length
        while offset < end:
            data = os.pread(fd, min(CHUNK, end - offset), offset)
            if not data:
                return
            yield offset, data
            offset += len(data)


def _xattrs(fd: int, shift: int) -> Mapping[str, bytes]:
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    if not names:
        return {}
    found = {}
    for name in names:
        if is_kept(name):
            try:
                value = os.getxattr(fd, name)
            except OSError:
                continue
            found[name] = xattr_out(name, value, shift) if shift else value
    return found


def _unreadable(path: str, error: OSError) -> MachctlError:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotPermitted(f"{path} cannot be read: {error.strerror}", hint="run machctl as root")
    return MachctlError(f"{path} cannot be read: {error.strerror}", hint="see what the kernel says: journalctl -k")
