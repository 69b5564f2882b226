# SPDX-License-Identifier: LGPL-2.1-or-later
"""Subvolumes of btrfs by ioctl(2): a snapshot in milliseconds, without a child process. See linux/btrfs.h."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from machines.errors import Conflict, MachctlError, NotFound, NotPermitted, Unsupported
from machines.host.storage.ioctl import ior, iow, iowr

ROOT_INODE = 256
"""The inode number of every subvolume's root (btrfs-subvolume(8))."""

_MAGIC = 0x94

# fcntl.ioctl() takes more than 1024 bytes only in a buffer that can be written to.
# struct btrfs_ioctl_vol_args: fd, name
_VOLUME = struct.Struct("=q4088s")
# struct btrfs_ioctl_vol_args_v2: fd, transid, flags, four unused, name
_VOLUME_2 = struct.Struct("=qQQ32x4040s")
# struct btrfs_ioctl_get_subvol_rootref_args: min_treeid, 255 pairs of treeid and dirid, num_items
_ROOTREF = struct.Struct("=Q4080sB7x")
# struct btrfs_ioctl_ino_lookup_user_args: dirid, treeid, name, path
_LOOKUP = struct.Struct("=QQ256s3824s")

_SNAP_DESTROY = iow(_MAGIC, 15, _VOLUME.size)
_SNAP_CREATE_V2 = iow(_MAGIC, 23, _VOLUME_2.size)
_SUBVOL_CREATE_V2 = iow(_MAGIC, 24, _VOLUME_2.size)
_SUBVOL_GETFLAGS = ior(_MAGIC, 25, 8)
_SUBVOL_SETFLAGS = iow(_MAGIC, 26, 8)
_GET_SUBVOL_ROOTREF = iowr(_MAGIC, 61, _ROOTREF.size)
_INO_LOOKUP_USER = iowr(_MAGIC, 62, _LOOKUP.size)

_RDONLY = 1 << 1


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def create(path: str) -> None:
    """Make an empty subvolume. Raises Conflict where something is there, Unsupported where the place is not btrfs."""
    directory, name = os.path.split(path)
    with _errors(f"subvolume {path} cannot be made"), _opened(directory) as fd:
        fcntl.ioctl(fd, _SUBVOL_CREATE_V2, bytearray(_VOLUME_2.pack(0, 0, 0, os.fsencode(name))))


def snapshot(source: str, target: str, *, read_only: bool = False) -> None:
    """Make ``target`` a snapshot of the subvolume ``source``: nested subvolumes become empty directories there.

    Raises Conflict where something is there, Unsupported where they are not on one btrfs.
    """
    directory, name = os.path.split(target)
    flags = _RDONLY if read_only else 0
    with _errors(f"{target} cannot be made a snapshot of {source}"), _opened(source) as tree, _opened(directory) as fd:
        fcntl.ioctl(fd, _SNAP_CREATE_V2, bytearray(_VOLUME_2.pack(tree, 0, flags, os.fsencode(name))))


def delete(path: str) -> None:
    """Delete a subvolume and those nested in it, read-only ones too; no symlink is followed.

    It is out of sight when this returns; the kernel frees its blocks later. Raises NotFound where it is not there,
    Conflict where something is mounted in it.
    """
    directory, name = os.path.split(path)
    with _errors(f"subvolume {path} cannot be deleted"), _opened(directory) as parent:
        _delete(parent, name)


def is_subvolume(path: str) -> bool:
    """Say whether ``path`` is the root of a btrfs subvolume, and no symlink to one."""
    try:
        # An inode of that number is nothing special elsewhere.
        return os.lstat(path).st_ino == ROOT_INODE and stat.S_ISDIR(os.lstat(path).st_mode) and on_btrfs(path)
    except OSError:
        return False


