# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rollout is made of: a stand-in for a machine, its ports led there and back, and the machine as it was."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from machines.declare.values import parse_publish
from machines.errors import Conflict, MachctlError, Unsupported
from machines.model.frozen import replace
from machines.model.health import Health
from machines.model.machine import Machine, Publish
from machines.model.names import link_network, machine_unit
from machines.model.observed import Host, Record
from machines.model.rollout import (
    FAILED,
    REPLACING,
    UNDOING,
    Before,
    Generation,
    Rollout,
    read_rollout,
    stand_in_name,
    write_rollout,
)
from machines.model.snapshot import Origin, Snapshot, is_timed_name
from machines.plan import steps
from machines.plan.kinds import RECREATE, RESTART, heavier
from machines.plan.owned import owned_files
from machines.plan.ports import is_port_unit
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.placement import Placement
from machines.render.redirect import addresses_of, redirect_rules, redirect_text, same_port

SNAPSHOT = "rollout-"
"""What the name of the snapshot of a machine begins with that is made anew."""

UNDONE_SNAPSHOT = "undone-"
"""What that of a tree begins with that somebody gave up for the one of before; nothing removes it by itself."""

# Beside what its probe says of itself: how long a machine has to boot and to answer.
BOOT_SECONDS = 60


def is_rolled(kind: str) -> bool:
    """Tell whether a change of this kind keeps a machine from answering for a moment."""
    return heavier(kind, RESTART) == kind and kind in {RESTART, RECREATE}


