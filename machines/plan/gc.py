# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that cleans up after runs that were killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from machines.model.machine import Machine
from machines.model.observed import Host, Record
from machines.model.rollout import INTENT, read_rollout
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.firewalld import plan_left_open
from machines.plan.ports import plan_unrouted
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths

KILLED = "its create was interrupted"


def half_made(host: Host, declared: Mapping[str, Machine], *, busy: frozenset[str] = frozenset()) -> list[str]:
    """Name the machines that a killed run was making, removing, or had for one command only.

    One that was given something and has neither a declaration nor a tree is a killed create; with a tree it is a
    machine, even if somebody deleted its declaration. ``busy`` ones are being worked on now.
    """
    return sorted(
        name
        for name, record in host.records.items()
        if name not in busy
        # That is finished, not taken back; and what is left of a machine with its snapshots is meant to be.
        and not record.intent.startswith(("rename", "pruned"))
        # Its layer is data, also while what its tree is in is not mounted; rm takes it away, not we.
        and not (record.intent == "ejected" and record.storage == "overlay")
        and (
            record.intent.startswith("throwaway")
            or (name not in declared and (name not in host.trees or record.intent in {"remove", "new"}))
            or is_left(record, host)
        )
    )


def is_left(record: Record, host: Host) -> bool:
    """Tell whether a machine stands in for another whose rollout has ended."""
    kind, _, name = record.intent.partition(" ")
    if kind != INTENT:
        return False
    state = read_rollout(host.files.get(paths.rollout_file(name), ""))
    return state is None or not state.unfinished


def plan_gc(
    host: Host,
    declared: Mapping[str, Machine],
    leftovers: Mapping[str, str],
    *,
    busy: frozenset[str],
    temporary: Sequence[str] = (),
    store: Sequence[str] = (),
) -> Plan:
    """Give the steps that remove what nobody is working on any more.

    ``leftovers`` maps staged trees to their machines, ``temporary`` are files whose writers were killed, ``store`` what
    they left of bases, layers and snapshots.
    """
    plan: Plan = [
        steps.RemoveTree(reason="a run that made or removed it was interrupted", machine=name, path=path)
        for path, name in sorted(leftovers.items())
        if name not in busy
    ]
    plan += [steps.RemoveFile(reason="whoever wrote it was killed", path=path) for path in temporary]
    plan += [steps.RemoveLeftover(reason="a run that made or removed it was interrupted", path=path) for path in store]
    known = {*host.trees, *host.records, *declared, *busy}
    plan += [
        steps.RemoveSnapshots(reason="there is no such machine", machine=name, names=tuple(each.name for each in taken))
        for name, taken in host.snapshots.items()
        if name not in known
    ]
    dead = half_made(host, declared, busy=busy)
    nat_changed = False
    for name in dead:
        steps_of_name = plan_remove(name, host, declared, reason=KILLED, bridges=False)
        nat_changed = nat_changed or any(
            isinstance(step, steps.RemoveFile) and step.path.startswith(paths.NAT_DIRECTORY) for step in steps_of_name
        )
        plan += steps_of_name
    plan += plan_unused(host, gone=dead, machine="", nat_changed=nat_changed)
    plan += plan_unrouted(host, plan)
    return plan + plan_left_open(host, plan)
