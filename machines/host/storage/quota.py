# SPDX-License-Identifier: LGPL-2.1-or-later
"""A limit on the disk of one machine, with the quota groups of btrfs (btrfs-quota(8), btrfs-qgroup(8))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from machines.errors import MachctlError, NotFound, NotPermitted, Unsupported
from machines.host.storage import btrfs, btrfs_items
from machines.host.storage.ioctl import ior, iow, iowr

_MAGIC = 0x94

# struct btrfs_ioctl_quota_ctl_args: cmd, status; qgroup_create_args: create, qgroupid
_PAIR = struct.Struct("=QQ")
# struct btrfs_ioctl_qgroup_assign_args: assign, src, dst
_ASSIGN = struct.Struct("=QQQ")
# struct btrfs_ioctl_qgroup_limit_args: qgroupid, flags, max_rfer, max_excl, rsv_rfer, rsv_excl
_LIMIT = struct.Struct("=QQQQQQ")

_QUOTA_CTL = iowr(_MAGIC, 40, _PAIR.size)
_QGROUP_ASSIGN = iow(_MAGIC, 41, _ASSIGN.size)
_QGROUP_CREATE = iow(_MAGIC, 42, _PAIR.size)
_QGROUP_LIMIT = ior(_MAGIC, 43, _LIMIT.size)

_ENABLE, _ENABLE_SIMPLE = 1, 4
_MAX_REFERENCED = 1
_NONE = (1 << 64) - 1

# linux/btrfs_tree.h
_QUOTA_TREE = 8
_STATUS, _INFO, _LIMITS, _RELATION = 240, 242, 244, 246
_SIMPLE_MODE = 1 << 3

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# The level of a group is in the upper 16 bits of its number.
_LEVEL_1 = 1 << 48


def set_limit(path: str, size: int | None) -> None:
    """Let the subvolume ``path`` hold no more than ``size`` bytes, or any number of them.

    Quota accounting is switched on where it is off: the simple kind from Linux 6.7 on, which costs next to nothing,
    counts what is written from then on, and holds for subvolumes that the guest makes as well. The other kind counts
    what the machine shares with its base too. Raises Unsupported where ``path`` is no subvolume.
    """
    with _opened(path) as (fd, number):
        mode = _mode(fd)
        if mode is None:
            if size is None:
                return
            mode = _enable(fd)
        group = number
        if mode & _SIMPLE_MODE:
            # A subvolume made inside joins the groups above its parent's own.
            group = number | _LEVEL_1
            if size is None and _read(fd, group) is None:
                return
            _ignoring(errno.EEXIST, fd, _QGROUP_CREATE, _PAIR.pack(1, group))
            _ignoring(errno.EEXIST, fd, _QGROUP_ASSIGN, _ASSIGN.pack(1, number, group))
        limit = _NONE if size is None else size
        fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(_LIMIT.pack(group, _MAX_REFERENCED, limit, 0, 0, 0)))


def limit(path: str) -> int | None:
    """Give how many bytes the subvolume ``path`` may hold; None for any number, and where there are no limits."""
    try:
        with _opened(path) as (fd, number):
            above = _read(fd, number | _LEVEL_1)
            return above if above is not None else _read(fd, number)
    except (Unsupported, NotFound, NotPermitted):
        return None


def forget(path: str) -> None:
    """Remove the group that set_limit() made for the subvolume ``path``, before that is deleted; none is fine."""
    try:
        with _opened(path) as (fd, number):
            if _mode(fd) is None or not _exists(fd, number | _LEVEL_1):
                return
            for member in _members(fd, number | _LEVEL_1):
                fcntl.ioctl(fd, _QGROUP_ASSIGN, _ASSIGN.pack(0, member, number | _LEVEL_1))
            fcntl.ioctl(fd, _QGROUP_CREATE, _PAIR.pack(0, number | _LEVEL_1))
    except (Unsupported, NotFound):
        return


def _enable(fd: int) -> int:
    try:
        fcntl.ioctl(fd, _QUOTA_CTL, bytearray(_PAIR.pack(_ENABLE_SIMPLE, 0)))
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        # Linux before 6.7
        fcntl.ioctl(fd, _QUOTA_CTL, bytearray(_PAIR.pack(_ENABLE, 0)))
    return _mode(fd) or 0


def _mode(fd: int) -> int | None:
    """Give the flags of quota accounting; None where it is off."""
    data = _content(fd, _STATUS, 0)
    # struct btrfs_qgroup_status_item: version, generation, flags
    return int(struct.unpack_from("<QQQ", data)[2]) if data else None


def _read(fd: int, group: int) -> int | None:
    data = _content(fd, _LIMITS, group)
    # struct btrfs_qgroup_limit_item: flags, max_rfer
    flags, size = struct.unpack_from("<QQ", data) if data else (0, 0)
    return int(size) if flags & _MAX_REFERENCED else None


def _exists(fd: int, group: int) -> bool:
    return bool(_content(fd, _INFO, group))


def _members(fd: int, group: int) -> list[int]:
    found = btrfs_items.items(fd, _QUOTA_TREE, first=(group, _RELATION, 0), last=(group, _RELATION, group - 1))
    return [item.offset for item in found]


def _content(fd: int, kind: int, group: int) -> bytes:
    key = (0, kind, group)
    try:
        return next((bytes(item.data) for item in btrfs_items.items(fd, _QUOTA_TREE, first=key, last=key)), b"")
    except FileNotFoundError:  # the tree comes with the accounting
        return b""


def _ignoring(number: int, fd: int, request: int, data: bytes) -> None:
    try:
        fcntl.ioctl(fd, request, data)
    except OSError as error:
        if error.errno != number:
            raise


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """Give a descriptor of the directory that a subvolume is in, and its number; refusals become errors of ours.

    Not one of the subvolume itself: at its limit it has no room left for raising it.
    """
    if not os.path.lexists(path):
        raise NotFound(f"there is no tree {path}")
    if not btrfs.is_subvolume(path):
        raise Unsupported(
            f"the disk of {path} cannot be limited: it is no btrfs subvolume",
            hint="create it again with --storage btrfs, if need be after machctl pool create --btrfs SIZE",
        )
    try:
        fd = os.open(path, _DIRECTORY)
        try:
            number = btrfs_items.subvolume(fd).number
        finally:
            os.close(fd)
        fd = os.open(os.path.dirname(path), _DIRECTORY)
        try:
            yield fd, number
        finally:
            os.close(fd)
    except PermissionError as error:
        raise NotPermitted(f"the quota of {path} takes root: {error.strerror}", hint="run machctl as root") from error
    except OSError as error:
        raise MachctlError(f"the quota of {path} cannot be used: {os.strerror(error.errno or 0)}") from error
