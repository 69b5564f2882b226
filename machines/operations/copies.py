# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of machines: clone, rename, snapshot, restore."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from machines.declare.fleet import check_machine as check_declared
from machines.declare.fleet import own_file
from machines.declare.links import OUTSIDE
from machines.errors import Conflict, InvalidValue, NotFound, raise_all
from machines.model.frozen import replace
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.names import check_new_name, link_network, machine_lock
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.model.snapshot import Origin, Snapshot, timed_name
from machines.model.source import Source
from machines.operations.declared import as_declared, declared_machines, readable_machines
from machines.operations.execute import execute
from machines.operations.fleet import make_planned
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.records import read_networks, read_records
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.check import check_machine, check_taken
from machines.plan.check_host import check_host
from machines.plan.claims import closed_like
from machines.plan.declared import plan_needed
from machines.plan.machine import Copy, plan_machine
from machines.plan.rename import check_rename, plan_rename
from machines.plan.steps import Plan
from machines.render.paths import rollout_file, settings_file

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def clone(
    source: str,
    name: str,
    host: Host,
    reporter: Reporter,
    *,
    forget: bool = True,
    snapshot: str = "",
    machine: Machine | None = None,
    intent: str = "new",
    command: Sequence[str] = (),
    user: str | None = None,
    dry_run: bool = False,
) -> tuple[Plan, list[str]]:
    """Make machine ``name`` a copy of ``source``, or of a snapshot of it; give the plan and what it does not share.

    With ``forget`` it gets an identity of its own: machine ID, host name, ssh host keys. An address, a MAC address and
    published ports are its own in any case. ``machine`` is how it is declared, if not as the source is, ``intent`` what
    is recorded of it, and ``command`` what one without an init is to run, as ``user``. Raises NotFound for a source
    that is not there, Conflict for a name that is taken.
    """
    check_ready(host, verb="clone")
    check_new_name(name)
    if name == source:
        raise InvalidValue(f"{name} cannot be a copy of itself", hint="give the copy another name")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        # Whoever else copies the source is waited for.
        async with host.files.wait_lock(machine_lock(source)):
            async with host.files.fleet_lock():
                declared = declared_machines(host)
                trees = host.pool.trees()
                records = read_records(host) if source not in trees else {}
                tree_of(source, Observed(trees=trees, records=records))
                like = declared.get(source) or Machine(source, Source("image", source), "")
                wanted, left_out = _cloned(like, name, host.facts.links(), read_networks(host)), []
                if machine is not None:
                    # What it was made of is what the other one was made of; else nobody could make it anew.
                    wanted = replace(
                        machine, source=like.source, checksum=like.checksum, insecure=like.insecure, mirror=like.mirror
                    )
                if machine is None:
                    left_out = _left_out(like, wanted)
                wanted, declaration = as_declared(wanted, host, whole=machine is None)
                # With what the fleet's defaults add to it, which is looked at as well.
                observed = observe(host, [wanted], kernel=False)
                settings = settings_file(source)
                if source not in declared and settings in observed.files:
                    left_out.append(f"the settings in {settings}")
                raise_all(
                    check_host(observed, verb="clone")
                    or check_declared(wanted)
                    or [*check_taken(name, observed, declared), *check_machine(wanted, observed, declared)]
                )
                networks, observed = plan_needed(wanted, observed)
                copy = _copy(source, snapshot, observed, host, forget=forget)
                if copy.payload:
                    copy = replace(copy, payload=copy.payload.told(command, user))
                made = plan_machine(wanted, observed, declaration=declaration, copy=copy, intent=intent)
                plan = networks + closed_like(made, like.origin)
            if not dry_run:
                await make_planned(wanted, plan, host, reporter)
    return plan, left_out


