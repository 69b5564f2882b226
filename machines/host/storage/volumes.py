# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories of the host that machines write into, kept for a while to be had back: not theirs alone to look at."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotFound
from machines.host.storage import btrfs, pool
from machines.host.storage.places import STORE, mounts_below
from machines.host.storage.store import sync_file_system
from machines.model.update import Volume

if TYPE_CHECKING:
    from machines.host.interfaces import Progress

_NEW, _BROKEN, _GONE = ".new", ".old", ".gone"
_KEPT = f"{STORE}/volumes"

# What is the host's own, or in memory; what machctl keeps has ways of its own.
_NOT_BELOW = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr",
              "/var/lib/machctl", "/var/lib/machines", "/var/tmp")  # fmt: skip
_NOT_ITSELF = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/var", "/var/lib", "/var/log")


def real_path(path: str) -> str:
    """Give where a path of the host leads to by all symlinks."""
    return os.path.realpath(path)


def find_volume(path: str, machine: str, number: int) -> Volume | str:
    """Give how the directory ``path`` can be kept for machine ``machine``, as its ``number``th; or why it cannot be."""
    source = os.path.realpath(path)
    if not os.path.isdir(source):
        return "it is no directory"
    if source in _NOT_ITSELF or any(source == each or source.startswith(f"{each}/") for each in _NOT_BELOW):
        return "it is the host's own"
    mounts = mounts_below(source)
    if mounts and mounts != [source]:
        return f"{next(point for point in mounts if point != source)} is mounted in it"
    if mounts:
        return Volume(source, f"{_KEPT}/{machine}-{number}", "mount")
    place = f"{os.path.dirname(source)}/.machctl-{machine}-{number}"
    return Volume(source, place, "subvolume" if _is_whole_subvolume(source) else "directory")


async def save_volume(volume: Volume, *, log: str, progress: Progress) -> None:
    """Make what is kept of a directory: whole or not at all. Raises MachctlError, for want of room too."""
    new = volume.saved + _NEW
    drop_volume(volume)
    os.makedirs(os.path.dirname(volume.saved), mode=0o700, exist_ok=True)
    try:
        if volume.kind == "subvolume":
            btrfs.snapshot(volume.source, new)
        else:
            _check_room(volume)
            await _copy(volume.source, new, log=log, progress=progress)
    except BaseException:
        drop_volume(volume)
        raise
    os.rename(new, volume.saved)


async def restore_volume(volume: Volume, *, log: str, progress: Progress) -> None:
    """Let a directory be what was kept of it, or do nothing where there is nothing kept; while nobody writes there.

    Killed at any point, it goes on from there when it is called again.
    """
    broken = volume.saved + _BROKEN
    if not os.path.lexists(volume.saved):
        if os.path.lexists(volume.source):
            pool.remove_path(broken)
        return
    if volume.kind == "mount":
        if not pool.is_mounted(volume.source):
            raise NotFound(f"nothing is mounted on {volume.source}", hint="mount it, then: machctl gc")
        with os.scandir(volume.source) as entries:
            for entry in list(entries):
                pool.remove_path(entry.path)
        await _copy(volume.saved, volume.source, log=log, progress=progress)
        drop_volume(volume)
        return
    if os.path.lexists(volume.source):
        if os.path.lexists(broken):
            raise Conflict(
                f"{volume.source} was made anew while it was to get back what it had",
                hint=f"move it away; what it had is {volume.saved}; then: machctl gc",
            )
        os.rename(volume.source, broken)
    os.rename(volume.saved, volume.source)
    pool.remove_path(broken)


def drop_volume(volume: Volume) -> None:
    """Remove what is kept of a directory, whole or half made; none is fine."""
    pool.remove_path(volume.saved + _GONE)
    with contextlib.suppress(FileNotFoundError):
        # From here on nobody takes what is left of it for all of it.
        os.rename(volume.saved, volume.saved + _GONE)
    for suffix in (_NEW, _GONE):
        pool.remove_path(volume.saved + suffix)
    if os.path.lexists(volume.source):
        # Else a restore that was killed had just moved it out of the way.
        pool.remove_path(volume.saved + _BROKEN)
    if volume.kind == "mount":
        with contextlib.suppress(OSError):
            os.rmdir(_KEPT)


async def _copy(source: str, target: str, *, log: str, progress: Progress) -> None:
    from machines.host.storage import copying

    if not os.path.isdir(target):
        os.mkdir(target, 0o700)
    await copying.copy(source, target, reflink=False, log=log, progress=progress, total=None)
    sync_file_system(target)


def _is_whole_subvolume(path: str) -> bool:
    """Tell whether a snapshot of ``path`` has all that is in it: those nested in it would be empty."""
    if not btrfs.is_subvolume(path):
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return next(btrfs.children(fd), None) is None
    finally:
        os.close(fd)


def _check_room(volume: Volume) -> None:
    from machines.host.storage.trees import measure

    place = os.path.dirname(volume.saved)
    status = os.statvfs(place)
    if os.stat(place).st_dev == os.stat(volume.source).st_dev and btrfs.on_btrfs(place):
        # They share their blocks.
        return
    size, _ = measure(volume.source)
    free = status.f_bavail * status.f_frsize
    if size > free * 0.9:
        raise MachctlError(
            f"{volume.source} cannot be kept for the update: it has {size // 2**20} MiB, and {place} has "
            f"{free // 2**20} MiB of room",
            hint="make room there, or leave such directories out of it, which are not rolled back then: --no-volumes",
        )
