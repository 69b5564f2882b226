# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a machine away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.errors import Conflict, NotFound
from machines.model.names import machine_lock, machine_unit
from machines.operations.declared import readable_machines
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def remove(name: str, host: Host, reporter: Reporter, *, force: bool, dry_run: bool) -> Plan:
    """Remove a machine with all that was made for it; give the plan.

    Raises Conflict for a running machine without ``force``, NotFound where there is nothing of that name.
    """
    check_ready(host, verb="rm")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared = readable_machines(host, name=name)
            observed = observe(host)
            if name not in declared and name not in observed.trees and name not in observed.records:
                raise NotFound(f"there is no machine {name}", hint="machctl list shows those there are")
            if name in observed.running and not force:
                raise Conflict(
                    f"machine {name} is running",
                    hint=f"stop it first: machctl stop {name}; or: machctl rm --force {name}",
                )
            plan = plan_remove(name, observed, declared)
            if not dry_run:
                await execute(plan, host, reporter=reporter)
                host.units.reset_failed(machine_unit(name))  # systemd remembers one that did not start
    return plan
