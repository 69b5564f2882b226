# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool, /var/lib/machines: trees are made beside their place, appear whole by rename(2), and go the same way."""

from __future__ import annotations

import glob
import os
import stat
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotFound
from machines.model.names import is_machine_name
from machines.model.tree import Tree

if TYPE_CHECKING:
    from machines.host.run import Completed

POOL = "/var/lib/machines"

# machined and machinectl pass over names that begin with ".#" (machinectl(1), image names).
_STAGED = ".#machctl-new-"
_DOOMED = ".#machctl-old-"

_BTRFS_SUBVOLUME_INODE = 256


def staging_path(name: str) -> str:
    """Give where the tree of machine ``name`` is made; whoever holds the machine's lock owns it."""
    return f"{POOL}/{_STAGED}{name}"


def trees() -> dict[str, Tree]:
    """Give the root trees of the pool by machine name; raw images count under their name without the suffix."""
    found: dict[str, Tree] = {}
    btrfs = filesystem() == "btrfs"
    try:
        entries = sorted(os.scandir(POOL), key=lambda entry: entry.name)
    except (FileNotFoundError, PermissionError):
        return found
    for entry in entries:
        # machined calls every directory an image, lost+found too; a machine has a host name.
        if not is_machine_name(entry.name.removesuffix(".raw")):
            continue
        if entry.is_dir():
            kind = "subvolume" if btrfs and entry.stat().st_ino == _BTRFS_SUBVOLUME_INODE else "directory"
            found[entry.name] = Tree(entry.name, entry.path, kind)
        elif entry.name.endswith(".raw"):
            name = entry.name.removesuffix(".raw")
            found.setdefault(name, Tree(name, entry.path, "raw"))
    return found


def leftovers() -> dict[str, str]:
    """Give what interrupted runs left in the pool: path to the machine it was for."""
    found = {}
    for prefix in (_STAGED, _DOOMED):
        for path in glob.glob(f"{POOL}/{glob.escape(prefix)}*"):
            found[path] = os.path.basename(path).removeprefix(prefix)
    return found


def free_bytes() -> int:
    """Give how much root can still write to the pool's file system, in bytes."""
    path = POOL
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def filesystem() -> str:
    """Give the type of the pool's file system, as mount(8) names it."""
    return filesystem_of(POOL)


def filesystem_of(path: str) -> str:
    """Give the type of the file system that ``path`` is on (proc_pid_mountinfo(5))."""
    path = os.path.realpath(path)
    best, kind = -1, ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4].encode().decode("unicode_escape")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            # Of two mounts on one point the later one is on top.
            if inside and len(point) >= best:
                best, kind = len(point), rest.split()[0]
    return kind


def _run(argv: list[str], *, check: bool = True) -> Completed:
    # Imported here because subprocess is, and listing the pool needs neither.
    from machines.host.run import run

    return run(argv, check=check)


def make_empty(name: str) -> str:
    """Make an empty staging tree for machine ``name``, a subvolume where the pool is btrfs, and give its path."""
    path = staging_path(name)
    remove_path(path)
    if not os.path.isdir(POOL):
        # As tmpfiles.d/systemd-nspawn.conf has it: trees hold setuid programs of other users.
        os.makedirs(POOL, mode=0o700)
    if filesystem() == "btrfs":
        _run(["btrfs", "-q", "subvolume", "create", path])
    else:
        os.mkdir(path)
    os.chmod(path, 0o755)
    return path


def place(name: str) -> None:
    """Put the finished staging tree of machine ``name`` into its place. Raises Conflict if that is taken."""
    target = f"{POOL}/{name}"
    fd = os.open(staging_path(name), os.O_RDONLY | os.O_DIRECTORY)
    try:
        # One sync for the whole tree stands in for the fsync of every file that dpkg was told to leave out.
        _syncfs(fd)
    finally:
        os.close(fd)
    if os.path.lexists(target):
        raise Conflict(f"{target} has appeared in the meantime", hint="choose another name, or remove it")
    os.rename(staging_path(name), target)


def remove(path: str) -> None:
    """Remove a root tree: it is out of sight at once, and gone when this returns.

    Raises Conflict where something is mounted in it. NotFound where it is not there.
    """
    if not os.path.lexists(path):
        raise NotFound(f"there is no tree {path}")
    _refuse_mounts(path)
    name = os.path.basename(path).removesuffix(".raw")
    doomed = f"{POOL}/{_DOOMED}{name}"
    remove_path(doomed)
    os.rename(path, doomed)
    remove_path(doomed)


def remove_path(path: str) -> None:
    """Remove a tree or file of the pool, nested subvolumes too, following no symlink; none is fine."""
    if not os.path.lexists(path):
        return
    _refuse_mounts(path)
    _clear_immutable(path)
    if stat.S_ISDIR(os.lstat(path).st_mode) and _is_subvolume(path):
        _run(["btrfs", "-q", "property", "set", "-f", "-ts", path, "ro", "false"], check=False)
        if _run(["btrfs", "-q", "subvolume", "delete", path], check=False).returncode == 0:
            return
    done = _run(["rm", "-rf", "--", path], check=False)
    if done.returncode != 0:
        raise MachctlError(
            f"{path} could not be removed: {done.stderr.strip().splitlines()[-1:]}", hint="see lsattr(1)"
        )


def _is_subvolume(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    # Every subvolume's root has this inode number (btrfs-subvolume(8)); no other file system gives it to a directory
    # that is not its own root.
    return status.st_ino == _BTRFS_SUBVOLUME_INODE and filesystem_of(path) == "btrfs"


def _clear_immutable(path: str) -> None:
    # machinectl read-only marks a plain directory with FS_IMMUTABLE_FL (machinectl(1)).
    _run(["chattr", "-i", "--", path], check=False)


def _refuse_mounts(path: str) -> None:
    prefix = os.path.realpath(path) + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    mounted = sorted(point for point in points if point.startswith(prefix))
    if mounted:
        raise Conflict(f"{mounted[0]} is mounted inside {path}", hint=f"umount it first: umount {mounted[0]}")


def _syncfs(fd: int) -> None:
    import ctypes

    ctypes.CDLL(None, use_errno=True).syncfs(fd)
