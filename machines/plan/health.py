# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps that have a machine probed from now on which runs already, and that forget what came of it."""

from __future__ import annotations

from collections.abc import Collection

from machines.model.machine import Machine
from machines.model.names import health_timer, health_unit
from machines.model.observed import Host
from machines.plan.step import Step
from machines.plan.steps import RemoveFile, StartProbing
from machines.render import paths


def plan_probing(machine: Machine, changed: Collection[str], host: Host) -> list[Step]:
    """Give what is to be done about the probes of a machine whose files, those in ``changed`` too, are in place."""
    if machine.health is None:
        return forget_health(machine.name, host, reason="its health is not declared any more")
    timer, unit = health_timer(machine.health.interval), health_unit(machine.health.interval)
    if machine.name not in host.running:
        return []
    if paths.probe_file(machine.name) in changed:
        reason = "its health is probed otherwise"
        forget = forget_health(machine.name, host, reason=reason)
    elif timer not in host.active:
        reason, forget = "nothing probes it", []
    else:
        return []
    return [*forget, StartProbing(reason=reason, machine=machine.name, timer=timer, unit=unit)]


def forget_health(name: str, host: Host, *, reason: str) -> list[Step]:
    """Give the steps that remove what probes of a machine left behind."""
    found = [path for path in (paths.health_file(name), paths.results_file(name)) if path in host.files]
    return [RemoveFile(reason=reason, machine=name, path=path) for path in found]
