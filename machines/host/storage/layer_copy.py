# SPDX-License-Identifier: LGPL-2.1-or-later
"""Quick copies of small layers: to start cp(1) and mount(8) takes longer than to copy what most machines have changed.

The machine may be running and its guest hostile. Whatever is found is opened once, without following a symlink and
without waking a device (O_PATH), and from then on only seen through that descriptor. Nobody but us sees the copy.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from machines.host.removal import remove_directory
from machines.model.ids import SIZE

# More than these takes long enough that somebody may want to see it go on, or to interrupt it.
_BYTES = 64 << 20
_ENTRIES = 4000
# On the way down three descriptors stay open for each.
_DEPTH = 60

_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Nobody who has a lease of the file is waited for (fcntl(2)).
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_AS_THEY_ARE = ("user.", "trusted.overlay.")
_ACLS = {"system.posix_acl_access", "system.posix_acl_default"}
# linux/posix_acl_xattr.h: a tag, what is permitted, and of ACL_USER and ACL_GROUP an id.
_ACL_HEADER = 4
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_NAMED = {0x02, 0x08}
# linux/capability.h: struct vfs_ns_cap_data, whose last member is the id that is root where the capability holds.
_CAPABILITY = struct.Struct("<I16sI")
_REVISION_MASK, _REVISION_2, _REVISION_3 = 0xFF000000, 0x02000000, 0x03000000


class _NotPlain(Exception):
    """There is more to copy, or something else, than is copied here."""


def copy_plain(source: str, target: str, *, source_uid: int, target_uid: int) -> bool:
    """Copy an upper layer into the empty directory ``target`` as overlay.copy_upper() says.

    Gives False, with ``target`` empty again, where the layer is large or has something unusual in it, and where that
    fails: whoever copies it in another way finds out why.
    """
    if not os.path.isdir(source):
        return False
    with _opened(source, _DIRECTORY) as begin, _opened(target, _DIRECTORY) as end:
        copy = _Copy(end, source_uid, target_uid)
        try:
            copy.directory(begin, end, "")
            copy.dress(begin, end, ".", os.fstat(begin))
        except (OSError, _NotPlain):
            _empty(end)
            return False
    return True


class _Copy:
    """One copy: how much of it there is already, and where the files with several names went."""

    def __init__(self, root: int, source_uid: int, target_uid: int) -> None:
        self._root = root
        self._ids = range(source_uid, source_uid + SIZE)
        self._shift = target_uid - source_uid
        self._entries = self._bytes = 0
        self._linked: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str) -> None:
        """Copy what is in the directory that is open at ``source``, which is ``path`` in the layer."""
        names = os.listdir(source)
        self._entries += len(names)
        if self._entries > _ENTRIES or path.count("/") > _DEPTH:
            raise _NotPlain
        for name in names:
            with _opened(name, _FOUND, source) as found:
                self._entry(found, target, name, f"{path}{name}")

    def _entry(self, found: int, target: int, name: str, path: str) -> None:
        status = os.fstat(found)
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
                return
        match kind:
            case stat.S_IFDIR:
                os.mkdir(name, 0o700, dir_fd=target)
                with _opened(".", _DIRECTORY, found) as inside, _opened(name, _DIRECTORY, target) as copied:
                    self.directory(inside, copied, f"{path}/")
            case stat.S_IFREG:
                # A descriptor of O_PATH cannot be read, but opened again.
                with _opened(f"/proc/self/fd/{found}", _READ) as file, _opened(name, _NEW, target) as copied:
                    self._data(file, copied, status.st_size)
            case stat.S_IFLNK:
                os.symlink(os.readlink("", dir_fd=found), name, dir_fd=target)
            case stat.S_IFCHR | stat.S_IFIFO | stat.S_IFSOCK if not status.st_rdev:
                # A character device of that number is a whiteout.
                os.mknod(name, kind, dir_fd=target)
            case _:
                raise _NotPlain
        # Of a directory last: a default ACL would go on to what is made in it, and its time would change.
        self.dress(found, target, name, status)

    def _data(self, source: int, target: int, size: int) -> None:
        """Copy a file's data, not its holes; of one that grows meanwhile as much as there was."""
        at = 0
        while at < size and (data := _next_data(source, at)) is not None:
            at, end = data[0], min(data[1], size)
            self._bytes += end - at
            if self._bytes > _BYTES:
                raise _NotPlain
            while at < end:
                copied = os.copy_file_range(source, target, end - at, at, at)
                if not copied:
                    # It was made shorter, which is not the file that was looked at.
                    raise _NotPlain
                at += copied
        os.ftruncate(target, size)

    def dress(self, found: int, target: int, name: str, status: os.stat_result) -> None:
        """Give what was copied its owner, mode, extended attributes and times, in the order in which they stay."""
        os.chown(name, self._id(status.st_uid), self._id(status.st_gid), dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        seen = f"/proc/self/fd/{found}"
        for attribute in os.listxattr(seen):
            value = self._attribute(attribute, os.getxattr(seen, attribute))
            os.setxattr(f"/proc/self/fd/{target}/{name}", attribute, value, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _id(self, number: int) -> int:
        return number + self._shift if number in self._ids else number

    def _attribute(self, name: str, value: bytes) -> bytes:
        if name.startswith(_AS_THEY_ARE):
            return value
        if name in _ACLS:
            entries = _ACL_ENTRY.iter_unpack(value[_ACL_HEADER:])
            return value[:_ACL_HEADER] + b"".join(
                _ACL_ENTRY.pack(tag, may, self._id(who) if tag in _ACL_NAMED else who) for tag, may, who in entries
            )
        if name == "security.capability":
            revision = int.from_bytes(value[:4], "little") & _REVISION_MASK
            if revision == _REVISION_2:
                return value
            if revision == _REVISION_3 and len(value) == _CAPABILITY.size:
                magic, sets, root = _CAPABILITY.unpack(value)
                return _CAPABILITY.pack(magic, sets, self._id(root))
        raise _NotPlain


@contextmanager
def _opened(path: str, flags: int, directory: int | None = None) -> Iterator[int]:
    fd = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _next_data(fd: int, at: int) -> tuple[int, int] | None:
    """Give where in a file data begins and ends from ``at`` on, None where there is only a hole (lseek(2))."""
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return begin, os.lseek(fd, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _empty(directory: int) -> None:
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            remove_directory(directory, name)
        else:
            os.unlink(name, dir_fd=directory)