def check_rollout(machine: Machine, record: Record | None, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give why a machine cannot have a stand-in; ``record`` is what it was given up to now."""
    name = machine.name
    alone = [
        bind.source for bind in machine.binds if not bind.read_only and not _others_write(name, bind.source, declared)
    ]
    if alone:
        return [
            Unsupported(
                f"machine {name} writes into {alone[0]} as the only machine, and a rollout would have two of it there",
                hint=f"machctl apply {name} stops it first; or bind it read-only ({alone[0]}:...:ro)",
            )
        ]
    if machine.on_demand:
        return [
            Unsupported(
                f"machine {name} is started on demand, and a rollout would have two of it",
                hint=f"machctl apply {name} does it: connections wait until it is there again",
            )
        ]
    networks = [link_network(link, name) for link in machine.links]
    known = record is not None and record.addresses and any(bridge in record.addresses for bridge in networks)
    if machine.network != "private" or not known:
        return [
            Unsupported(
                f"machine {name} has no address that machctl gave it, and so nothing can be led to another one",
                hint=f"put it on a network of machctl's (--bridge br0), or: machctl apply {name}",
            )
        ]
    if any(link.kind == "interface" for link in machine.links):
        return [
            Unsupported(
                f"machine {name} has an interface of the host, which a second one cannot have",
                hint=f"machctl apply {name}",
            )
        ]
    return []


def _others_write(name: str, source: str, declared: Mapping[str, Machine]) -> bool:
    """Tell whether a file or directory of the host is bound to be written by another machine than ``name`` too."""
    return any(
        bind.source == source and not bind.read_only
        for other in declared.values()
        if other.name != name
        for bind in other.binds
    )


def stand_in_of(machine: Machine, name: str) -> Machine:
    """Give what stands in for a machine: all that it is, but for what only one machine can have."""
    # On a network of others nobody here knows a free address: it asks for one there.
    links = tuple(replace(link, mac=None, addresses=(), gateway=None) for link in machine.links)
    return replace(
        machine, name=name, origin=paths.rollout_file(machine.name), group="", links=links, publish=(),
        on_demand=False, idle_stop=None, autostart=False,
    )  # fmt: skip


def await_ready(
    name: str,
    health: Health | None,
    record: Record,
    ports: tuple[int, ...],
    seconds: float | None,
    *,
    why: str,
    without6: bool = False,
) -> Plan:
    """Give the step that waits until a machine, or its stand-in, does its work at the addresses of ``record``.

    ``without6`` leaves out that of IPv6, which the other one of the two does not have inside either.
    """
    address, address6 = addresses_of(record)
    limit = seconds or BOOT_SECONDS + (
        health.start_period + health.retries * (health.interval + health.timeout) if health else 0
    )
    return [
        steps.AwaitReady(
            reason=why, machine=name, name=name, seconds=limit, healthy=health is not None, ports=ports,
            addresses=tuple(filter(None, (address, None if without6 and address else address6))),
        )
    ]  # fmt: skip


def guest_ports(publish: Iterable[Publish]) -> tuple[int, ...]:
    """Give the TCP ports of a machine that are published, inside."""
    ports = (port.guest + offset for port in publish if port.protocol == "tcp" for offset in range(port.count))
    return tuple(dict.fromkeys(ports))


def expected_ports(machine: Machine, old: Collection[Publish], answering: Collection[int]) -> tuple[int, ...]:
    """Give the ports on which a new generation has to answer: all but those on which the old one does not."""
    found: dict[int, None] = {}
    for port in machine.publish:
        before = same_port(port, old)
        for offset in range(port.count if port.protocol == "tcp" else 0):
            if before is None or before.guest + offset in answering:
                found[port.guest + offset] = None
    return tuple(found)


def old_ports(record: Record) -> tuple[Publish, ...]:
    """Give the ports that a machine has published up to now."""
    return tuple(map(parse_publish, record.ports))


def plan_move(machine: Machine, stand_in: Machine, record: Record, placement: Placement) -> Plan:
    """Give the steps that lead all new connections to the stand-in of a machine; those there are stay where they are.

    ``record`` is what the machine has been given up to now, ``placement`` that of the stand-in. The rules are gone with
    the next boot, and so is the stand-in.
    """
    rules = redirect_rules(machine, stand_in, old_ports(record), record, placement)
    reason = f"{stand_in.name} answers in its place"
    text = redirect_text(machine.name, stand_in.name, rules)
    return [
        steps.WriteFile(reason=reason, machine=machine.name, path=paths.redirect_file(machine.name), text=text),
        steps.LoadNat(reason=reason, machine=machine.name),
    ]


def plan_return(name: str, *, why: str) -> Plan:
    """Give the steps that lead new connections to the machine itself again."""
    return [
        steps.RemoveFile(reason=why, machine=name, path=paths.redirect_file(name)),
        steps.LoadNat(reason=why, machine=name),
    ]


def replacing(name: str, plan: Plan, host: Host, *, snapshot: str) -> tuple[Plan, Plan]:
    """Give the plan of a machine without what would close its ports, and what is left for when they are its again.

    The snapshot that it takes is called ``snapshot``; one of that name that is there already is of the same tree.
    """
    gone = {
        step.path.rpartition("/")[2] for step in plan if isinstance(step, steps.RemoveFile) and is_port_unit(step.path)
    }
    taken = {each.name for each in host.snapshots.get(name, ())}
    done: Plan = []
    later: Plan = []
    for step in plan:
        if isinstance(step, steps.ClosePorts):
            units = tuple(unit for unit in step.units if unit in gone)
            done += [replace(step, units=units)] if units else []
        elif isinstance(step, steps.OpenPorts) and step.restart:
            later.append(step)
        elif isinstance(step, steps.TakeSnapshot):
            kept = step.snapshot._replace(name=snapshot)
            done += [] if snapshot in taken else [replace(step, snapshot=kept)]
        else:
            done.append(step)
            later += _again(step)
    if not any(isinstance(step, (steps.StartMachine, steps.RestartMachine)) for step in done):
        done.append(steps.StartMachine(reason="it was running", machine=name, name=name))
    return done, later


def _again(step: steps.Step) -> Plan:
    """What passes on connections does so as it was told when it was started."""
    if isinstance(step, steps.WriteFile) and is_port_unit(step.path) and step.path.endswith(".service"):
        unit = step.path.rpartition("/")[2]
        return [steps.StopUnit(reason="its port is published otherwise", machine=step.machine, unit=unit)]
    return []


def before_of(name: str, host: Host, *, record: str, snapshot: str, ports: tuple[int, ...]) -> Before:
    """Give what is to be known of a machine to have it back as it is: ``record`` is the text of what it was given."""
    files = {path: host.files[path] for path in owned_files(name, host.files)}
    return Before(files, record, snapshot, enabled=host.enabled.get(name, False), ports=ports)


def check_given(name: str, before: Before, records: Mapping[str, Record]) -> list[MachctlError]:
    """Give what a machine had before and another one has been given since, by which two would have it."""
    old = json.loads(before.record)
    errors: list[MachctlError] = []
    for other in records.values():
        if other.name in {name, stand_in_name(name)}:
            continue
        theirs = {*other.addresses.values(), *other.addresses6.values()}
        had = {*old.get("addresses", {}).values(), *old.get("addresses6", {}).values()}
        what = [f"address {each}" for each in sorted(theirs & had)]
        ports = [parse_publish(text) for text in other.ports]
        given = map(parse_publish, old.get("ports", ()))
        what += [f"port {port.shown}" for port in given if any(port.collides(each) for each in ports)]
        what += [f"user ID {other.uid}"] if other.uid is not None and other.uid == old.get("uid") else []
        errors += [
            Conflict(
                f"machine {name} cannot be what it was: machine {other.name} has its {each} by now",
                hint=f"take that from {other.name}, or change {name} in its file: machctl rollout {name}",
            )
            for each in what[:1]
        ]
    return errors


def check_restored(state: Rollout) -> list[MachctlError]:
    """Give what says that a tree which was put there since the rollout would be lost with it."""
    name, before = state.name, state.current.before
    if not state.restored or before is None or not before.snapshot:
        return []
    return [
        Conflict(
            f"the tree of {name} was restored from snapshot {state.restored} since its rollout; undo would replace it",
            hint=f"to do so all the same, that tree being kept as a snapshot: machctl rollout undo --force {name}",
        )
    ]


def plan_restored(name: str, snapshot: str, files: Mapping[str, str]) -> Plan:
    """Give the step that notes that a machine's tree is that of a snapshot, where a rollout would change it back."""
    state = read_rollout(files.get(paths.rollout_file(name), ""))
    if state is None or state.current.before is None or not state.current.before.snapshot:
        return []
    text = write_rollout(state._replace(restored=snapshot))
    reason = "a rollout undone would take it back"
    return [steps.WriteFile(reason=reason, machine=name, path=paths.rollout_file(name), text=text, mode=0o600)]


def plan_restore(
    name: str, before: Before, host: Host, *, snapshot: Snapshot | None, origin: Origin | None, why: str
) -> tuple[Plan, Plan]:
    """Give the steps that make a machine what it was, but for its start; and what is left for when it has its ports.

    Its tree becomes a copy of ``snapshot``, which ``origin`` is, or stays without one.
    """
    own = owned_files(name, host.files)
    # It may be about to be started again for the third time; then nobody has registered it.
    plan: Plan = [steps.StopUnit(reason=why, machine=name, unit=machine_unit(name))]
    gone = [path for path in own if path not in before.files]
    closed = tuple(path.rpartition("/")[2] for path in gone if is_port_unit(path))
    plan += [steps.ClosePorts(reason=why, machine=name, units=closed)] if closed else []
    changed = [path for path, text in before.files.items() if host.files.get(path) != text]
    plan += [steps.RemoveFile(reason=why, machine=name, path=path) for path in gone]
    write: Plan = [steps.WriteFile(reason=why, machine=name, path=path, text=before.files[path]) for path in changed]
    plan += write
    if snapshot is not None and origin is not None:
        plan += _restored_tree(name, snapshot, origin, host, why=why)
    plan.append(steps.WriteFile(reason=why, machine=name, path=paths.machine_record(name), text=before.record))
    disk = json.loads(before.record).get("disk")
    if disk and snapshot is not None:
        plan.append(steps.SetDisk(reason="another tree knows no limit yet", machine=name, size=disk))
    touched = [*gone, *changed]
    if any(path.startswith(paths.UNIT_DIRECTORY) for path in touched):
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=name))
    if any(path.startswith(paths.NAT_DIRECTORY) for path in touched):
        plan.append(steps.LoadNat(reason="its files changed", machine=name))
    if before.enabled != host.enabled.get(name, False):
        kind = steps.EnableUnit if before.enabled else steps.DisableUnit
        plan.append(kind(reason=why, machine=name, unit=machine_unit(name)))
    plan.append(steps.StartMachine(reason="it was running", machine=name, name=name))
    return plan, [again for step in write for again in _again(step)]


