# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans that start, stop or enable one machine, whoever made it."""

from __future__ import annotations

from collections.abc import Iterable

from machines.model.names import bridge_unit, machine_unit
from machines.plan import steps
from machines.plan.steps import Plan


def plan_start(name: str, *, running: bool, lost_bridges: Iterable[str] = ()) -> Plan:
    """Give the steps after which a machine runs.

    ``lost_bridges`` are those it is to be on and that somebody deleted: their units, being active, would do nothing.
    """
    if running:
        return []
    plan: Plan = [
        steps.StartUnit(reason=f"bridge {bridge} is not up", machine=name, unit=bridge_unit(bridge), restart=True)
        for bridge in lost_bridges
    ]
    return [*plan, steps.StartMachine(reason="it is not running", machine=name, name=name)]


def plan_stop(name: str, *, terminate: bool) -> Plan:
    """Give the steps after which a machine does not run."""
    return [steps.StopMachine(reason="asked for", machine=name, name=name, terminate=terminate)]


def plan_pause(name: str, *, paused: bool) -> Plan:
    """Give the steps after which a machine that runs is held still."""
    return [] if paused else [steps.PauseMachine(reason="asked for", machine=name)]


def plan_resume(name: str, *, paused: bool) -> Plan:
    """Give the steps after which a machine that runs goes on."""
    return [steps.ResumeMachine(reason="asked for", machine=name)] if paused else []


def plan_enable(name: str, *, on: bool, enabled: bool) -> Plan:
    """Give the steps after which an undeclared machine starts at boot, or no longer does."""
    if on == enabled:
        return []
    kind = steps.EnableUnit if on else steps.DisableUnit
    return [kind(reason="asked for", machine=name, unit=machine_unit(name))]
