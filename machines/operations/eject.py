# SPDX-License-Identifier: LGPL-2.1-or-later
"""eject: a machine goes on without machctl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.errors import Conflict
from machines.model.names import check_known_name, machine_lock
from machines.operations.declared import readable_machines
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan.eject import plan_eject
from machines.plan.steps import Plan
from machines.render.eject import network_unit, reload_file, resolver_file, rules_file, used_file
from machines.render.paths import UNIT_DIRECTORY

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def eject(name: str, host: Host, reporter: Reporter, *, dry_run: bool) -> tuple[Plan, list[str]]:
    """Leave a machine to systemd alone, running or not; give the plan, and what it loses or still uses.

    Raises NotFound for a machine that machctl does not look after, Conflict for one declared together with others.
    """
    check_ready(host, verb="eject")
    check_known_name(name)
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared = readable_machines(host, name=name)
            observed = observe(host, [declared[name]] if name in declared else [])
            plan, left = plan_eject(name, observed, declared)
            own = {
                rules_file(name),
                reload_file(name),
                f"{UNIT_DIRECTORY}/{network_unit(name)}",
                used_file(name),
                resolver_file(name),
            }
            for path, text in host.files.read_files(sorted(own)).items():
                if not text.startswith(f"# Of machine {name}, written by machctl"):
                    raise Conflict(f"{path} is there already and machctl did not write it", hint="move it away")
            if not dry_run:
                await execute(plan, host, reporter=reporter)
    return plan, left
