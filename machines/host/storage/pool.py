# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool, /var/lib/machines: trees are made beside their place, appear whole by rename(2), and go the same way."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotFound
from machines.host.matching import matching
from machines.host.storage import btrfs
from machines.host.storage.places import LAYERS, mounts_below
from machines.model.ids import first_of_range
from machines.model.names import is_machine_name
from machines.model.tree import Tree

if TYPE_CHECKING:
    from machines.host.run import Completed

POOL = "/var/lib/machines"

# machined and machinectl pass over names that begin with ".#" (machinectl(1), image names).
_STAGED = ".#machctl-new-"
_DOOMED = ".#machctl-old-"


def staging_path(name: str) -> str:
    """Give where the tree of machine ``name`` is made; whoever holds the machine's lock owns it."""
    return f"{POOL}/{_STAGED}{name}"


def trees() -> dict[str, Tree]:
    """Give the root trees of the pool by machine name; raw images count under their name without the suffix."""
    found: dict[str, Tree] = {}
    try:
        entries = sorted(os.scandir(POOL), key=lambda entry: entry.name)
        on_btrfs = btrfs.on_btrfs(POOL)
    except (FileNotFoundError, PermissionError):
        return found
    for entry in entries:
        # machined calls every directory an image, lost+found too; a machine has a host name.
        if not is_machine_name(entry.name.removesuffix(".raw")):
            continue
        if entry.is_dir():
            kind = _kind(entry, on_btrfs=on_btrfs)
            if kind != "overlay":
                found[entry.name] = Tree(entry.name, entry.path, kind)
            elif not _is_emptied(entry):
                found[entry.name] = _layered(entry)
        elif entry.name.endswith(".raw"):
            name = entry.name.removesuffix(".raw")
            found.setdefault(name, Tree(name, entry.path, "raw"))
    return found


def _kind(entry: os.DirEntry[str], *, on_btrfs: bool) -> str:
    if on_btrfs and entry.stat().st_ino == btrfs.ROOT_INODE:
        return "subvolume"
    return "overlay" if os.path.isdir(f"{LAYERS}/{entry.name}") else "directory"


def _layered(entry: os.DirEntry[str]) -> Tree:
    layer = f"{LAYERS}/{entry.name}"
    try:
        base = os.path.basename(os.path.dirname(os.readlink(f"{layer}/base")))
        uid = first_of_range(os.lstat(f"{layer}/upper").st_uid)
    except OSError:
        return Tree(entry.name, entry.path, "overlay")
    return Tree(entry.name, entry.path, "overlay", base, uid)


def _is_emptied(entry: os.DirEntry[str]) -> bool:
    """Tell whether nothing is left in a tree that is mounted: machinectl remove cannot take the directory itself.

    Over a base that somebody deleted nothing can be seen either, but the layer still has what it had.
    """
    try:
        with os.scandir(entry.path) as entries:
            if next(entries, None) is not None:
                return False
        with os.scandir(f"{LAYERS}/{entry.name}/lower") as entries:
            return next(entries, None) is not None and is_mounted(entry.path)
    except OSError:
        return False


def leftovers() -> dict[str, str]:
    """Give what interrupted runs left in the pool: path to the machine it was for."""
    found = {}
    for prefix in (_STAGED, _DOOMED):
        for path in matching(f"{POOL}/{prefix}*"):
            found[path] = os.path.basename(path).removeprefix(prefix).removesuffix(".raw")
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


def make_pool() -> None:
    """Make the pool if there is none."""
    if not os.path.isdir(POOL):
        # As tmpfiles.d/systemd-nspawn.conf has it: trees hold setuid programs of other users.
        os.makedirs(POOL, mode=0o700)


def make_empty(name: str) -> str:
    """Make an empty staging tree for machine ``name``, a subvolume where the pool is btrfs, and give its path."""
    path = staging_path(name)
    remove_path(path)
    make_pool()
    if btrfs.on_btrfs(POOL):
        btrfs.create(path)
    else:
        os.mkdir(path)
    os.chmod(path, 0o755)
    return path


def is_mounted(path: str) -> bool:
    """Tell whether something is mounted on ``path``, which has no symlink in it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(f" {path} " in line for line in file if line.split(" ", 5)[4] == path)


def rename(old: str, new: str) -> None:
    """Give a root tree another name, or do nothing where that was done. Raises Conflict, NotFound."""
    for suffix in ("", ".raw"):
        here, there = f"{POOL}/{old}{suffix}", f"{POOL}/{new}{suffix}"
        if os.path.lexists(here):
            _refuse_mounts(here)
            if os.path.lexists(there):
                raise Conflict(f"{there} has appeared in the meantime", hint="choose another name, or remove it")
            os.rename(here, there)
            return
        if os.path.lexists(there):
            return
    raise NotFound(f"there is no tree {POOL}/{old}")


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
    if btrfs.is_subvolume(path):
        btrfs.delete(path)
        return
    if os.path.isfile(path) and not os.path.islink(path):
        os.unlink(path)
        return
    with contextlib.suppress(OSError, RecursionError):
        _remove_directory(path)
        return
    # machinectl read-only marks a plain directory with FS_IMMUTABLE_FL (machinectl(1)).
    _run(["chattr", "-i", "--", path], check=False)
    done = _run(["rm", "-rf", "--", path], check=False)
    if done.returncode != 0:
        raise MachctlError(
            f"{path} could not be removed: {done.stderr.strip().splitlines()[-1:]}", hint="see lsattr(1)"
        )


def _remove_directory(path: str, *, parent: int | None = None) -> None:
    """Remove a directory with all in it, following no symlink; sooner done than a child process is begun."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(fd) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                _remove_directory(entry.name, parent=fd)
            else:
                os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(path, dir_fd=parent)


def _refuse_mounts(path: str) -> None:
    if mounted := mounts_below(path):
        raise Conflict(
            f"{mounted[0]} is mounted{f' inside {path}' if mounted[0] != os.path.realpath(path) else ''}",
            hint=f"umount it first: umount {mounted[0]}",
        )
