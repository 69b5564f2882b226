# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of machines: each a directory with the tree, the layer or the image, whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from machines.errors import Conflict, NotFound
from machines.host.files import write_file
from machines.host.storage import btrfs, pool
from machines.host.storage.places import BASES, LAYERS, SNAPSHOTS, STORE
from machines.host.storage.store import base_path, bases, sync_file_system
from machines.host.storage.trees import check_layer, mount, unmount
from machines.model.snapshot import Origin, Snapshot

if TYPE_CHECKING:
    from machines.host.interfaces import Progress

_NEW = ".new-"
_OLD = ".old-"
_RESTORED = "restored"

_GONE = f"bring it back from a backup, into {BASES}"

# linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def snapshots_of(machine: str) -> dict[str, Snapshot]:
    """Give the snapshots of a machine by name, oldest first; one whose description cannot be read is none."""
    found = []
    for name in _names(f"{SNAPSHOTS}/{machine}"):
        try:
            with open(f"{SNAPSHOTS}/{machine}/{name}/snapshot.json", encoding="utf-8") as file:
                found.append(Snapshot(**{**json.load(file), "machine": machine, "name": name}))
        except (OSError, ValueError, TypeError):
            continue
    return {snapshot.name: snapshot for snapshot in sorted(found, key=lambda snapshot: snapshot.created)}


def all_snapshots() -> dict[str, dict[str, Snapshot]]:
    """Give the snapshots of all machines that have any."""
    return {machine: snapshots_of(machine) for machine in _names(SNAPSHOTS)}


def snapshot_path(snapshot: Snapshot) -> str:
    """Give the tree, the layer or the image that a snapshot is."""
    return f"{SNAPSHOTS}/{snapshot.machine}/{snapshot.name}/{'disk.raw' if snapshot.storage == 'raw' else 'tree'}"


def origin_of_machine(name: str, storage: str, *, base: str, uid: int | None) -> Origin:
    """Give what a copy of a machine is a copy of."""
    if storage == "overlay":
        return Origin(f"{LAYERS}/{name}/upper", storage, base, uid)
    tree = pool.trees()[name]
    kinds = {"raw": "raw", "subvolume": "btrfs"}
    return Origin(tree.path, kinds.get(tree.kind, storage if storage in {"copy", "reflink"} else "copy"), base, uid)


def origin_of_snapshot(snapshot: Snapshot) -> Origin:
    """Give what a copy of a snapshot is a copy of."""
    return Origin(snapshot_path(snapshot), snapshot.storage, snapshot.base, snapshot.uid)


