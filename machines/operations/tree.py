# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's tree: a copy of a base, with what is this machine's alone put into it before anybody sees it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from machines.errors import Conflict, MachctlError, NotFound
from machines.model.machine import Machine
from machines.operations.identity import forget
from machines.plan.steps import CopyTree, MakeTree, RestoreTree, TakeSnapshot
from machines.render.paths import bootstrap_log

if TYPE_CHECKING:
    from machines.host.interfaces import Guests, Host, Progress

# Marks of overlayfs on directories of a layer: nothing below shows through, or another directory than this one does.
_OPAQUE = "trusted.overlay.opaque"
_REDIRECT = "trusted.overlay.redirect"

# The kernel is sooner done with a directory of more.
_NAMES = 500


async def do_to_tree(step: MakeTree | CopyTree | TakeSnapshot | RestoreTree, host: Host, progress: Progress) -> None:
    """Do a step that makes, copies, keeps or replaces a tree."""
    match step:
        case MakeTree():
            await make_tree(step, host, progress)
        case CopyTree():
            await copy_tree(step, host, progress)
        case TakeSnapshot():
            await take_snapshot(step, host, progress)
        case RestoreTree():
            await restore_tree(step, host, progress)


async def make_tree(step: MakeTree, host: Host, progress: Progress) -> None:
    """Make the tree of a machine beside its place, ready to be placed; nothing is left where that fails."""
    base = host.storage.bases().get(step.base)
    if base is None:
        raise NotFound(f"base {step.base} is gone", hint="run the same command again: it is made anew")
    try:
        target = await host.storage.copy_base(
            base, step.machine, driver=step.storage, uid=step.uid, log=bootstrap_log(step.machine),
            progress=progress,
        )  # fmt: skip
        raw = base.kind == "raw"
        with host.storage.edit_image(target) if raw else nullcontext(target) as tree:
            # A directory that a layer brings takes the place of the base's, with its mode and owner.
            like = tree if raw else host.storage.base_path(base)
            if raw:
                # Nobody looked into the image before.
                forget(tree, host)
            _own(step.declared, tree, like, host)
    except BaseException as error:
        drop_staged(step.machine, step.storage, host)
        if isinstance(error, OSError):
            raise MachctlError(f"the tree of {step.machine}: {error.strerror}: {error.filename}") from error
        raise


async def copy_tree(step: CopyTree, host: Host, progress: Progress) -> None:
    """Make the tree of a machine a copy of another's beside its place; nothing is left where that fails."""
    log = bootstrap_log(step.machine)
    try:
        with held_still(step.held, host):
            target = await host.storage.copy_origin(step.origin, step.machine, uid=step.uid, log=log, progress=progress)
        _become(step, target, host)
    except BaseException as error:
        drop_staged(step.machine, step.origin.storage, host)
        if isinstance(error, OSError):
            raise MachctlError(f"the tree of {step.machine}: {error.strerror}: {error.filename}") from error
        raise


def _become(step: CopyTree, target: str, host: Host) -> None:
    """Make a copied tree the new machine's."""
    if not step.forget:
        return
    if step.origin.storage == "overlay" and (base := host.storage.bases().get(step.origin.base)):
        alone: Any = SimpleNamespace(guests=_Alone(host.storage.base_path(base), host.guests))
        with suppress(_Entangled):
            # Mounting it takes longer than all else. Where it has to be after all, what was done here is done again.
            forget(target, alone)
            return
    with _opened(step, target, host) as tree:
        forget(tree, host)


def _opened(step: CopyTree, target: str, host: Host) -> AbstractContextManager[str]:
    if step.origin.storage == "overlay":
        return host.storage.edit_layer(step.machine, step.uid or 0)
    return host.storage.edit_image(target) if step.origin.storage == "raw" else nullcontext(target)


class _Entangled(Exception):
    """What is to be done to a layer has to do with what is below it, and overlayfs does that best itself."""


