# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that takes a machine away which nobody declares any more, and keeps its tree as a snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.observed import Host, Record
from machines.model.snapshot import Origin, Snapshot
from machines.plan import steps
from machines.plan.kinds import REMOVE, with_kinds
from machines.plan.ports import port_units
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths

PRUNED = "pruned"
WHY = "it is no longer declared"


def had_back(name: str, snapshot: str) -> str:
    """Give the words on how a machine is had back of which ``snapshot`` is kept."""
    return f"to have it back, declare it again, then: machctl apply {name} && machctl restore {name} {snapshot}"


def residue(record: Record) -> Record:
    """Give what is kept of a machine whose snapshots outlive it: the ids that its files belong to."""
    return Record(record.name, uid=record.uid, intent=PRUNED)


def undeclared(host: Host, declared: Mapping[str, Machine]) -> list[str]:
    """Name the machines that machctl made of a declaration in one of the files that count, where it is no more."""
    return sorted(
        name
        for name, record in host.records.items()
        if name not in declared
        and (record.intent == PRUNED or not record.intent)
        and (name in host.trees or record != residue(record))
        and (record.intent == PRUNED or host.declares(paths.declared_in(host.files.get(paths.settings_file(name), ""))))
    )


def plan_prune(name: str, host: Host, *, origin: Origin | None, snapshot: str, now: float) -> Plan:
    """Give the steps after which machine ``name`` is gone, and its tree a snapshot of that name, if it has one.

    ``origin`` is what the snapshot is taken of; without one, nothing is kept of the machine, older snapshots neither.
    """
    record = host.records[name]
    plan: Plan = []
    ports = port_units(name, host)
    if ports:
        # Before it stops: a connection could start it again.
        plan.append(steps.ClosePorts(reason=WHY, machine=name, units=ports))
    if name in host.running:
        plan.append(steps.StopMachine(reason=WHY, machine=name, name=name))
    stopped = replace(host, running={other: unit for other, unit in host.running.items() if other != name})
    if origin is None:
        rest = plan_remove(name, stopped, {}, reason=WHY, bridges=False)
        plan += [step for step in rest if not isinstance(step, steps.ClosePorts)]
        return with_kinds(name, plan, host, kind=REMOVE)
    taken = Snapshot(name, snapshot, now, origin.storage, origin.base, origin.uid, "before it was pruned")
    going = replace(record, intent=PRUNED)
    if record != going:
        # From here on, whoever finds it half done does not take it for one that was removed.
        plan.insert(0, steps.Claim(reason=WHY, machine=name, record=going))
    if name in host.trees:
        plan.append(
            steps.TakeSnapshot(reason="so that it can be had back", machine=name, snapshot=taken, origin=origin)
        )
    removing = plan_remove(name, replace(stopped, snapshots={}), {}, reason=WHY, bridges=False)
    mine = paths.machine_record(name)
    plan += [
        step
        for step in removing
        if not (isinstance(step, steps.RemoveFile) and step.path == mine)
        # The snapshot is of what lies over the base.
        and not isinstance(step, (steps.Claim, steps.ClosePorts, steps.RemoveBase))
    ]
    plan.append(steps.Keep(reason="it has snapshots", machine=name, record=residue(record)))
    return with_kinds(name, plan, host, kind=REMOVE)
