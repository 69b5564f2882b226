# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much disk a tree holds by itself, beside what it shares with the base it was copied from."""

from __future__ import annotations

import os
import stat
import struct

from machines.host.storage import btrfs, btrfs_items

# linux/btrfs_tree.h
_EXTENT_DATA = 108
_INLINE = 0
# struct btrfs_file_extent_item: generation, type, disk_bytenr, disk_num_bytes
_EXTENT = struct.Struct("<Q12xBQQ16x")
# struct btrfs_item: what each item takes in its block besides its content
_ITEM = 25

# A guest can nest directories deeper than a process has file descriptors.
_DEPTH = 400


def usage(path: str) -> int:
    """Give the bytes of disk that a tree holds alone; 0 where it cannot be read.

    A btrfs subvolume: what was written since it became a snapshot, data and metadata, or all where it is none;
    nested subvolumes count. Another directory, such as an overlay's upper layer: the blocks of its files as du(1)
    counts them, hard links once and other file systems not at all. Blocks that are shared by reflink count in full.
    """
    try:
        if btrfs.is_subvolume(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return _subvolume(fd)
            finally:
                os.close(fd)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_blocks * 512
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return status.st_blocks * 512 + _directory(fd, status.st_dev, set())
    except OSError:
        return 0


def _subvolume(fd: int) -> int:
    since = btrfs_items.subvolume(fd).snapshot
    total = 0
    extents: dict[int, int] = {}
    for item in btrfs_items.items(fd, 0, since=since + 1):
        total += _ITEM + len(item.data)
        if item.kind == _EXTENT_DATA and len(item.data) >= _EXTENT.size:
            generation, kind, start, size = _EXTENT.unpack_from(item.data)
            # An unchanged extent lies in a block that was written anew; one that starts nowhere is a hole.
            if kind != _INLINE and start and generation > since:
                extents[start] = size
    total += sum(extents.values())
    for directory, name in list(btrfs.children(fd)):
        try:
            below = btrfs.open_below(fd, f"{directory}/{name}" if directory else name)
        except OSError:  # it has gone meanwhile
            continue
        try:
            total += _subvolume(below)
        finally:
            os.close(below)
    return total


def _directory(fd: int, device: int, seen: set[int], depth: int = 0) -> int:
    """Give the bytes below the directory ``fd``, which is closed; ``seen`` are files of several names.

    By file descriptors: a running guest may put a symlink where a directory was.
    """
    total = 0
    directories = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_dev != device:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    directories.append(entry.name)
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                total += status.st_blocks * 512
        for name in directories if depth < _DEPTH else ():
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except OSError:
                continue
            total += _directory(below, device, seen, depth + 1)
        return total
    finally:
        os.close(fd)
