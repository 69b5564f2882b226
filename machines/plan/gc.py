# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that cleans up after runs that were killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from machines.model.machine import Machine
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths

KILLED = "its create was interrupted"


def half_made(host: Host, declared: Mapping[str, Machine], *, busy: frozenset[str] = frozenset()) -> list[str]:
    """Name the machines that were given something and have neither a declaration nor a tree: killed creates.

    A machine with a tree is a machine, even if somebody deleted its declaration. ``busy`` ones are being made now.
    """
    return sorted(name for name in host.records if name not in declared and name not in host.trees and name not in busy)


def plan_gc(
    host: Host,
    declared: Mapping[str, Machine],
    leftovers: Mapping[str, str],
    *,
    busy: frozenset[str],
    temporary: Sequence[str] = (),
) -> Plan:
    """Give the steps that remove what nobody is working on any more.

    ``leftovers`` maps staged trees to their machines, ``temporary`` are files whose writers were killed.
    """
    plan: Plan = [
        steps.RemoveTree(reason="a run that made or removed it was interrupted", machine=name, path=path)
        for path, name in sorted(leftovers.items())
        if name not in busy
    ]
    plan += [steps.RemoveFile(reason="whoever wrote it was killed", path=path) for path in temporary]
    dead = half_made(host, declared, busy=busy)
    nat_changed = False
    for name in dead:
        steps_of_name = plan_remove(name, host, declared, reason=KILLED, bridges=False)
        nat_changed = nat_changed or any(
            isinstance(step, steps.RemoveFile) and step.path.startswith(paths.NAT_DIRECTORY) for step in steps_of_name
        )
        plan += steps_of_name
    return plan + plan_unused(host, gone=dead, machine="", nat_changed=nat_changed)
