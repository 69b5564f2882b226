# SPDX-License-Identifier: LGPL-2.1-or-later
"""Items in the trees of a btrfs, read with BTRFS_IOC_TREE_SEARCH_V2 and friends (linux/btrfs.h); this takes root."""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator

from machines.host.storage.ioctl import ior, iowr
from machines.model.frozen import NamedTuple

_MAGIC = 0x94

# struct btrfs_ioctl_search_args_v2: tree, first and last object, offset and transaction, first and last type, number
# of items, unused, size of the buffer that follows
_SEARCH = struct.Struct("=QQQQQQQIII36xQ")
# struct btrfs_ioctl_search_header: transid, objectid, offset, type, len
_HEADER = struct.Struct("=QQQII")
# struct btrfs_ioctl_get_subvol_info_args: treeid, parent_uuid, otransid
_INFO = struct.Struct("=Q256x48x16s16x8xQ16x64x64x")

_TREE_SEARCH_V2 = iowr(_MAGIC, 17, _SEARCH.size)
_GET_SUBVOL_INFO = ior(_MAGIC, 60, _INFO.size)

_BUFFER = 1 << 18
_LAST = (1 << 64) - 1


class Item(NamedTuple):
    """An item: its key, the transaction that wrote the block it is in, and its content, in little-endian order."""

    objectid: int
    kind: int
    offset: int
    transaction: int
    data: memoryview


class Subvolume(NamedTuple):
    """A subvolume: its number, and the transaction that made it a snapshot of another; 0 where it is none."""

    number: int
    snapshot: int


def subvolume(fd: int) -> Subvolume:
    """Give what the kernel says of the subvolume that the file open as ``fd`` is in. Raises OSError."""
    data = bytearray(_INFO.size)
    fcntl.ioctl(fd, _GET_SUBVOL_INFO, data)
    number, parent, created = _INFO.unpack(data)
    return Subvolume(number, created if parent.strip(b"\0") else 0)


def items(
    fd: int, tree: int, *, first: tuple[int, int, int] = (0, 0, 0), last: tuple[int, int, int] = (_LAST, 255, _LAST),
    since: int = 0,
) -> Iterator[Item]:  # fmt: skip
    """Give the items of ``tree`` (0: the subvolume of ``fd``) with keys from ``first`` to ``last``.

    Blocks that were written before transaction ``since`` are passed over, without being read. Raises OSError,
    FileNotFoundError where there is no such tree.
    """
    size = _BUFFER
    key = first
    while True:
        data = bytearray(_SEARCH.size + size)
        _SEARCH.pack_into(
            data, 0, tree, key[0], last[0], key[2], last[2], since, _LAST, key[1], last[1], 1 << 31, size
        )  # fmt: skip
        try:
            fcntl.ioctl(fd, _TREE_SEARCH_V2, data)
        except OSError as error:
            # One item alone is larger.
            if error.errno != errno.EOVERFLOW or size >= 1 << 24:
                raise
            size *= 4
            continue
        count = _SEARCH.unpack_from(data)[9]
        view, position = memoryview(data), _SEARCH.size
        for _ in range(count):
            transaction, objectid, offset, kind, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            key = (objectid, kind, offset)
            yield Item(objectid, kind, offset, transaction, view[position : position + length])
            position += length
        if not count or key >= last:
            return
        key = _next(key)


def _next(key: tuple[int, int, int]) -> tuple[int, int, int]:
    objectid, kind, offset = key
    if offset < _LAST:
        return objectid, kind, offset + 1
    return (objectid, kind + 1, 0) if kind < 255 else (objectid + 1, 0, 0)
