# SPDX-License-Identifier: LGPL-2.1-or-later
"""A btrfs in a file, as the pool of hosts whose own file system has no snapshots."""

from __future__ import annotations

import os
from collections import deque

from machines.errors import CommandFailed, Conflict, InvalidValue, MachctlError
from machines.host import run
from machines.host.bootstrap.scratch import scratch
from machines.host.files import sync_directory
from machines.host.storage import places
from machines.host.streaming import stream

MINIMUM = 1 << 30
"""Smaller ones have no room for a second tree beside the metadata of btrfs."""

# Directories of the pool that are mounted at their own places.
MACHINES = "machines"
STORE = "store"


async def make_image(size: int, *, log: str) -> None:
    """Make POOL_IMAGE, a sparse file of ``size`` bytes with an empty btrfs in it; it is whole or not there.

    The file system has the directories MACHINES and STORE. Half of ``size`` has to be free now: the pool fills as it
    is used, and a btrfs whose file cannot grow any more stops with I/O errors. Raises Conflict where there is one,
    InvalidValue for a size under MINIMUM, Unsupported where mkfs.btrfs is missing, MachctlError where there is no room.
    """
    if os.path.lexists(places.POOL_IMAGE):
        raise Conflict(f"there is a pool already: {places.POOL_IMAGE}", hint="see it with machctl pool show")
    if size < MINIMUM:
        raise InvalidValue(f"a pool of {size >> 20} MiB is too small", hint="give it 1G or more")
    directory = os.path.dirname(places.POOL_IMAGE)
    os.makedirs(directory, exist_ok=True)
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < size // 2:
        raise MachctlError(
            f"a pool of {size >> 20} MiB is too large: {directory} has {free >> 20} MiB left, and half of it is wanted",
            hint=f"make room there, or give it {free * 2 >> 30}G at most",
        )
    staged = f"{places.POOL_IMAGE}.new"
    _remove(staged)
    try:
        await _fill(staged, size, log)
        os.rename(staged, places.POOL_IMAGE)
        sync_directory(directory)
    except OSError as error:
        raise MachctlError(f"{places.POOL_IMAGE} cannot be made: {error.strerror}") from error
    finally:
        _remove(staged)


def leftovers() -> list[str]:
    """Give what an interrupted make_image() left."""
    staged = f"{places.POOL_IMAGE}.new"
    return [staged] if os.path.lexists(staged) else []


async def _fill(path: str, size: int, log: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        tail: deque[str] = deque(maxlen=20)
        with scratch("pool") as inside:
            # As tmpfiles.d/systemd-nspawn.conf has /var/lib/machines: trees hold setuid programs of other users.
            inside.chmod(0o700)
            for name in (MACHINES, STORE):
                os.mkdir(f"{inside}/{name}", 0o700)
            # Both halves of a duplicate would lie in one file.
            argv = ["mkfs.btrfs", "--label", "machctl", "--metadata", "single", "--rootdir", str(inside), "--", path]
            status = await stream(argv, on_line=tail.append, log=log)
        if status != 0:
            raise CommandFailed(
                f"no btrfs can be made in {path}: {run.telling_line(chr(10).join(tail)) or run.ending(status)}",
                hint=f"the log is {log}",
            )
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