async def rename(old: str, new: str, host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Call machine ``old`` by the name ``new``; its address stays its own. Raises Conflict while it runs."""
    check_ready(host, verb="rename")
    check_new_name(new)
    if old == new:
        raise InvalidValue(f"{old} is called {new} already", hint="give another name")
    with (
        host.files.lock(machine_lock(old), what=f"machine {old}"),
        host.files.lock(machine_lock(new), what=f"machine {new}"),
    ):
        async with host.files.fleet_lock():
            declared = readable_machines(host, name=old)
            observed = observe(host)
            tree_of(old, observed)
            errors = check_rename(old, new, observed, declared)
            if old in declared or new not in declared:
                errors += check_taken(new, observed, declared)
            elif new in observed.trees:
                errors.append(Conflict(f"machine {new} exists already", hint="choose another name"))
            if old in observed.running:
                # It is stopped when nothing else is left to be done.
                errors.append(Conflict(f"machine {old} is running", hint=f"stop it first: machctl stop {old}"))
            raise_all(errors)
            plan = plan_rename(old, new, observe(host, [declared[old]] if old in declared else []), declared)
            if not dry_run:
                await execute(plan, host, reporter=reporter)
    return plan


async def take(
    name: str, snapshot: str, host: Host, reporter: Reporter, *, dry_run: bool, note: str = "", prefix: str = ""
) -> Snapshot:
    """Take a snapshot of a machine and give it; it is called by the time behind ``prefix`` if ``snapshot`` is empty.

    Raises NotFound, Conflict.
    """
    check_ready(host, verb="snapshot")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            observed = observe(host)
            called = snapshot or timed_name(host.storage.snapshots_of(name), prefix)
            step = _take(name, called, observed, host, note=note)
        if not dry_run:
            await execute([step], host, reporter=reporter)
    return step.snapshot


async def drop(name: str, snapshots: list[str], host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Remove snapshots of a machine; give the plan. Raises NotFound for each that there is not."""
    check_ready(host, verb="snapshot")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        plan: Plan = [
            steps.RemoveSnapshot(reason="asked for", machine=name, snapshot=find_snapshot(name, snapshot, host))
            for snapshot in dict.fromkeys(snapshots)
        ]
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def restore(
    name: str, snapshot: str, host: Host, reporter: Reporter, *, dry_run: bool, keep: bool = True
) -> tuple[Plan, str]:
    """Let the tree of a machine be what it was; give the plan, and the snapshot that was taken before, to go back to.

    A running machine is stopped and started again. Without ``keep`` what it was before is lost.
    """
    check_ready(host, verb="restore")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            observed = observe(host)
            tree_of(name, observed, snapshot=snapshot)
            found = find_snapshot(name, snapshot, host)
            own = origin_of(name, observed, host)
            if found.storage != own.storage or (found.storage == "overlay" and found.base != own.base):
                raise Conflict(
                    f"snapshot {snapshot} is of an earlier {name}, which was made of base {found.base or 'another'}",
                    hint=f"have it back beside this one: machctl clone {name} NEW --snapshot {snapshot}",
                )
            running = name in observed.running
            stopped = replace(observed, running={})
            plan: Plan = []
            if running:
                plan.append(steps.StopMachine(reason="its tree changes", machine=name, name=name))
            before = timed_name(host.storage.snapshots_of(name), "before-restore-") if keep else ""
            if keep:
                plan.append(_take(name, before, stopped, host, note=f"before snapshot {snapshot} was restored"))
            if rollout_file(name) in observed.files:
                from machines.plan.rollout import plan_restored

                plan += plan_restored(name, snapshot, observed.files)
            plan.append(steps.RestoreTree(reason="asked for", machine=name, snapshot=found))
            if disk := tree_of(name, observed).disk:
                plan.append(steps.SetDisk(reason="another tree knows no limit yet", machine=name, size=disk))
            if not observed.resolved and name in observed.records and observed.records[name].addresses:
                reason = "the snapshot has the names of its time"
                plan.append(steps.KeepNames(reason=reason, machine=name, guests=(name,)))
            if running:
                # It is the last one: see _restored().
                plan.append(steps.StartMachine(reason="it was running", machine=name, name=name))
        if not dry_run:
            await _restored(name, plan, host, reporter, running=running)
    return plan, before


async def _restored(name: str, plan: Plan, host: Host, reporter: Reporter, *, running: bool) -> None:
    try:
        await execute(plan, host, reporter=reporter)
    except BaseException:
        # Its tree is whole, the old one or the other: who ran before goes on.
        if running and name not in host.running():
            await execute([plan[-1]], host, reporter=reporter.quietly())
        raise


def find_snapshot(name: str, snapshot: str, host: Host) -> Snapshot:
    """Give a snapshot of a machine. Raises NotFound (with those there are) where it has none of that name."""
    found = host.storage.snapshots_of(name)
    if snapshot not in found:
        hint = f"it has {', '.join(found)}" if found else f"it has none; take one: machctl snapshot create {name}"
        raise NotFound(f"machine {name} has no snapshot {snapshot}", hint=hint)
    return found[snapshot]


def tree_of(name: str, observed: Observed, *, snapshot: str = "SNAPSHOT") -> Record:
    """Give what is recorded of a machine that has a tree, of one that others made what can be told.

    Raises NotFound, with what brings one back of which only snapshots are kept.
    """
    if name not in observed.trees:
        from machines.plan.prune import PRUNED, had_back

        record = observed.records.get(name)
        if record is not None and record.intent == PRUNED:
            raise NotFound(f"machine {name} was pruned; snapshots of it are kept", hint=had_back(name, snapshot))
        raise NotFound(f"there is no machine {name} with a tree", hint="machctl list shows the machines there are")
    return observed.records.get(name) or Record(name)


def _take(name: str, snapshot: str, observed: Observed, host: Host, *, note: str) -> steps.TakeSnapshot:
    origin = origin_of(name, observed, host)
    return steps.TakeSnapshot(
        reason="asked for" if not note else "so that this can be undone",
        machine=name,
        snapshot=Snapshot(name, snapshot, time.time(), origin.storage, origin.base, origin.uid, note),
        origin=origin,
        held=held(name, origin, observed),
    )


def origin_of(name: str, observed: Observed, host: Host) -> Origin:
    """Give what a copy of machine ``name`` is a copy of."""
    record = tree_of(name, observed)
    return host.storage.origin_of_machine(name, record.storage, base=record.base, uid=record.uid)


def _copy(source: str, snapshot: str, observed: Observed, host: Host, *, forget: bool) -> Copy:
    record = tree_of(source, observed)
    if snapshot:
        origin = host.storage.origin_of_snapshot(find_snapshot(source, snapshot, host))
        return Copy(f"{source}, snapshot {snapshot},", origin, record.payload, forget)
    origin = origin_of(source, observed, host)
    return Copy(source, origin, record.payload, forget, held(source, origin, observed))


def held(name: str, origin: Origin, observed: Observed) -> str:
    """Give the machine, if it has to be held still while its files are copied one by one.

    A btrfs snapshot is of one moment.
    """
    return name if name in observed.running and origin.storage != "btrfs" else ""


def _cloned(machine: Machine, name: str, links: Container[str], networks: Container[str]) -> Machine:
    """Give the declaration of a copy. Without ports nothing could start it on demand."""
    own_links = tuple(_cloned_link(link, machine.name, links, networks) for link in machine.links)
    own = replace(machine, name=name, origin=own_file(name), group="", links=own_links, publish=(), hostname=None)
    return replace(own, on_demand=False, idle_stop=None)


def _cloned_link(link: Attachment, name: str, links: Container[str], networks: Container[str]) -> Attachment:
    """Give a link without what only one machine can have. On a network of others nobody here knows a free address."""
    link = replace(link, mac=None)
    network = link_network(link, name)
    theirs = network in links and network not in networks and link.kind != "veth"
    if link.kind in OUTSIDE or link.vlan is not None or theirs:
        return link
    return replace(link, addresses=(), gateway=None)


def _left_out(machine: Machine, copy: Machine) -> list[str]:
    found = [f"port {port}" for port in machine.publish]
    found += ["its start on demand"] * machine.on_demand
    for link, own in zip(machine.links, copy.links, strict=True):
        found += [f"address {address}" for address in link.addresses if address not in own.addresses]
        found += [f"MAC address {link.mac}"] if link.mac else []
    return [*found, f"host name {machine.hostname}"] if machine.hostname else found
