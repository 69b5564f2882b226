# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a machine away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, NotFound
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import machine_lock, machine_unit
from machines.model.observed import Host as Observed
from machines.operations.declared import readable_machines
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.together import noted
from machines.plan import steps
from machines.plan.bridges import plan_unused, without
from machines.plan.firewalld import plan_left_open
from machines.plan.ports import plan_unrouted
from machines.plan.remove import changes_nat, plan_remove, split_removal
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host


_SYSTEMD = (steps.DisableUnit, steps.ReloadUnits)


async def remove(name: str, host: Host, reporter: Reporter, *, force: bool, dry_run: bool) -> Plan:
    """Remove a machine with all that was made for it; give the plan.

    Raises Conflict for a running machine without ``force``, NotFound where there is nothing of that name.
    """
    check_ready(host, verb="rm")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared, observed = _looked(name, host, force=force)
            plan = plan_remove(name, observed, declared)
            if not dry_run:
                await execute(plan, host, reporter=reporter)
                host.units.reset_failed(machine_unit(name))  # systemd remembers one that did not start
    return plan


async def remove_all(
    names: Iterable[str], host: Host, reporter: Reporter, *, force: bool, done: Callable[[str], object]
) -> dict[str, MachctlError]:
    """Remove machines as remove() does, and tell systemd of it once; give the errors. ``done`` hears of each that went.

    Until then their records say that they are being removed, and whoever finds those finishes this.
    """
    check_ready(host, verb="rm")
    rests: dict[str, Plan] = {}
    routed: set[str] = set()
    failed: dict[str, MachctlError] = {}
    for name in names:
        with noted(name, failed):
            with host.files.lock(machine_lock(name), what=f"machine {name}"):
                async with host.files.fleet_lock():
                    declared, observed = _looked(name, host, force=force)
                    plan = plan_remove(name, without(observed, rests, ()), declared, bridges=False)
                    # Of one that others made nothing would say that it is being removed.
                    first, rest = split_removal(plan) if name in observed.records else (plan, [])
                    routed |= observed.localnet
                    await execute(first, host, reporter=reporter)
            rests[name] = rest
    async with host.files.fleet_lock():
        observed = observe(host)
        # Somebody may have finished it and made another one of that name.
        gone = [name for name in rests if name not in observed.records or observed.records[name].intent == "remove"]
        left = [step for name in gone for step in rests[name]]
        for step in left:
            if isinstance(step, _SYSTEMD):
                reporter.step(step)
        units = [step.unit for step in left if isinstance(step, steps.DisableUnit)]
        if units:
            host.units.disable(units)
        if units or any(isinstance(step, steps.ReloadUnits) for step in left):
            host.units.reload()
        for name in gone:
            with noted(name, failed):
                await execute([step for step in rests[name] if not isinstance(step, _SYSTEMD)], host, reporter=reporter)
                host.units.reset_failed(machine_unit(name))
            if name not in failed:
                done(name)
        gone = [name for name in gone if name not in failed]
        plan = plan_unused(observed, gone=gone, machine="", nat_changed=changes_nat(left))
        plan += plan_unrouted(replace(observed, localnet=frozenset(routed)), plan)
        await execute(plan + plan_left_open(observed, plan), host, reporter=reporter)
    return failed


def _looked(name: str, host: Host, *, force: bool) -> tuple[Mapping[str, Machine], Observed]:
    """Give what is declared, and the host, for a machine that may be removed."""
    declared = readable_machines(host, name=name)
    observed = observe(host)
    if name not in declared and name not in observed.trees and name not in observed.records:
        raise NotFound(f"there is no machine {name}", hint="machctl list shows those there are")
    if name in observed.running and not force:
        raise Conflict(
            f"machine {name} is running",
            hint=f"stop it first: machctl stop {name}; or: machctl rm --force {name}",
        )
    unit = machine_unit(name)
    if name not in observed.running and host.units.starting(unit):
        if not force:
            hint = f"wait until it has started, or stop it: machctl stop {name}; or: machctl rm --force {name}"
            raise Conflict(f"machine {name} is starting", hint=hint)
        # Its job may wait for others still.
        observed = replace(observed, active=observed.active | {unit})
    return declared, observed