async def take_snapshot(snapshot: Snapshot, origin: Origin, *, log: str, progress: Progress) -> None:
    """Make ``snapshot`` of ``origin``. Raises Conflict if there is one of that name; nothing is left where it fails."""
    for directory in (STORE, SNAPSHOTS, f"{SNAPSHOTS}/{snapshot.machine}"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    target = f"{SNAPSHOTS}/{snapshot.machine}/{snapshot.name}"
    if os.path.lexists(target):
        raise Conflict(
            f"machine {snapshot.machine} has a snapshot {snapshot.name} already",
            hint=f"choose another name, or: machctl snapshot rm {snapshot.machine} {snapshot.name}",
        )
    staged = f"{SNAPSHOTS}/{snapshot.machine}/{_NEW}{snapshot.name}"
    remove_kept(staged)
    os.mkdir(staged, 0o700)
    try:
        await _copy(origin, f"{staged}/{'disk.raw' if origin.storage == 'raw' else 'tree'}", origin.uid, log, progress)
        if origin.storage == "btrfs":
            btrfs.set_read_only(f"{staged}/tree", on=True)
        values = snapshot._replace(storage=origin.storage, base=origin.base, uid=origin.uid)._asdict()
        del values["machine"], values["name"]
        write_file(f"{staged}/snapshot.json", json.dumps(values, indent=1) + "\n")
        if origin.storage != "btrfs":
            sync_file_system(staged)
        os.rename(staged, target)
    except BaseException:
        remove_kept(staged)
        _prune(os.path.dirname(staged))
        raise


async def copy_origin(origin: Origin, name: str, *, uid: int | None, log: str, progress: Progress) -> str:
    """Make the tree of machine ``name`` a copy of ``origin``, beside its place, and give where files of its own go in.

    Raises MachctlError; what is half made then is for the caller to remove.
    """
    if origin.storage == "overlay":
        from machines.host.storage import overlay

        assert uid is not None
        base = bases().get(origin.base)
        if base is None:
            raise NotFound(f"base {origin.base} is gone, and nothing can be made of what lies over it", hint=_GONE)
        unmount(name)
        overlay.remove_layer(name)
        overlay.make_layer(name, uid)
        os.symlink(base_path(base), f"{LAYERS}/{name}/base")
        await _copy(origin, f"{LAYERS}/{name}/upper", uid, log, progress)
        return f"{LAYERS}/{name}/upper"
    pool.make_pool()
    target = f"{pool.staging_path(name)}{'.raw' if origin.storage == 'raw' else ''}"
    pool.remove_path(target)
    await _copy(origin, target, uid, log, progress)
    return target


async def stage_restored(snapshot: Snapshot, name: str, *, log: str, progress: Progress) -> None:
    """Make a copy of a snapshot beside the tree of machine ``name``, to change places with it. Raises NotFound."""
    if snapshot.storage == "overlay":
        check_layer(name)
    origin = origin_of_snapshot(snapshot)
    target = _restored(name, snapshot.storage)
    remove_kept(target)
    await _copy(origin, target, origin.uid, log, progress)
    if snapshot.storage != "btrfs":
        sync_file_system(target)


def exchange_restored(name: str, storage: str) -> None:
    """Let what was staged and the tree of machine ``name`` change places, at once, and remove what it was before.

    For a moment a layer is not mounted; a run that is killed then leaves the machine whole all the same.
    """
    staged = _restored(name, storage)
    if storage == "overlay":
        unmount(name)
        place = f"{LAYERS}/{name}/upper"
        # What overlayfs keeps of files that are being copied up belongs to the old layer.
        remove_kept(f"{LAYERS}/{name}/work")
        os.mkdir(f"{LAYERS}/{name}/work", 0o700)
    else:
        place = f"{pool.POOL}/{name}{'.raw' if storage == 'raw' else ''}"
    _exchange(staged, place)
    remove_kept(staged)
    if storage == "overlay":
        mount(name)


def restored_leftovers() -> dict[str, str]:
    """Give what interrupted restores left of layers: path to the machine it was for; of trees the pool knows."""
    from machines.host.storage import overlay

    return {path: name for name in overlay.layers() if os.path.lexists(path := _restored(name, "overlay"))}


def remove_snapshot(snapshot: Snapshot) -> None:
    """Remove a snapshot: out of sight at once, gone when this returns. Raises NotFound."""
    directory = f"{SNAPSHOTS}/{snapshot.machine}"
    doomed = f"{directory}/{_OLD}{snapshot.name}"
    remove_kept(doomed)
    try:
        os.rename(f"{directory}/{snapshot.name}", doomed)
    except FileNotFoundError:
        raise NotFound(f"machine {snapshot.machine} has no snapshot {snapshot.name}") from None
    remove_kept(doomed)
    _prune(directory)


def remove_snapshots(machine: str) -> None:
    """Remove all snapshots of a machine and what interrupted runs left of them; none is fine."""
    directory = f"{SNAPSHOTS}/{machine}"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            remove_kept(f"{directory}/{name}")
    _prune(directory)


def rename_snapshots(old: str, new: str) -> None:
    """Let the snapshots of one machine be another's; none is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(f"{SNAPSHOTS}/{old}", f"{SNAPSHOTS}/{new}")


def snapshot_leftovers() -> dict[str, str]:
    """Give what interrupted runs left of snapshots: path to the machine they were of."""
    found = {}
    for machine in _names(SNAPSHOTS):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(f"{SNAPSHOTS}/{machine}"):
                if name.startswith((_NEW, _OLD)):
                    found[f"{SNAPSHOTS}/{machine}/{name}"] = machine
    return found


def remove_kept(path: str) -> None:
    """Remove a snapshot's directory, or a tree, with all in it; none is fine."""
    pool.remove_path(f"{path}/tree")
    pool.remove_path(path)


async def _copy(origin: Origin, target: str, uid: int | None, log: str, progress: Progress) -> None:
    """Copy a tree, a layer or an image to ``target``, which is not there yet, or an empty layer."""
    if origin.storage == "btrfs":
        btrfs.snapshot(origin.path, target)
    elif origin.storage == "raw":
        from machines.host.sources.raw import copy_image

        await copy_image(origin.path, target, log=log, progress=progress)
        os.chmod(target, 0o600)
    else:
        if not os.path.isdir(target):
            os.mkdir(target, 0o755)
        if origin.storage == "overlay":
            from machines.host.storage import overlay

            assert origin.uid is not None
            assert uid is not None
            await overlay.copy_upper(
                origin.path, target, source_uid=origin.uid, target_uid=uid, log=log, progress=progress
            )
        else:
            from machines.host.storage import copying

            reflink = origin.storage == "reflink"
            await copying.copy(origin.path, target, reflink=reflink, log=log, progress=progress, total=None)


def _restored(name: str, storage: str) -> str:
    if storage == "overlay":
        return f"{LAYERS}/{name}/{_RESTORED}"
    return f"{pool.staging_path(name)}{'.raw' if storage == 'raw' else ''}"


def _exchange(one: str, other: str) -> None:
    """Let two paths of a file system change places in one step (renameat2(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), other)


def _names(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError:
        return []


def _prune(directory: str) -> None:
    """Remove the directory of a machine without snapshots, and those above it that are empty then."""
    with contextlib.suppress(OSError):
        for path in (directory, SNAPSHOTS, STORE):
            os.rmdir(path)
