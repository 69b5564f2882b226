# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs that change what is declared and make it so: create, apply, set, rm, gc."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.declare.fleet import FLEET_DIRECTORY, FLEET_FILE, parse_fleet
from machines.declare.write import write_machine
from machines.errors import Conflict, MachctlError, NotFound, raise_all
from machines.model.machine import Machine
from machines.model.observed import Host as Observed
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.together import for_each
from machines.plan import steps
from machines.plan.check import check_host, check_machine, check_new
from machines.plan.claims import split_claims, with_claims
from machines.plan.gc import KILLED, half_made, plan_gc
from machines.plan.machine import plan_machine
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host

Plans = dict[str, Plan]


def machine_lock(name: str) -> str:
    """Give the name of the lock of one machine."""
    return f"machine-{name}"


def declared_machines(host: Host) -> dict[str, Machine]:
    """Give everything that is declared on this host. Raises InvalidFile for all that is wrong in the files."""
    files = host.files.read_files([FLEET_FILE, f"{FLEET_DIRECTORY}/*.toml"])
    machines, errors = parse_fleet(files)
    raise_all(errors)
    return machines


async def create(machine: Machine, host: Host, reporter: Reporter, *, dry_run: bool = False) -> Plan:
    """Declare a new machine and make it; give the plan that did.

    Raises all that is wrong at once before the first change. A failure or an interrupt takes everything back.
    """
    check_ready(host, verb="create")
    with host.files.lock(machine_lock(machine.name), wait=False, what=f"machine {machine.name}"):
        with host.files.lock("fleet", wait=True, what="the fleet"):
            declared = declared_machines(host)
            observed = observe(host, [machine])
            if machine.name in half_made(observed, declared) and not dry_run:
                left = plan_remove(machine.name, observed, declared, reason=KILLED)
                await execute(left, host, reporter=reporter)
                observed = observe(host, [machine])
            raise_all(check_new(machine, observed, declared))
            plan = plan_machine(machine, observed, declaration=write_machine(machine))
            if dry_run:
                return plan
            claims, rest = split_claims(plan)
            await execute(claims, host, reporter=reporter)
        try:
            await execute(rest, host, reporter=reporter)
        except BaseException:
            with host.files.lock("fleet", wait=True, what="the fleet"):
                back = plan_remove(
                    machine.name, observe(host, [machine]), declared_machines(host), reason="it was not finished"
                )
                await execute(back, host, reporter=reporter.quietly())
            raise
    return plan


def plan_fleet(names: Iterable[str], host: Host, *, verb: str) -> tuple[Plans, Observed]:
    """Give the plan of every named machine, of all that is declared without names; raise what cannot be fulfilled."""
    declared = declared_machines(host)
    machines = _chosen(list(names), declared)
    observed = observe(host, machines)
    raise_all(check_host(observed, verb=verb))
    errors: list[MachctlError] = []
    for machine in machines:
        errors += check_machine(machine, observed, declared)
    raise_all(errors)
    plans: Plans = {}
    view = observed
    for machine in machines:
        plans[machine.name] = plan_machine(machine, view)
        view = with_claims(view, plans[machine.name])
    for machine in machines:
        if machine.autostart and machine.name not in observed.trees:
            plans[machine.name].append(
                steps.StartMachine(reason="autostart is on", machine=machine.name, name=machine.name)
            )
    return plans, observed


async def apply(names: Iterable[str], host: Host, reporter: Reporter) -> tuple[Plans, dict[str, MachctlError]]:
    """Make the host what is declared; give each machine's plan, and the errors of those that failed.

    A machine that fails stops its own steps, not those of the others.
    """
    check_ready(host, verb="apply")
    with host.files.lock("fleet", wait=True, what="the fleet"):
        plans, _ = plan_fleet(names, host, verb="apply")
        for plan in plans.values():
            await execute(split_claims(plan)[0], host, reporter=reporter)
    failed = await for_each(
        [name for name, plan in plans.items() if plan],
        lambda name: _locked(name, split_claims(plans[name])[1], host, reporter),
    )
    return plans, failed


async def change(
    name: str, edit: Callable[[Machine], Machine], host: Host, reporter: Reporter, *, dry_run: bool
) -> Plan:
    """Edit the declaration of machine ``name`` and apply it; give the plan. Raises NotFound if it is not declared."""
    check_ready(host, verb="set")
    with (
        host.files.lock(machine_lock(name), wait=False, what=f"machine {name}"),
        host.files.lock("fleet", wait=True, what="the fleet"),
    ):
        declared = declared_machines(host)
        if name not in declared:
            raise NotFound(
                f"machine {name} is not declared, so there is nothing to set",
                hint="machctl list shows which machines are; for others: systemctl set-property",
            )
        machine = edit(declared[name])
        observed = observe(host, [machine])
        raise_all(check_machine(machine, observed, {**declared, name: machine}))
        text = write_machine(machine, observed.files[machine.origin])
        plan = plan_machine(machine, observed, declaration=text)
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def remove(name: str, host: Host, reporter: Reporter, *, force: bool, dry_run: bool) -> Plan:
    """Remove a machine with all that was made for it; give the plan.

    Raises Conflict for a running machine without ``force``, NotFound where there is nothing of that name.
    """
    check_ready(host, verb="rm")
    with (
        host.files.lock(machine_lock(name), wait=False, what=f"machine {name}"),
        host.files.lock("fleet", wait=True, what="the fleet"),
    ):
        declared = declared_machines(host)
        observed = observe(host)
        if name not in declared and name not in observed.trees and name not in observed.records:
            raise NotFound(f"there is no machine {name}", hint="machctl list shows those there are")
        if name in observed.running and not force:
            raise Conflict(
                f"machine {name} is running", hint=f"stop it first: machctl stop {name}; or: machctl rm --force {name}"
            )
        plan = plan_remove(name, observed, declared)
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def collect_garbage(host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Remove what killed runs left, and nothing that another machctl is working on; give the plan."""
    check_ready(host, verb="gc")
    with host.files.lock("fleet", wait=True, what="the fleet"):
        temporary = host.files.abandoned()
        leftovers = host.pool.leftovers()
        observed = observe(host)
        known = {*leftovers.values(), *observed.records}
        busy = frozenset(name for name in known if host.files.is_locked(machine_lock(name)))
        plan = plan_gc(observed, declared_machines(host), leftovers, busy=busy, temporary=temporary)
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


def observe_running(host: Host) -> Observed:
    """Look only at what runs."""
    return Observed(running=host.running())


async def _locked(name: str, plan: Plan, host: Host, reporter: Reporter) -> None:
    with host.files.lock(machine_lock(name), wait=False, what=f"machine {name}"):
        await execute(plan, host, reporter=reporter)


def _chosen(names: list[str], declared: Mapping[str, Machine]) -> list[Machine]:
    unknown = [name for name in names if name not in declared]
    raise_all(
        [
            NotFound(f"machine {name} is not declared", hint=f"machctl create, or write {FLEET_DIRECTORY}/{name}.toml")
            for name in unknown
        ]
    )
    return [declared[name] for name in (names or sorted(declared))]
