# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layers of overlay machines: what a machine changed of its base, in the ids of its own range.

Two .mount units make a tree of it: LAYERS/NAME/lower is the base, id-mapped to the machine's range
(X-mount.idmap= in mount(8)), and over that lies LAYERS/NAME/upper at the machine's place in the pool.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, NotPermitted
from machines.host.matching import matching
from machines.host.storage import capabilities, places, pool
from machines.model.ids import SIZE
from machines.model.names import is_machine_name

if TYPE_CHECKING:
    from machines.host.interfaces import Progress

OPTIONS = "index=off,metacopy=off,redirect_dir=on"
"""Mount options of every overlay of ours, for their defaults are the kernel build's.

index=on refuses an upper layer that was copied; with metacopy=on files of a layer would be nothing without their base;
without redirect_dir=on a guest that renames a directory of its base copies it.
"""

_NEW = ".new"
_OLD = ".old"

# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_SLAVE = 0x80000

_apart = False


def layer_path(name: str) -> str:
    """Give where the layer of machine ``name`` lies, with upper, work and lower in it."""
    return f"{places.LAYERS}/{name}"


def make_layer(name: str, uid: int) -> str:
    """Make an empty layer for machine ``name``, whose ids begin at ``uid``, and give its path.

    Whoever holds the machine's lock owns what was staged for it. Raises Conflict where it has one.
    """
    path, staged = layer_path(name), _beside(name, _NEW)
    if os.path.lexists(path):
        raise Conflict(f"machine {name} has a layer already: {path}", hint="machctl gc removes it if nobody uses it")
    pool.remove_path(staged)
    try:
        # No user of the host may reach the setuid programs of a machine.
        os.makedirs(places.STORE, mode=0o700, exist_ok=True)
        os.makedirs(places.LAYERS, mode=0o700, exist_ok=True)
        os.mkdir(staged, 0o700)
        for part in ("upper", "work", "lower"):
            os.mkdir(f"{staged}/{part}", 0o755)
            os.chmod(f"{staged}/{part}", 0o755)
        # It is the root directory that the guest sees.
        os.chown(f"{staged}/upper", uid, uid)
        os.rename(staged, path)
    except OSError as error:
        raise MachctlError(f"the layer {path} cannot be made: {error.strerror}") from error
    return path


def remove_layer(name: str) -> None:
    """Remove the layer of machine ``name``, out of sight at once; none is fine. Raises Conflict where it is mounted."""
    path, doomed = layer_path(name), _beside(name, _OLD)
    _refuse_mounts(path)
    pool.remove_path(doomed)
    if os.path.lexists(path):
        os.rename(path, doomed)
        pool.remove_path(doomed)


def rename_layer(old: str, new: str) -> None:
    """Give the layer of machine ``old`` to ``new``. Raises NotFound, and Conflict where it is mounted or taken."""
    if not os.path.isdir(layer_path(old)):
        raise NotFound(f"machine {old} has no layer: {layer_path(old)} is not there")
    if os.path.lexists(layer_path(new)):
        raise Conflict(f"machine {new} has a layer already: {layer_path(new)}", hint="choose another name")
    _refuse_mounts(layer_path(old))
    os.rename(layer_path(old), layer_path(new))


def layers() -> list[str]:
    """Give the names of the machines that have a layer, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(places.LAYERS) if is_machine_name(entry.name))
    except OSError:
        return []


def leftovers() -> dict[str, str]:
    """Give what interrupted runs left among the layers: path to the machine it was for."""
    found = {}
    for suffix in (_NEW, _OLD):
        for path in matching(f"{places.LAYERS}/.*{suffix}"):
            found[path] = os.path.basename(path)[1:].removesuffix(suffix)
    return found


async def copy_upper(
    source_upper: str, target_upper: str, *, source_uid: int, target_uid: int, log: str, progress: Progress
) -> None:
    """Copy an upper layer into the empty directory ``target_upper``, whiteouts and marks of overlayfs too.

    What belongs to the ids from ``source_uid`` on belongs to those from ``target_uid`` on in the copy: owners, ACLs
    and file capabilities. Raises MachctlError. See copying.copy for the rest.
    """
    from machines.host.storage.layer_copy import copy_plain

    if copy_plain(source_upper, target_upper, source_uid=source_uid, target_uid=target_uid):
        return
    from machines.host.storage.copying import copy_mounted

    if source_uid != target_uid:
        capabilities.require_idmap()
    # Whiteouts are the host root's own.
    ids = f"X-mount.idmap=b:0:0:1 b:{source_uid}:{target_uid}:{SIZE}" if source_uid != target_uid else ""
    await copy_mounted(source_upper, target_upper, options=ids, reflink="auto", log=log, progress=progress, total=None)


@contextmanager
def view(upper: str, base: str, uid: int) -> Iterator[str]:
    """Show an upper layer over its base, read-only, and give the path: ``upper`` itself, meanwhile.

    Only this process and its children see it: from the first time on they are in a mount namespace of their own, which
    is gone with them however they end (mount_namespaces(7)); mounts of the host still arrive there. To be called in the
    main thread. Files have the owners that the machine sees: its root is the host's there. Raises Unsupported where
    mount(8) cannot map owners, and MachctlError.
    """
    from machines.host.run import run

    for path in (upper, base):
        # They would end the path, or the option (mount(8), overlayfs in the kernel's documentation).
        if any(mark in path for mark in ',:\\"'):
            raise InvalidValue(f"{path} cannot be a layer of an overlay: its name has a mark of mount(8) in it")
    capabilities.require_idmap()
    own_namespace()
    lowered = f"lowerdir={upper}:{base},ro,nosuid,nodev,noexec,index=off,metacopy=off,redirect_dir=follow"
    with ExitStack() as stack:
        # Each on top of the one before, so that no directory has to be made for them and be left behind.
        for argv in (
            ["mount", "--bind", "-o", f"ro,X-mount.idmap=b:{uid}:0:{SIZE}", "--", upper, upper],
            ["mount", "-t", "overlay", "-o", lowered, "machctl", upper],
        ):
            run(argv)
            # Lazily: whoever still has a file open there keeps it.
            stack.callback(run, ["umount", "--lazy", "--", upper], check=False)
        yield upper


def own_namespace() -> None:
    """Put this process into a mount namespace of its own, once: what it mounts stays there (unshare(2))."""
    global _apart
    if _apart:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NotPermitted(f"no mount namespace can be made: {reason}", hint="run machctl as root")
    _apart = True


def is_apart() -> bool:
    """Tell whether this process has mounts of its own: what it unmounts then, the host keeps."""
    return _apart or _namespace("self") != _namespace("1")


def _namespace(process: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return ""


def _beside(name: str, suffix: str) -> str:
    return f"{places.LAYERS}/.{name}{suffix}"


def _refuse_mounts(path: str) -> None:
    if mounted := places.mounts_below(path):
        raise Conflict(f"{mounted[0]} is mounted", hint=f"stop the machine, then: umount {mounted[0]}")
