# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines to archives and back: the tree with the owners it has inside, and the declaration with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.declare.fleet import check_machine, own_file, parse_fleet
from machines.declare.links import OUTSIDE, format_link
from machines.declare.ports import can_wake
from machines.declare.write import write_machine
from machines.errors import InvalidValue, MachctlError, NotFound, Unsupported, raise_all
from machines.model.frozen import replace
from machines.model.link import DEFAULT_LINKS
from machines.model.machine import Machine
from machines.model.names import check_new_name, machine_lock
from machines.model.source import Source
from machines.operations.copies import tree_of
from machines.operations.declared import readable_machines
from machines.operations.fleet import create
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan.steps import Plan
from machines.render.paths import bootstrap_log

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Progress

FORMATS = ("tar", "oci")


async def export(name: str, path: str, host: Host, progress: Progress, *, form: str) -> None:
    """Write machine ``name`` to ``path``, "-" for stdout: a tar archive, or an OCI image. Raises NotFound and more.

    A running machine is written as it is at one moment where its driver can take a snapshot, else as it is read.
    """
    check_ready(host, verb="export")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        observed = observe(host)
        record = tree_of(name, observed)
        tree = observed.trees[name]
        if tree.kind == "raw":
            raise Unsupported(f"machine {name} is a disk image already", hint=f"copy it: cp {tree.path} {path}")
        machine = readable_machines(host).get(name) or Machine(name, Source("image", name), own_file(name))
        declaration = write_machine(replace(machine, name=name))
        if record.storage == "overlay":
            host.storage.mount(name)
        snapshot = name in observed.running and tree.kind == "subvolume"
        root = tree.path
        try:
            if snapshot:
                root = await host.storage.copy_origin(
                    host.storage.origin_of_machine(name, "btrfs", base="", uid=None), name, uid=None,
                    log=bootstrap_log(name), progress=progress,
                )  # fmt: skip
            await host.archives.pack(
                root, path, form=form, name=name, declaration=declaration, payload=record.payload, progress=progress
            )
        finally:
            if snapshot:
                host.pool.remove_path(host.pool.staging_path(name))


# What gives a machine something of the host that others have not, or has the host do something.
GIVEN = ("binds", "devices", "capabilities", "system_call_filter", "nesting", "secrets", "after", "autostart")


async def bring(
    path: str,
    name: str | None,
    host: Host,
    reporter: Reporter,
    *,
    forget: bool,
    form: str | None,
    trust: bool,
    dry_run: bool,
) -> tuple[Machine, Plan, list[str], list[str]]:
    """Make a machine of an archive, declared as the archive says; give it, the plan that made it and what was left out.

    First what cannot be: ports that other machines here have, the start on demand where these were all, with ``forget``
    the host name. Then, unless whoever made the archive is to be ``trust``-ed, what would give the machine something of
    this host. Its tree is the archive's; without ``forget`` its identity, too, is the one it had.
    Raises NotFound, InvalidValue, Conflict, MachctlError.
    """
    check_ready(host, verb="import")
    if not os.path.exists(path):
        raise NotFound(f"there is no {path}", hint="give an archive that machctl export wrote, or a root tree's tar")
    kind = form or host.archives.kind(path)
    if kind == "raw":
        raise InvalidValue(f"{path} is no archive", hint=f"if it is a disk image: machctl create raw:{path} NAME")
    text = host.archives.declaration(path, form=kind)
    declared = _declared(text, path, kind, name)
    machine, left_out = _possible(declared, host)
    machine, withheld = (machine, []) if trust else _without_given(machine)
    if forget and machine.hostname:
        left_out.append(f"host name {machine.hostname}")
        machine = replace(machine, hostname=None)
    raise_all(check_machine(machine))
    # Of an archive that says nothing, its own tree is what is declared, and can be a base as any other.
    as_it_is = bool(text) or not forget
    taken = Machine(machine.name, Source(kind, path), machine.origin) if as_it_is else None
    plan = await create(machine, host, reporter, dry_run=dry_run, archive=taken, forget=forget)
    return machine, plan, left_out, withheld


def _possible(machine: Machine, host: Host) -> tuple[Machine, list[str]]:
    others = [port for other in readable_machines(host).values() for port in other.publish]
    left_out = [f"port {port}" for port in machine.publish if any(port.collides(other) for other in others)]
    ports = tuple(port for port in machine.publish if not any(port.collides(other) for other in others))
    machine = replace(machine, publish=ports)
    if machine.on_demand and not can_wake(machine):
        left_out.append("its start on demand")
        machine = replace(machine, on_demand=False, idle_stop=None)
    return machine, left_out


def _without_given(machine: Machine) -> tuple[Machine, list[str]]:
    left_out: list[str] = []
    for field in GIVEN:
        value, default = getattr(machine, field), getattr(Machine, field)
        if value != default:
            what = field.rstrip("s").replace("_", " ").replace("capabilitie", "capability")
            left_out += [f"{what} {each}" for each in value] if isinstance(value, tuple) else [what]
            machine = replace(machine, **{field: default})
    if machine.network == "host":
        return replace(machine, network="private", links=DEFAULT_LINKS), [*left_out, "the host's network"]
    links = tuple(link for link in machine.links if link.kind not in OUTSIDE)
    if links != machine.links:
        left_out += [f"link {format_link(link)}" for link in machine.links if link.kind in OUTSIDE]
        machine = replace(machine, links=links or DEFAULT_LINKS)
    return machine, left_out


def same_identity(name: str, host: Host) -> list[str]:
    """Name the other machines here whose machine ID is that of machine ``name``."""
    trees = {tree.name: tree for tree in host.pool.trees().values() if tree.kind != "raw"}
    ids = {other: (host.guests.read_file(tree.path, "/etc/machine-id") or "").strip() for other, tree in trees.items()}
    return sorted(other for other, found in ids.items() if found and other != name and found == ids.get(name))


def _declared(text: str, path: str, kind: str, name: str | None) -> Machine:
    """Give the machine that an archive says it is, or that can be told from its name."""
    source = Source(kind, path)
    if not text:
        guessed = name or source.machine_name()
        if guessed is None:
            raise InvalidValue(f"{path} does not say what it is called", hint=f"machctl import {path} NAME")
        return Machine(check_new_name(guessed), source, own_file(guessed))
    machines, errors = parse_fleet({path: text})
    raise_all(errors)
    if len(machines) != 1:
        raise MachctlError(f"{path} does not say which machine it is", hint="make one of it: machctl create tar:PATH")
    (machine,) = machines.values()
    chosen = check_new_name(name or machine.name)
    return replace(machine, name=chosen, origin=own_file(chosen), group="")
