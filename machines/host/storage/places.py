# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where bases, layers and snapshots lie, and which mount a path is on."""

from __future__ import annotations

import os

from machines.model.frozen import NamedTuple

MACHCTL = "/var/lib/machctl"

STORE = f"{MACHCTL}/store"
BASES = f"{STORE}/bases"
LAYERS = f"{STORE}/layers"
SNAPSHOTS = f"{STORE}/snapshots"

POOL_IMAGE = f"{MACHCTL}/pool.btrfs"
POOL_MOUNT = f"{MACHCTL}/pool"


class Mount(NamedTuple):
    """A mount: the device number of its file system ("7:1"), where it is, its type and its source."""

    device: str
    point: str
    kind: str
    source: str


def existing(path: str) -> str:
    """Give ``path``, or the nearest directory above it that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def mount_of(path: str) -> Mount:
    """Give the mount that ``path`` is on, or would be if it were made. Raises OSError where it cannot be opened.

    The kernel says which mount an open file is on (proc_pid_fdinfo(5)): no comparing of paths, no symlink, no mount
    that hides another can be mistaken. st_dev will not do: each subvolume of a btrfs has its own.
    """
    fd = os.open(existing(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse(next(line for line in file if line.startswith(f"{number} ")))
    finally:
        os.close(fd)


def mounts_below(path: str) -> list[str]:
    """Give the mount points at ``path`` or below it, sorted."""
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [parse(line).point for line in file]
    return sorted(point for point in points if point == path or point.startswith(f"{path}/"))


def parse(line: str) -> Mount:
    """Give the mount that a line of proc_pid_mountinfo(5) is about."""
    fields, _, rest = line.partition(" - ")
    words = fields.split(" ")
    kind, source = rest.split(" ")[:2]
    return Mount(words[2], _plain(words[4]), kind, _plain(source))


def _plain(word: str) -> str:
    # Space, tab, newline and the backslash itself are written in octal.
    for code in ("040", "011", "012", "134"):
        word = word.replace(f"\\{code}", chr(int(code, 8)))
    return word