def _restored_tree(name: str, snapshot: Snapshot, origin: Origin, host: Host, *, why: str) -> Plan:
    plan: Plan = []
    if name in host.journals:
        # It has another machine ID.
        plan.append(steps.RemoveFile(reason="its journal was linked there", machine=name, path=host.journals[name]))
    if name in host.trees:
        layer = name if host.trees[name].kind in {"overlay", "lost"} else ""
        plan.append(steps.RemoveTree(reason=why, machine=name, path=host.trees[name].path, layer=layer))
    plan.append(
        steps.CopyTree(
            reason=why, machine=name, source=f"{name}, snapshot {snapshot.name},", origin=origin, uid=snapshot.uid,
            forget=False,
        )
    )  # fmt: skip
    plan.append(steps.PlaceTree(reason=why, machine=name, name=name, storage=snapshot.storage))
    return plan


def plan_sweep(name: str, current: Generation, snapshots: Mapping[str, Snapshot]) -> Plan:
    """Give the steps that remove what rollouts kept of a machine and nobody can go back to any more."""
    kept = current.before.snapshot if current.before else ""
    return [
        steps.RemoveSnapshot(reason="nobody goes back to it", machine=name, snapshot=snapshot)
        for snapshot in snapshots.values()
        if snapshot.name != kept and is_timed_name(snapshot.name, SNAPSHOT)
    ]


