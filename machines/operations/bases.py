# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bases: found by what shaped them, made where there is none, so that a second machine costs a copy."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from machines.errors import MachctlError, NotFound
from machines.model.base import IMPORTED, Base, find_base, newest
from machines.model.machine import Machine
from machines.model.request import SourceRequest, oci_architecture
from machines.operations.records import read_records
from machines.render.paths import bootstrap_log

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Progress

LOCK_DIRECTORY = "/run/machctl"


def known_base(machine: Machine, host: Host) -> Base | None:
    """Give the base that the tree of ``machine`` can be copied from, None where one has to be made.

    Raises NotFound for a source that is not there.
    """
    bases = host.storage.bases()
    if machine.source.kind == "image" and (named := find_base(bases, machine.source.reference)):
        return named
    shape = _shape(machine, host)
    return newest(bases, shape) if shape is not None else None


def is_told_apart(machine: Machine, host: Host) -> bool:
    """Tell whether what the source of ``machine`` produces now can be known from what it produced before."""
    return _shape(machine, host) is not None


async def wanted_base(machine: Machine, host: Host, progress: Progress) -> Base:
    """Give the base that the tree of ``machine`` can be copied from, and make it where there is none."""
    return known_base(machine, host) or await make_base(machine, host, progress)


async def make_base(
    machine: Machine,
    host: Host,
    progress: Progress,
    *,
    name: str = "",
    fresh: bool = False,
    as_is: bool = False,
    forgotten: bool = False,
) -> Base:
    """Have the source of ``machine`` produce a base and give it; with another machctl at the same, wait and take its.

    ``fresh`` makes a new one even if there is one. ``as_is`` makes one for this machine alone, whose identity is left
    in it unless it is to be ``forgotten``. Nothing is left where it fails. Raises what the source does.
    """
    began = time.time()
    _remove_half_made(host)
    # What cannot be told apart is made anew each time, and nobody waits for another's.
    shape = (None if as_is else _shape(machine, host)) or {"source": str(machine.source), "made": os.urandom(8).hex()}
    digest = _digest(shape)
    async with host.files.wait_lock(f"base-{digest[:12]}"):
        there = newest(host.storage.bases(), shape)
        if there and (not fresh or there.created > began):
            if name and there.name != name:
                host.storage.rename_base(there, name)
            return there._replace(name=name or there.name)
        # Who asks for an image by its name is to get the newest.
        name = name or (there.name if there else "")
        base_id = _free_id(digest, host)
        staged = host.storage.stage_base(base_id)
        source = f"{IMPORTED}{machine.name}" if as_is else str(machine.source)
        try:
            begun = Base(base_id, digest, source, 0, name=name, recipe=_values(machine), shape=shape)
            return await _fill(begun, staged, machine, host, progress, as_is=as_is, forgotten=forgotten)
        except BaseException as error:
            host.storage.remove_path(staged)
            if isinstance(error, OSError):
                raise MachctlError(f"{machine.source}: {error.strerror}: {error.filename}", hint="df, dmesg") from error
            raise


def _remove_half_made(host: Host) -> None:
    """Remove what killed runs left of bases; nobody comes back to it, and it may be what there is no room for."""
    for path, base in host.storage.base_leftovers().items():
        if not is_being_made(base, host):
            host.storage.remove_path(path)
            host.files.remove_file(f"{LOCK_DIRECTORY}/{_lock(base)}.lock")


def _lock(base: str) -> str:
    return f"base-{base.rsplit('-', 1)[0]}"


def is_being_made(base: str, host: Host) -> bool:
    """Tell whether a machctl is making the base of that id right now."""
    return host.files.is_locked(_lock(base))


async def _fill(
    base: Base, staged: str, machine: Machine, host: Host, progress: Progress, *, as_is: bool, forgotten: bool
) -> Base:
    tree = f"{staged}/tree"
    os.makedirs(os.path.dirname(bootstrap_log(machine.name)), mode=0o755, exist_ok=True)
    request = _request(machine, target=tree, scratch=staged)
    payload = await host.source(machine.source.kind).make(request, progress)
    raw = os.path.exists(f"{staged}/disk.raw")
    progress("keeping it", 0, None)
    if not raw and not as_is:
        from machines.operations.prepare import prepare

        prepare(tree, machine.source, host, init=payload is None)
    elif not raw and forgotten:
        from machines.operations.identity import forget

        forget(tree, host)
    if not raw and payload is not None:
        # nspawn takes nothing without it for a system, not even an image that is one program.
        host.guests.make_directory(tree, "/usr")
    release = {} if raw else host.os_release(leader=None, tree=tree)
    for entry in os.listdir(staged):
        if entry not in {"tree", "disk.raw"}:
            host.storage.remove_path(f"{staged}/{entry}")
    size, files = host.storage.measure(f"{staged}/disk.raw" if raw else tree)
    made = base._replace(
        created=time.time(),
        kind="raw" if raw else "tree",
        os=" ".join(part for part in (release.get("ID"), release.get("VERSION_ID")) if part),
        size=size,
        files=files,
        payload=payload,
    )
    host.storage.finish_base(made)
    return made


def _shape(machine: Machine, host: Host) -> dict[str, object] | None:
    """Give everything that shapes the tree of ``machine`` as it is once written in JSON, None where nobody can tell."""
    import json

    request = _request(machine, target="/nonexistent", scratch="/nonexistent")
    identity = host.source(machine.source.kind).identity(request)
    if identity is None:
        return None
    shape = {"source": str(machine.source), "architecture": request.architecture, **_values(machine), **identity}
    written: dict[str, object] = json.loads(json.dumps(shape))
    return written


def _values(machine: Machine) -> dict[str, object]:
    found: dict[str, object] = {"variant": machine.variant} if machine.source.bootstrapped else {}
    for key in ("mirror", "checksum", "insecure"):
        if value := getattr(machine, key):
            found[key] = value
    if machine.packages:
        found["packages"] = sorted(machine.packages)
    if machine.ssh_keys and machine.source.bootstrapped:
        found["ssh"] = True
    if machine.bootstrapper != "auto":
        found["bootstrapper"] = machine.bootstrapper
    if machine.keyring:
        found["keyring"] = {"file": machine.keyring, "sha256": _keyring_digest(machine.keyring)}
    return found


def _keyring_digest(path: str) -> str:
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise NotFound(f"keyring {path} cannot be read: {error.strerror}", hint="give the file with the keys") from None


def _digest(shape: dict[str, object]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def _free_id(digest: str, host: Host) -> str:
    taken = {*host.storage.bases(), *host.storage.base_leftovers().values()}
    # What lies over a base that somebody deleted must not come to lie over another one.
    taken |= {record.base for record in read_records(host).values()}
    taken |= {each.base for snapshots in host.storage.all_snapshots().values() for each in snapshots.values()}
    return next(f"{digest[:12]}-{number}" for number in range(1, 1 << 30) if f"{digest[:12]}-{number}" not in taken)


def _request(machine: Machine, *, target: str, scratch: str) -> SourceRequest:
    return SourceRequest(
        source=machine.source,
        target=target,
        scratch=scratch,
        log=bootstrap_log(machine.name),
        architecture=oci_architecture(os.uname().machine),
        packages=machine.packages,
        ssh=bool(machine.ssh_keys),
        variant=machine.variant,
        bootstrapper=machine.bootstrapper,
        mirror=machine.mirror,
        keyring=machine.keyring,
        checksum=machine.checksum,
        insecure=machine.insecure,
    )
