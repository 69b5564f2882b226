# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's tree: a copy of a base, with what is this machine's alone put into it before anybody sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotFound
from machines.model.machine import Machine
from machines.operations.identity import forget
from machines.plan.steps import CopyTree, MakeTree, RestoreTree, TakeSnapshot
from machines.render.paths import bootstrap_log

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Progress


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
            _own(step.declared, step.guest_files, tree, like, host)
    except BaseException as error:
        drop_staged(step.machine, step.storage, host)
        if isinstance(error, OSError):
            raise MachctlError(f"the tree of {step.machine}: {error.strerror}: {error.filename}") from error
        raise


async def copy_tree(step: CopyTree, host: Host, progress: Progress) -> None:
    """Make the tree of a machine a copy of another's beside its place; nothing is left where that fails."""
    log = bootstrap_log(step.machine)
    try:
        with _held_still(step.running, host):
            target = await host.storage.copy_origin(step.origin, step.machine, uid=step.uid, log=log, progress=progress)
        _become(step, target, host)
    except BaseException as error:
        drop_staged(step.machine, step.origin.storage, host)
        if isinstance(error, OSError):
            raise MachctlError(f"the tree of {step.machine}: {error.strerror}: {error.filename}") from error
        raise


def _become(step: CopyTree, target: str, host: Host) -> None:
    """Make a copied tree the new machine's."""
    with _opened(step, target, host) as tree:
        if step.forget:
            forget(tree, host)
        for path, text in step.guest_files.items():
            host.guests.write_file(tree, path, text)


def _opened(step: CopyTree, target: str, host: Host) -> AbstractContextManager[str]:
    if step.origin.storage == "overlay":
        # What a base has and a layer is to lose has to be looked at through both.
        return host.storage.edit_layer(step.machine, step.uid or 0)
    return host.storage.edit_image(target) if step.origin.storage == "raw" else nullcontext(target)


async def take_snapshot(step: TakeSnapshot, host: Host, progress: Progress) -> None:
    """Keep how a machine's tree is now."""
    log = bootstrap_log(step.machine)
    with _held_still(step.running, host):
        await host.storage.take_snapshot(step.snapshot, step.origin, log=log, progress=progress)


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
def _held_still(unit: str, host: Host) -> Iterator[None]:
    """Freeze a running machine while its files are copied one by one (org.freedesktop.systemd1.Manager.FreezeUnit)."""
    if not unit:
        yield
        return
    try:
        host.units.freeze(unit)
        yield
    finally:
        host.units.thaw(unit)


def drop_staged(name: str, storage: str, host: Host) -> None:
    """Remove what was made of a tree that never came to its place."""
    host.pool.remove_path(host.pool.staging_path(name))
    host.pool.remove_path(f"{host.pool.staging_path(name)}.raw")
    if storage == "overlay":
        host.storage.remove_layer(name)


def _own(machine: Machine, guest_files: dict[str, str], tree: str, like: str, host: Host) -> None:
    files = {path: (text, 0o644) for path, text in guest_files.items()}
    if machine.ssh_keys:
        files["/root/.ssh/authorized_keys"] = ("\n".join(machine.ssh_keys) + "\n", 0o600)
    for path, (text, mode) in files.items():
        host.guests.copy_directories(tree, like, path)
        host.guests.write_file(tree, path, text, mode=mode)
