# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing entries into a tree so that none of them, nor a guest that is at work there, leads out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

from machines.errors import MachctlError
from machines.host import removal
from machines.host.archive.entries import (
    ACL_DEFAULT,
    CHUNK,
    SECOND,
    Content,
    Counts,
    Entry,
    id_in,
    is_kept,
    refused,
    shown,
    xattr_in,
)
from machines.host.interfaces import Progress
from machines.host.openat import IN_ROOT, NO_MAGICLINKS, open_at

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Directories that are held open, as the next entry is nearly always in one of them.
_OPEN_MAX = 64
_REPORT_ENTRIES, _REPORT_BYTES = 500, 8 * CHUNK
_TIME_MAX = (2**63 - 1) * SECOND
_DEVICES = {"character": stat.S_IFCHR, "block": stat.S_IFBLK}
# copy_file_range(2): the two file systems, or an older kernel, cannot do it.
_NOT_BY_KERNEL = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY}


class TreeWriter:
    """Writes entries below the directory open at ``fd``; write_tree() says what the arguments mean.

    A context manager, so that what it holds open is closed; finish() sets the times of directories at the end.
    """

    def __init__(
        self,
        fd: int,
        *,
        name: str = "archive",
        shift: int = 0,
        owner: tuple[int, int] | None = None,
        devices: bool = True,
        replace: bool = False,
        progress: Progress | None = None,
        stage: str = "unpacking",
        total: int | None = None,
    ) -> None:
        self.root = fd
        self.name = name
        self.shift = shift
        self.owner = owner
        self.devices = devices
        self.replace = replace
        self.progress = progress
        self.stage = stage
        self.total = total
        self.entries = self.size = self.xattrs_lost = 0
        self._skipped: set[str] = set()
        self._reported = (0, 0)
        # Set instead of forget(), as the directory that is worked in must outlive it.
        self._stale = False
        self._open: dict[str, int] = {}
        self._finish: dict[str, tuple[int, bytes | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.forget()

    def add(self, entry: Entry) -> None:
        """Write one entry. Raises MachctlError that names it."""
        path = entry.path
        if "\0" in path or path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise refused(path, archive=self.name, reason="member leads out of the tree")
        if "\0" in entry.target:
            raise refused(f"{path} -> {entry.target}", archive=self.name, reason="link has a NUL in its target")
        try:
            if path:
                self._write(entry, path)
            elif entry.kind == "directory":
                self._set_directory(self.root, entry, "")
            else:
                raise MachctlError(f"{self.name}: its root is a {entry.kind}, not a directory")
        except OSError as error:
            raise self._failed(path, error) from error
        except (ValueError, OverflowError) as error:
            raise MachctlError(f"{shown(path)} of {self.name} cannot be written: {error}") from error
        self.entries += 1
        if self.entries - self._reported[0] >= _REPORT_ENTRIES:
            self._report()

    def finish(self) -> Counts:
        """Set what later entries would have changed again, and give what was written."""
        for path, (mtime, acl) in self._finish.items():
            try:
                fd = self.directory(path, make=False)
                if acl is not None:
                    self._set_xattr(fd, ACL_DEFAULT, acl)
                os.utime(fd, ns=_nanoseconds(mtime))
            except OSError:
                # Somebody at work in the tree has put something else there.
                continue
        self._finish.clear()
        self._report()
        return Counts(self.entries, self.size, len(self._skipped), self.xattrs_lost)

    def directory(self, path: str, *, make: bool = True) -> int:
        """Give the descriptor of a directory of the tree, which stays the writer's and lasts until the next call.

        With ``make`` it is made where missing. Raises OSError.
        """
        if self._stale:
            self.forget()
            self._stale = False
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if not path:
            return self.root
        missing = []
        known = path
        while known and known not in self._open:
            known, _, part = known.rpartition("/")
            missing.append(part)
        fd = self._open.get(known, self.root)
        for part in reversed(missing):
            above, known = known, f"{known}/{part}" if known else part
            fd = self._below(fd, above, part, make=make)
            if len(self._open) >= _OPEN_MAX:
                # The oldest one; never that of `above`, which was put there last or, being known, is not needed again.
                os.close(self._open.pop(next(iter(self._open))))
            self._open[known] = fd
        return fd

    def forget(self) -> None:
        """Close the directories that are held open: a name in one of their paths means something else now."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def remove(self, directory: int, name: str) -> None:
        """Remove ``name``, with all below it, from a directory of the tree; none is fine."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=directory)
            if not stat.S_ISREG(status.st_mode):
                self._stale = True
            return
        removal.remove_directory(directory, name)
        self._stale = True

    def _write(self, entry: Entry, path: str) -> None:
        parent, _, name = path.rpartition("/")
        directory = self.directory(parent)
        kind = entry.kind
        if kind == "file":
            self._write_file(entry, directory, name)
        elif kind == "directory":
            self._write_directory(entry, directory, name)
        elif kind == "symlink":
            self._place(directory, name, lambda: os.symlink(entry.target, name, dir_fd=directory))
            uid, gid = self._ids(entry)
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            os.utime(name, ns=_nanoseconds(entry.mtime), dir_fd=directory, follow_symlinks=False)
        elif kind == "hardlink":
            self._write_link(entry, directory, name)
        elif kind in _DEVICES and not self.devices:
            self._skipped.add(path)
        elif kind in _DEVICES:
            number = os.makedev(*entry.device)
            self._place(directory, name, lambda: os.mknod(name, 0o600 | _DEVICES[kind], number, dir_fd=directory))
            self._set_special(entry, directory, name)
        elif kind == "fifo":
            self._place(directory, name, lambda: os.mkfifo(name, 0o600, dir_fd=directory))
            self._set_special(entry, directory, name)

    def _write_file(self, entry: Entry, directory: int, name: str) -> None:
        target = name
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
        except FileExistsError:
            # What is there stays until the other is whole. Nobody can guess the name, as a guest may put files there.
            name = f".#machctl-{os.urandom(8).hex()}"
            fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            if entry.content is not None:
                self._copy(entry.content, fd, entry.size)
            uid, gid = self._ids(entry)
            # In this order: a change of owner takes setuid and capabilities away, one of mode rewrites an ACL.
            os.fchown(fd, uid, gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=_nanoseconds(entry.mtime))
            if name != target:
                with contextlib.suppress(FileNotFoundError):
                    if not stat.S_ISREG(os.stat(target, dir_fd=directory, follow_symlinks=False).st_mode):
                        self._make_room(directory, target)
                os.rename(name, target, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            # Nobody is to take a part of it for the whole.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(fd)):
                    os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(fd)

    def _write_directory(self, entry: Entry, directory: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                self._make_room(directory, name)
                os.mkdir(name, 0o700, dir_fd=directory)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            self._set_directory(fd, entry, entry.path)
        finally:
            os.close(fd)

    def _set_directory(self, fd: int, entry: Entry, path: str) -> None:
        uid, gid = self._ids(entry)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, entry.mode)
        xattrs = dict(entry.xattrs)
        # Every file that is made in it would inherit this one.
        acl = xattrs.pop(ACL_DEFAULT, None)
        self._set_xattrs(fd, xattrs)
        self._finish[path] = (entry.mtime, acl)

    def _write_link(self, entry: Entry, directory: int, name: str) -> None:
        target = entry.target
        if "\0" in target or target.startswith("/") or ".." in target.split("/"):
            raise refused(f"{entry.path} -> {target}", archive=self.name, reason="hard link to the outside")
        if target in self._skipped:
            self._skipped.add(entry.path)
            return
        if target == entry.path:
            return
        above, _, file = target.rpartition("/")
        # The descriptor may be closed when the other directory is opened.
        here = os.dup(directory)
        try:
            there = self.directory(above, make=False)
            status = os.stat(file or ".", dir_fd=there, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise MachctlError(f"{self.name}: {shown(entry.path)} is a hard link to a directory, {shown(target)}")
            try:
                os.link(file, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            except FileExistsError:
                mine = os.stat(name, dir_fd=here, follow_symlinks=False)
                if (mine.st_dev, mine.st_ino) == (status.st_dev, status.st_ino):
                    return
                self._make_room(here, name)
                os.link(file, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MachctlError(
                f"{self.name}: {shown(entry.path)} is a hard link to {shown(target)}, which is not there",
                hint="the archive is not whole, or was made from a part of a tree",
            ) from error
        finally:
            os.close(here)

    def _set_special(self, entry: Entry, directory: int, name: str) -> None:
        """Set owner, mode and time of a node that must not be opened for reading or writing."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            uid, gid = self._ids(entry)
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            os.chmod(f"/proc/self/fd/{fd}", entry.mode)
            os.utime(name, ns=_nanoseconds(entry.mtime), dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(fd)

    def _place(self, directory: int, name: str, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._make_room(directory, name)
            make()

    def _make_room(self, directory: int, name: str) -> None:
        """Take away what is in the place of an entry: a file or symlink itself, never what it leads to."""
        if not self.replace and stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=directory)
            self._stale = True
            return
        self.remove(directory, name)

    def _below(self, fd: int, above: str, name: str, *, make: bool) -> int:
        flags = _DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(name, flags, dir_fd=fd)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o755, dir_fd=fd)
            below = os.open(name, flags, dir_fd=fd)
            os.fchown(below, *(self.owner or (self.shift, self.shift)))
            return below
        except NotADirectoryError:
            # A symlink: the kernel resolves it with the tree as its root.
            path = f"{above}/{name}" if above else name
            return open_at(self.root, path, _DIRECTORY, resolve=IN_ROOT | NO_MAGICLINKS)

    def _ids(self, entry: Entry) -> tuple[int, int]:
        if self.owner is not None:
            return self.owner
        if self.shift:
            return id_in(entry.uid, self.shift), id_in(entry.gid, self.shift)
        return entry.uid, entry.gid

    def _set_xattrs(self, fd: int, xattrs: Mapping[str, bytes]) -> None:
        for name, value in xattrs.items():
            if is_kept(name):
                self._set_xattr(fd, name, value)

    def _set_xattr(self, fd: int, name: str, value: bytes) -> None:
        try:
            os.setxattr(fd, name, xattr_in(name, value, self.shift) if self.shift else value)
        except (OSError, ValueError):
            # The file system takes none, or not so large a one, or the kernel does not take this value.
            self.xattrs_lost += 1

    def _copy(self, content: Content, fd: int, size: int) -> None:
        pieces = self._kernel_copy(content, fd) if content.fd is not None else self._plain_copy(content, fd)
        for count in pieces:
            self.size += count
            if self.size - self._reported[1] >= _REPORT_BYTES:
                self._report()
        if tuple(content.segments) != ((0, size),):
            os.ftruncate(fd, size)

    def _plain_copy(self, content: Content, fd: int) -> Iterator[int]:
        for offset, data in content.chunks():
            done = os.pwrite(fd, data, offset)
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
            yield len(data)

    def _kernel_copy(self, content: Content, fd: int) -> Iterator[int]:
        """Copy within the kernel, which shares the blocks where the file system can."""
        source = content.fd
        assert source is not None
        try:
            for start, length in content.segments:
                done = 0
                while done < length:
                    count = min(_REPORT_BYTES, length - done)
                    count = os.copy_file_range(source, fd, count, start + done, start + done)
                    if not count:
                        return
                    done += count
                    yield count
        except OSError as error:
            if error.errno not in _NOT_BY_KERNEL:
                raise
            yield from self._plain_copy(content, fd)

    def _report(self) -> None:
        self._reported = (self.entries, self.size)
        if self.progress is not None:
            self.progress(self.stage, self.size, self.total)

    def _failed(self, path: str, error: OSError) -> MachctlError:
        what = f"{shown(path)} of {self.name} could not be written"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return MachctlError(f"{what}: {error.strerror}", hint="make room, or choose another place")
        if error.errno == errno.ENOTEMPTY:
            return MachctlError(f"{what}: there is a directory of that name, and it is not empty")
        if error.errno in {errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.EXDEV, errno.EEXIST}:
            return MachctlError(
                f"{what}: what is above it is no directory of the tree", hint="a file or a broken symlink is there"
            )
        return MachctlError(f"{what}: {error.strerror}")


def _nanoseconds(mtime: int) -> tuple[int, int]:
    # The kernel keeps what a file system cannot hold at its limits (utimensat(2)); seconds in int64 are all it is told.
    time = max(-_TIME_MAX, min(_TIME_MAX, mtime))
    return time, time