class _Alone:
    """As much of machines.host.interfaces.Guests as it takes to change a layer that is not mounted over its ``base``.

    It is sure of what it does where each directory lies over that of the same path, as far as there are both, and where
    nothing of the base has to be hidden; else it raises _Entangled.
    """

    def __init__(self, base: str, guests: Guests) -> None:
        self._base = base
        self._guests = guests

    def exists(self, tree: str, path: str) -> bool:
        upper, base = self._find(tree, path)
        if stat.S_ISLNK(upper or base):
            raise _Entangled
        return _is_seen(upper, base)

    def list_directory(self, tree: str, path: str) -> list[str]:
        upper, base = self._find(tree, path)
        if stat.S_ISLNK(upper or base):
            raise _Entangled
        if not _is_seen(upper, base):
            return []
        names = {name for root in (tree, self._base) for name in self._guests.list_directory(root, path)}
        if len(names) > _NAMES:
            raise _Entangled
        return sorted(name for name in names if _is_seen(*self._find(tree, f"{path}/{name}")))

    def remove_file(self, tree: str, path: str) -> None:
        if self._is_removable(tree, path):
            self._guests.remove_file(tree, path)

    def remove_tree(self, tree: str, path: str) -> None:
        if self._is_removable(tree, path):
            self._guests.remove_tree(tree, path)

    def write_file(self, tree: str, path: str, text: str, *, mode: int = 0o644) -> None:
        self._make_room(tree, path)
        self._guests.write_file(tree, path, text, mode=mode)

    def link(self, tree: str, path: str, target: str) -> None:
        self._make_room(tree, path)
        self._guests.link(tree, path, target)

    def _is_removable(self, tree: str, path: str) -> bool:
        upper, base = self._find(tree, path)
        if not _is_seen(upper, base):
            return False
        if base:
            # It would come to light, and takes a whiteout.
            raise _Entangled
        return True

    def _make_room(self, tree: str, path: str) -> None:
        if any(map(stat.S_ISDIR, self._find(tree, path))):
            raise _Entangled
        self._guests.copy_directories(tree, self._base, path)

    def _find(self, tree: str, path: str) -> tuple[int, int]:
        """Give the modes of what the layer and the base have at ``path``, 0 for nothing and for what is hidden."""
        upper, base, done, shown = 0, 0, "", True
        for part in path.strip("/").split("/"):
            done += f"/{part}"
            upper, opaque = self._look(tree, done)
            base = self._look(self._base, done)[0] if shown else 0
            if done == path:
                break
            if not upper and not base:
                return 0, 0
            if not stat.S_ISDIR(upper or base):
                raise _Entangled
            shown = stat.S_ISDIR(base) and not opaque
        return upper, base

    def _look(self, tree: str, path: str) -> tuple[int, bool]:
        """Give the mode of what lies at ``path``, and whether it is a directory that hides what is below it."""
        try:
            fd = self._guests.open_in_root(tree, path, flags=os.O_PATH | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return 0, False
        try:
            status, seen = os.fstat(fd), f"/proc/self/fd/{fd}"
            marks = os.listxattr(seen) if stat.S_ISDIR(status.st_mode) else []
            opaque = os.getxattr(seen, _OPAQUE) if _OPAQUE in marks else b""
        finally:
            os.close(fd)
        # It was renamed and lies over another one; or it is marked in a way that came later; or it is a device.
        if _REDIRECT in marks or opaque not in {b"", b"y"} or status.st_rdev:
            raise _Entangled
        return status.st_mode, bool(opaque)


def _is_seen(upper: int, base: int) -> bool:
    """Tell whether there is something for the machine: a device is a whiteout here."""
    return bool(upper or base) and not stat.S_ISCHR(upper)


async def take_snapshot(step: TakeSnapshot, host: Host, progress: Progress) -> None:
    """Keep how a machine's tree is now."""
    log, taken = bootstrap_log(step.machine), False
    try:
        with held_still(step.held, host):
            await host.storage.take_snapshot(step.snapshot, step.origin, log=log, progress=progress)
            taken = True
    except MachctlError:
        if taken:
            host.storage.remove_snapshot(step.snapshot)
        raise


async def restore_tree(step: RestoreTree, host: Host, progress: Progress) -> None:
    """Put a copy of a snapshot in the place of a machine's tree."""
    log = bootstrap_log(step.machine)
    try:
        await host.storage.stage_restored(step.snapshot, step.machine, log=log, progress=progress)
    except BaseException:
        host.pool.remove_path(host.pool.staging_path(step.machine))
        raise
    if step.machine in host.running():
        host.pool.remove_path(host.pool.staging_path(step.machine))
        raise Conflict(
            f"machine {step.machine} was started in the meantime", hint=f"stop it first: machctl stop {step.machine}"
        )
    host.storage.exchange_restored(step.machine, step.snapshot.storage)


@contextmanager
def held_still(name: str, host: Host) -> Iterator[None]:
    """Hold a running machine still while its files are copied one by one; "" is none.

    Raises NotRunning, MachctlError where it does not stand still, and Conflict where somebody let it go on meanwhile.
    """
    if not name or not host.freezer.freeze(name):
        yield
        return
    try:
        yield
        if not host.freezer.is_frozen(name):
            # What systemd stops goes on first: it is told to end, and may write until then.
            raise Conflict(f"machine {name} was stopped while it was copied", hint="run the same command again")
    finally:
        host.freezer.thaw(name)


def drop_staged(name: str, storage: str, host: Host) -> None:
    """Remove what was made of a tree that never came to its place."""
    host.pool.remove_path(host.pool.staging_path(name))
    host.pool.remove_path(f"{host.pool.staging_path(name)}.raw")
    if storage == "overlay":
        host.storage.remove_layer(name)


def _own(machine: Machine, tree: str, like: str, host: Host) -> None:
    if machine.ssh_keys:
        path = "/root/.ssh/authorized_keys"
        host.guests.copy_directories(tree, like, path)
        host.guests.write_file(tree, path, "\n".join(machine.ssh_keys) + "\n", mode=0o600)
    if machine.environment and (machine.read_only or machine.volatile):
        from machines.operations.places import PLACE
        from machines.render.paths import GUEST_MANAGER_FILE

        # Bases from before do not have it.
        if not host.guests.exists(like, GUEST_MANAGER_FILE):
            host.guests.copy_directories(tree, like, GUEST_MANAGER_FILE)
            host.guests.write_file(tree, GUEST_MANAGER_FILE, PLACE)
