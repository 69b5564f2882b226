# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that cleans up after runs that were killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from machines.model.machine import Machine
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.remove import plan_remove, remove_bridge
from machines.plan.steps import Plan

KILLED = "its create was interrupted"


def half_made(host: Host, declared: Mapping[str, Machine], *, busy: frozenset[str] = frozenset()) -> list[str]:
    """Name the machines that were given something and have neither a declaration nor a tree: killed creates.

    A machine with a tree is a machine, even if somebody deleted its declaration. ``busy`` ones are being made now.
    """
    return sorted(
        name for name in host.records if name not in declared and name not in host.trees and name not in busy
    )


def plan_gc(
    host: Host, declared: Mapping[str, Machine], leftovers: Mapping[str, str], *, busy: frozenset[str]
) -> Plan:
    """Give the steps that remove what nobody is working on any more; ``leftovers`` maps staged trees to machines."""
    plan: Plan = [
        steps.RemoveTree(reason="a run that made or removed it was interrupted", machine=name, path=path)
        for path, name in sorted(leftovers.items())
        if name not in busy
    ]
    for name in half_made(host, declared, busy=busy):
        plan += plan_remove(name, host, declared, reason=KILLED)
        host = dataclasses.replace(
            host, records={key: record for key, record in host.records.items() if key != name}
        )
    if not busy:
        used = {bridge for record in host.records.values() for bridge in record.addresses}
        removed = {step.path for step in plan if isinstance(step, steps.RemoveFile)}
        for bridge in sorted(set(host.networks) - used):
            link = host.links.get(bridge)
            bridge_plan = remove_bridge(bridge, "", host)
            if not (link and link.ports) and not {getattr(step, "path", None) for step in bridge_plan} & removed:
                plan += bridge_plan
    return plan