def on_btrfs(path: str) -> bool:
    """Say whether ``path`` is on btrfs. Raises OSError where it cannot be opened."""
    try:
        with _opened(path) as fd:
            fcntl.ioctl(fd, _SUBVOL_GETFLAGS, bytes(8))
    except OSError as error:
        # A directory of btrfs that is not a subvolume's root gives EINVAL.
        if error.errno in {errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            return error.errno == errno.EINVAL
        raise
    return True


def set_read_only(path: str, *, on: bool) -> None:
    """Make a subvolume read-only or writable."""
    with _errors(f"subvolume {path} cannot be made {'read-only' if on else 'writable'}"), _opened(path) as fd:
        _set_read_only(fd, on=on)


def children(fd: int) -> Iterator[tuple[str, str]]:
    """Give the subvolumes right below the one open as ``fd``: the directory of each in there, and its name."""
    start = 0
    more = True
    while more:
        data = bytearray(_ROOTREF.pack(start, b"", 0))
        try:
            fcntl.ioctl(fd, _GET_SUBVOL_ROOTREF, data)
            more = False
        except OSError as error:
            # There are more than fit; where to go on is filled in.
            if error.errno != errno.EOVERFLOW:
                raise
        start, pairs, count = _ROOTREF.unpack(data)
        for tree, directory in list(struct.iter_unpack("=QQ", pairs))[:count]:
            found = bytearray(_LOOKUP.pack(directory, tree, b"", b""))
            fcntl.ioctl(fd, _INO_LOOKUP_USER, found)
            _, _, name, path = _LOOKUP.unpack(found)
            # The kernel leaves rests of its own work behind the end of the path.
            yield os.fsdecode(path.partition(b"\0")[0]).strip("/"), os.fsdecode(name.partition(b"\0")[0])


def open_below(fd: int, path: str) -> int:
    """Open the directory ``path`` below the one open as ``fd``, none of its parts a symlink; the caller closes it."""
    below = os.dup(fd)
    try:
        for part in path.split("/") if path else ():
            above, below = below, os.open(part, _DIRECTORY, dir_fd=below)
            os.close(above)
        return below
    except BaseException:
        os.close(below)
        raise


def _delete(parent: int, name: str) -> None:
    """Delete the subvolume ``name`` in ``parent``; those in it first, innermost first, where there are any."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        # Nothing nested can be deleted from a read-only one.
        _set_read_only(fd, on=False)
        for directory, child in list(children(fd)):
            below = open_below(fd, directory)
            try:
                _delete(below, child)
            finally:
                os.close(below)
    finally:
        os.close(fd)
    fcntl.ioctl(parent, _SNAP_DESTROY, bytearray(_VOLUME.pack(0, os.fsencode(name))))


def _flags(fd: int) -> int:
    data = bytearray(8)
    fcntl.ioctl(fd, _SUBVOL_GETFLAGS, data)
    return int.from_bytes(data, "little" if struct.pack("=H", 1) == b"\1\0" else "big")


def _set_read_only(fd: int, *, on: bool) -> None:
    flags = _flags(fd)
    wanted = flags | _RDONLY if on else flags & ~_RDONLY
    if wanted != flags:
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, struct.pack("=Q", wanted))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _errors(message: str) -> Iterator[None]:
    """Raise the kernel's refusal as an error of ours that begins with ``message``."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{message}: {os.fsdecode(error.filename or b'it')} is not there") from error
    except FileExistsError as error:
        raise Conflict(f"{message}: something of that name is there already", hint="choose another name") from error
    except OSError as error:
        reason = f"{message}: {os.strerror(error.errno or 0)}"
        if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP}:
            raise Unsupported(f"{message}: it is not on btrfs") from error
        if error.errno == errno.EXDEV:
            raise Unsupported(f"{message}: they are on different file systems") from error
        if error.errno == errno.EINVAL:
            raise MachctlError(f"{message}: it is not a subvolume", hint="see btrfs-subvolume(8)") from error
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise NotPermitted(reason, hint="run machctl as root") from error
        if error.errno == errno.EBUSY:
            raise Conflict(reason, hint="see findmnt(8) for what is mounted in it, and umount it first") from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise MachctlError(reason, hint="make room in the pool and try again") from error
        raise MachctlError(reason) from error