def plan_settle(name: str, host: Host, *, ready: bool) -> Plan | None:
    """Give the steps that end a rollout which nobody goes on with; None where the machine needs its stand-in still.

    ``ready`` tells whether the machine does its work. One that was touched and does not goes on being stood in for,
    and one that has no tree at the moment is had back by whoever goes on with its rollout.
    """
    state = read_rollout(host.files.get(paths.rollout_file(name), ""))
    touched = state is not None and state.phase in {REPLACING, UNDOING}
    if touched and not ready and stand_in_name(name) in host.running:
        return None
    if touched and name not in host.trees:
        # What is to come back is a snapshot that only whoever goes on with this puts in its place.
        return None
    reason = "whoever rolled it out was killed"
    plan: Plan = plan_return(name, why=reason) if paths.redirect_file(name) in host.files else []
    if state is not None and state.unfinished:
        ended = state._replace(phase=FAILED, stand_in="", why="it was interrupted")
        path = paths.rollout_file(name)
        plan.append(steps.WriteFile(reason=reason, machine=name, path=path, text=write_rollout(ended)))
    return plan


def shown(
    machine: Machine, stand_in: Machine, made: Plan, plan: Plan, host: Host, drain: float, limit: float | None
) -> Plan:
    """Give all that a rollout does, in order: ``made`` makes the stand-in, ``plan`` is what the machine needs."""
    name, record = machine.name, host.records[machine.name]
    given = next((step.record for step in made if isinstance(step, steps.Claim)), record)
    placement = Placement(addresses=given.addresses, addresses6=given.addresses6, ipv6_loopback=host.ipv6_loopback)
    why, back = f"{name} stays as it is until its stand-in does its work", "its ports lead to its stand-in until then"
    ports, keeps = guest_ports(machine.publish), "whoever is connected keeps the connection"
    done, later = replacing(name, plan, host, snapshot=f"{SNAPSHOT}TIME")
    return [
        *made,
        steps.StartMachine(reason=why, machine=stand_in.name, name=stand_in.name),
        *await_ready(stand_in.name, machine.health, given, ports, limit, why=why),
        *plan_move(machine, stand_in, record, placement),
        steps.Drain(reason=keeps, machine=name, name=name, ports=guest_ports(old_ports(record)), seconds=drain),
        *done,
        *await_ready(name, machine.health, record, ports, limit, why=back),
        *later,
        *plan_return(name, why="it answers itself again"),
        steps.Drain(reason=keeps, machine=stand_in.name, name=stand_in.name, ports=ports, seconds=drain),
        *plan_remove(stand_in.name, host, {}, reason="it was for a moment only"),
    ]
