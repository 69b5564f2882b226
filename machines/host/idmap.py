# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the owners of files can be shown to a machine as its own (id-mapped mounts, mount_setattr(2))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from machines.host.files import read_text
from machines.model.frozen import NamedTuple

# Since when the kernel maps mounts of them (mount_setattr(2), Notes; FS_ALLOW_IDMAP).
FILE_SYSTEMS = {
    "btrfs": (5, 15), "cephfs": (6, 7), "erofs": (5, 19), "ext4": (5, 12), "f2fs": (5, 18), "msdos": (5, 12),
    "ntfs3": (5, 15), "squashfs": (6, 2), "tmpfs": (6, 3), "vfat": (5, 12), "xfs": (5, 12), "zfs": (5, 12),
}  # fmt: skip

_ALL_IDS = str(2**32 - 1)


class Mount(NamedTuple):
    """A mount: where, of what kind of file system, and with which options of its own."""

    point: str
    kind: str
    options: frozenset[str]


def reasons(paths: Iterable[str], *, nodes: bool = False) -> dict[str, str]:
    """Give those of ``paths`` a bind of which cannot be id-mapped (systemd-nspawn(1), --bind=), and why not.

    With ``nodes`` also those where no device node could be opened.
    """
    mounts = list(parse_mounts(read_text("/proc/self/mountinfo") or ""))
    found = {path: _reason(os.path.realpath(path), mounts, nodes=nodes) for path in paths}
    return {path: why for path, why in found.items() if why}


def _reason(path: str, mounts: Iterable[Mount], *, nodes: bool) -> str:
    own, inside = _mounts_of(path, mounts)
    if inside:
        # nspawn moves the mapped mount to where the plain one was, which the kernel refuses while others are on that.
        return f"{inside} is mounted in it"
    since = FILE_SYSTEMS.get(own.kind)
    if since is None:
        return f"it is on {own.kind or 'an unknown file system'}, whose owners the kernel cannot map"
    if _version(os.uname().release) < since:
        return f"it is on {own.kind}, whose owners the kernel maps since {'.'.join(map(str, since))} only"
    if "idmapped" in own.options:
        return "its owners are mapped already"
    if own.kind != "tmpfs" and not _has_all_ids():
        return "this host is in a user namespace itself"
    if nodes and "nodev" in own.options:
        return f"{own.point} is mounted with nodev"
    return ""


def parse_mounts(text: str) -> Iterator[Mount]:
    """Read /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        fields, dash, rest = line.partition(" - ")
        words = fields.split()
        if dash and len(words) > 5:
            point = words[4].encode("latin-1", "replace").decode("unicode_escape")
            yield Mount(point, rest.split()[0], frozenset(words[5].split(",")))


def _mounts_of(path: str, mounts: Iterable[Mount]) -> tuple[Mount, str]:
    """Give the mount that ``path`` is on, and where one is mounted in it, "" for nowhere."""
    own, inside = Mount("", "", frozenset()), ""
    below = path.rstrip("/") + "/"
    for mount in mounts:
        # Of two mounts on one point the later one is on top.
        if (path == mount.point or path.startswith(mount.point.rstrip("/") + "/")) and len(mount.point) >= len(
            own.point
        ):
            own = mount
        elif mount.point.startswith(below):
            inside = inside or mount.point
    return own, inside


def _has_all_ids() -> bool:
    """Tell whether no user namespace is around this host (user_namespaces(7))."""
    return (read_text("/proc/self/uid_map") or "").split() == ["0", "0", _ALL_IDS]


def _version(release: str) -> tuple[int, ...]:
    numbers = []
    for word in release.split("-")[0].split("+")[0].split("."):
        if not word.isdigit():
            break
        numbers.append(int(word))
    return tuple(numbers)
