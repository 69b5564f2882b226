# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that makes the tree of a machine anew, which was made of something else than is declared by now."""

from __future__ import annotations

from machines.model.base import Base
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.observed import Host
from machines.model.snapshot import Origin, Snapshot
from machines.plan import steps
from machines.plan.kinds import RECREATE, with_kinds
from machines.plan.machine import plan_machine
from machines.plan.names import without_names
from machines.plan.ports import port_units
from machines.plan.steps import Plan


def without_tree(name: str, host: Host) -> Host:
    """Give ``host`` as it is while machine ``name`` is stopped and has no tree."""
    return replace(
        host,
        trees={other: tree for other, tree in host.trees.items() if other != name},
        running={other: unit for other, unit in host.running.items() if other != name},
        disks={other: size for other, size in host.disks.items() if other != name},
        guest_hosts={other: text for other, text in host.guest_hosts.items() if other != name},
    )


def plan_recreate(
    machine: Machine, host: Host, *, base: Base | None, origin: Origin, snapshot: str, now: float, why: str
) -> Plan:
    """Give the steps that make the tree of a machine anew, of ``base`` or, without one, of one that is made first.

    How it was is kept as ``snapshot`` of ``origin``; one that runs is stopped for it and started again.
    """
    name = machine.name
    ports = port_units(name, host)
    bare = without_tree(name, replace(host, active=host.active - set(ports)))
    made = without_names(plan_machine(machine, bare, base=base))
    record = next((step.record for step in made if isinstance(step, steps.Claim)), host.records[name])
    # Until the new tree is in its place, what is known of the old one holds: a killed run is begun again.
    old = replace(record, made=host.records[name].made)
    plan: Plan = []
    if base is None:
        reason = "none is kept that was made like this"
        plan.append(steps.MakeBase(reason=reason, machine=name, declared=machine))
    plan += [step for step in made if isinstance(step, steps.ClaimNetwork)]
    if old != host.records[name]:
        plan.append(steps.Claim(reason=why, machine=name, record=old))
    if ports:
        # Before it stops: a connection could start it again.
        plan.append(steps.ClosePorts(reason=why, machine=name, units=ports))
    if name in host.running:
        plan.append(steps.StopMachine(reason=why, machine=name, name=name))
    taken = Snapshot(name, snapshot, now, origin.storage, origin.base, origin.uid, f"before it was made anew: {why}")
    plan.append(steps.TakeSnapshot(reason="so that it can be had back", machine=name, snapshot=taken, origin=origin))
    if name in host.journals:
        # The new tree has another machine ID, and nobody would find this link again.
        plan.append(steps.RemoveFile(reason=why, machine=name, path=host.journals[name]))
    layer = name if host.trees[name].kind in {"overlay", "lost"} else ""
    if name in host.journals:
        # The new one has another machine ID.
        plan.append(steps.RemoveFile(reason="its journal was linked there", machine=name, path=host.journals[name]))
    plan.append(steps.RemoveTree(reason=why, machine=name, path=host.trees[name].path, layer=layer))
    for step in made:
        if not isinstance(step, (steps.Claim, steps.ClaimNetwork)):
            plan.append(step)
        if isinstance(step, steps.PlaceTree):
            plan.append(steps.Keep(reason="its tree is in its place", machine=name, record=record))
    if name in host.running or machine.autostart:
        reason = "it was running" if name in host.running else "autostart is on"
        plan.append(steps.StartMachine(reason=reason, machine=name, name=name))
    return with_kinds(name, plan, host, kind=RECREATE)
