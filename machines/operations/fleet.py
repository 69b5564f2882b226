# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs that change what is declared and make it so: create, apply, set, rm, gc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from machines.declare.fleet import FLEET_DIRECTORY
from machines.declare.write import write_machine
from machines.errors import MachctlError, NotFound, raise_all
from machines.model.base import Base
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import machine_lock
from machines.model.observed import Host as Observed
from machines.operations.bases import known_base, make_base
from machines.operations.declared import declared_machines, readable_machines
from machines.operations.execute import execute
from machines.operations.networks import NETWORK, plan_declared, plan_needed
from machines.operations.observe import observe, read_records
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.together import for_each
from machines.operations.tree import drop_staged
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.check import check_disk, check_machine, check_new, check_tree
from machines.plan.check_host import check_host
from machines.plan.claims import split_claims, with_claims
from machines.plan.firewalld import plan_left_open
from machines.plan.gc import KILLED, half_made
from machines.plan.machine import plan_machine, restart_note, tree_note
from machines.plan.names import names_only, without_names
from machines.plan.networks import tells_network_manager
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host

Plans = dict[str, Plan]


async def create(
    machine: Machine,
    host: Host,
    reporter: Reporter,
    *,
    dry_run: bool = False,
    fresh: bool = False,
    intent: str = "",
    archive: Machine | None = None,
    command: Sequence[str] = (),
    user: str | None = None,
) -> Plan:
    """Declare a new machine and make it; give the plan that did.

    ``archive`` has the source to take as it is instead, ``command`` is what an image without an init is to run,
    as ``user``.

    Its tree is copied from a base, which is made where there is none, or with ``fresh`` in any case. Raises all that is
    wrong at once before the first change. A failure or an interrupt takes everything back, but not the base.
    """
    check_ready(host, verb="create")
    with host.files.lock(machine_lock(machine.name), what=f"machine {machine.name}"):
        plan: Plan = []
        base = None if fresh or archive else known_base(machine, host)
        made_of = archive or machine
        if base is None:
            # What can be known to go wrong goes wrong before minutes are spent on a base.
            observed = await _cleared(machine, host, reporter, dry_run=dry_run)
            raise_all(check_new(machine, observed, declared_machines(host), None))
            why = "asked for" if archive else "asked for anew" if fresh else "none is kept that was made like this"
            plan.append(steps.MakeBase(reason=why, machine=machine.name, declared=made_of, fresh=fresh))
            if dry_run:
                return plan + plan_machine(machine, observed, declaration=write_machine(machine))
            reporter.step(plan[0])
            progress = partial(reporter.progress, machine.name)
            base = await make_base(made_of, host, progress, fresh=fresh, as_is=archive is not None)
        if base.payload:
            own = base.payload._replace(command=tuple(command) or base.payload.command, user=user or base.payload.user)
            base = base._replace(payload=own)
        async with host.files.fleet_lock():
            observed = await _cleared(machine, host, reporter, dry_run=dry_run)
            raise_all(check_new(machine, observed, declared_machines(host), base))
            # What an archive was taken over as is nobody can make again.
            said = "new" if archive else intent
            networks, observed = plan_needed(machine, observed)
            made = networks + plan_machine(
                machine, observed, declaration=write_machine(machine), base=base, intent=said
            )
            plan += made
            if dry_run:
                return plan
            await execute(split_claims(made)[0], host, reporter=reporter)
        await _make(machine, split_claims(made)[1], host, reporter)
    return plan


async def make_planned(machine: Machine, plan: Plan, host: Host, reporter: Reporter) -> None:
    """Do the plan that makes a machine which is not there yet; a failure or an interrupt takes all of it back."""
    claims, rest = split_claims(plan)
    async with host.files.fleet_lock():
        await execute(claims, host, reporter=reporter)
    await _make(machine, rest, host, reporter)


async def _make(machine: Machine, plan: Plan, host: Host, reporter: Reporter) -> None:
    placed = next(index for index, step in enumerate(plan) if isinstance(step, steps.PlaceTree)) + 1
    ours = False
    try:
        await execute(plan[:placed], host, reporter=reporter)
        ours = True
        await execute(plan[placed:], host, reporter=reporter)
    except BaseException:
        await _take_back(machine, host, reporter.quietly(), ours=ours)
        raise


async def _cleared(machine: Machine, host: Host, reporter: Reporter, *, dry_run: bool) -> Observed:
    """Give the host as it is, once what a killed run left of this machine is gone."""
    # Where others have their ports the table is loaded, and where this one needs more its files say so.
    observed = observe(host, [machine], kernel=False)
    declared = readable_machines(host)
    busy = frozenset(name for name in [machine.name] if is_somebodys(name, observed, host))
    if machine.name in half_made(observed, declared, busy=busy) and not dry_run:
        left = plan_remove(machine.name, observed, declared, reason=KILLED)
        await execute(left, host, reporter=reporter)
        observed = observe(host, [machine], kernel=False)
    return observed


async def _take_back(machine: Machine, host: Host, reporter: Reporter, *, ours: bool) -> None:
    """Remove a machine that was not finished. Unless its tree is ``ours``, one of that name is somebody else's."""
    drop_staged(machine.name, "", host)
    async with host.files.fleet_lock():
        observed = observe(host, [machine])
        if not ours:
            observed = replace(observed, trees={}, running={}, enabled={}, journals={})
        plan = plan_remove(machine.name, observed, readable_machines(host), reason="it was not finished")
        await execute(plan, host, reporter=reporter)


def plan_fleet(names: Iterable[str], host: Host, *, verb: str, bases: Mapping[str, Base] | None = None) -> Plans:
    """Give the plan of every named machine, of all that is declared without names; raise what cannot be fulfilled.

    ``bases`` are those that were made for machines without a tree; where that is None they are looked for, and missing
    ones are part of the plan. Under the empty name stands what no machine needs any more.
    """
    declared = declared_machines(host)
    machines = _chosen(list(names), declared)
    observed = observe(host, machines, kernel=True)
    raise_all(check_host(observed, verb=verb))
    new = [machine for machine in machines if machine.name not in observed.trees]
    found = {machine.name: known_base(machine, host) for machine in new} if bases is None else dict(bases)
    if bases is not None:
        # Without a base there is nothing to make these of, and their errors have been kept.
        machines = [machine for machine in machines if machine not in new or machine.name in bases]
    errors: list[MachctlError] = []
    for machine in machines:
        errors += check_machine(machine, observed, declared)
        errors += check_tree(machine, observed, found[machine.name], trees=len(new)) if machine in new else []
    raise_all(errors)
    plans, view = plan_declared(machines if names else None, observed)
    for machine in machines:
        plan = without_names(plan_machine(machine, view, base=found.get(machine.name)))
        view = with_claims(view, plan)
        if machine in new and found[machine.name] is None:
            why = "none is kept that was made like this"
            plan.insert(0, steps.MakeBase(reason=why, machine=machine.name, declared=machine))
        if machine.autostart and machine in new:
            plan.append(steps.StartMachine(reason="autostart is on", machine=machine.name, name=machine.name))
        plans[machine.name] = plan
    # Only now is it known which bridges nobody is on any more, and what all names are.
    rest = plan_unused(view, machine="")
    plans[""] = rest + plan_left_open(view, [step for plan in (*plans.values(), rest) for step in plan])
    return plans


async def _missing_bases(
    names: Iterable[str], host: Host, reporter: Reporter
) -> tuple[dict[str, Base], dict[str, MachctlError]]:
    """Make the bases that machines without a tree are copied from; give them by machine, and the errors."""
    import asyncio

    # All that can be known to go wrong before minutes are spent.
    plan_fleet(names, host, verb="apply")
    trees = host.pool.trees()
    new = {
        machine.name: machine for machine in _chosen(list(names), declared_machines(host)) if machine.name not in trees
    }
    bases: dict[str, Base] = {}
    # As many bootstraps as there are processors: each keeps one busy.
    limit = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(name: str) -> None:
        base = known_base(new[name], host)
        if base is None:
            async with limit:
                reporter.step(
                    steps.MakeBase(reason="none is kept that was made like this", machine=name, declared=new[name])
                )
                base = await make_base(new[name], host, partial(reporter.progress, name))
        bases[name] = base

    return bases, await for_each(new, one)


async def apply(names: Iterable[str], host: Host, reporter: Reporter) -> tuple[Plans, dict[str, MachctlError]]:
    """Make the host what is declared; give each machine's plan, and the errors of those that failed.

    A machine that fails stops its own steps, not those of the others.
    """
    import asyncio

    check_ready(host, verb="apply")
    names = list(names)
    async with host.files.fleet_lock():
        unfinished = await _finish_renames(host, reporter)
    bases, without = await _missing_bases(names, host, reporter)
    limit = asyncio.Semaphore(os.cpu_count() or 1)
    async with host.files.fleet_lock():
        plans = plan_fleet(names, host, verb="apply", bases=bases)
        # A port that moves from one machine to another is given up before it is taken.
        given_up = [step for plan in plans.values() for step in plan if _is_socket_stop(step)]
        for name in [name for name in plans if name.startswith(NETWORK)]:
            await execute(plans[name], host, reporter=reporter)
        for plan in plans.values():
            await execute(split_claims(plan)[0], host, reporter=reporter)
        await execute(given_up, host, reporter=reporter)
        ours = [name for name, plan in plans.items() if plan and name and not name.startswith(NETWORK)]
        # Once for all, and before the first brings a bridge up: each has it told of a bridge that nobody declared.
        told = [step for name in ours for step in plans[name] if tells_network_manager(step)]
        once = {str(step): step for step in sorted(told, key=lambda step: isinstance(step, steps.ReloadNetworkManager))}
        await execute(list(once.values()), host, reporter=reporter)

    async def one(name: str) -> None:
        rest = [step for step in split_claims(plans[name])[1] if step not in given_up and step not in told]
        with host.files.lock(machine_lock(name), what=f"machine {name}"):
            async with limit if any(isinstance(step, steps.MakeTree) for step in rest) else contextlib.nullcontext():
                await _apply(name, rest, host, reporter)

    failed = unfinished | without | await for_each(ours, one)
    if plans[""]:
        await _drop_unused(host, reporter, failed=bool(failed))
    return plans, failed


def tree_notes(names: Iterable[str], host: Host) -> dict[str, str]:
    """Give what apply cannot make true of machines, by name: values that only a new tree would have."""
    machines = _chosen(list(names), readable_machines(host))
    observed = Observed(trees=host.pool.trees(), records=read_records(host))
    notes = {machine.name: tree_note(machine, observed) for machine in machines}
    return {name: note for name, note in notes.items() if note}


async def _apply(name: str, plan: Plan, host: Host, reporter: Reporter) -> None:
    try:
        await execute(plan, host, reporter=reporter)
    except BaseException:
        # The rest of an unfinished apply is finished by the next; a tree that never came to its place is made anew.
        drop_staged(name, "", host)
        raise


async def _drop_unused(host: Host, reporter: Reporter, *, failed: bool) -> None:
    """Remove bridges that nobody is on any more, as things are now and not as they were when all was planned.

    A machine that failed to move may still need the bridge it was on; names are kept of those there are.
    """
    async with host.files.fleet_lock():
        observed = observe(host)
        plan = plan_unused(observed, machine="")
        plan += plan_left_open(observed, plan)
        await execute(names_only(plan) if failed else plan, host, reporter=reporter)


async def change(
    name: str, edit: Callable[[Machine], Machine], host: Host, reporter: Reporter, *, dry_run: bool, verb: str = "set"
) -> Plan:
    """Edit the declaration of machine ``name`` and apply it; give the plan. Raises NotFound if it is not declared."""
    check_ready(host, verb=verb)
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared = readable_machines(host, name=name)
            if name not in declared:
                raise NotFound(
                    f"machine {name} is not declared, so there is nothing to {verb}",
                    hint="machctl list shows which machines are; for others: systemctl set-property",
                )
            machine = edit(declared[name])
            # Where the rules of ports change all are loaded anyway.
            observed = observe(host, [machine], kernel=machine.publish == declared[name].publish)
            if name not in observed.trees:
                raise NotFound(f"machine {name} is declared and has no tree", hint=f"make it: machctl apply {name}")
            raise_all([*check_disk(machine, observed), *check_machine(machine, observed, {**declared, name: machine})])
            networks, observed = plan_needed(machine, observed)
            text = write_machine(machine, observed.files[machine.origin], before=declared[name])
            plan = networks + without_names(plan_machine(machine, observed, declaration=text))
            plan += plan_unused(with_claims(observed, plan), machine=name)
            if not dry_run:
                await execute(plan, host, reporter=reporter)
    return plan


async def _finish_renames(host: Host, reporter: Reporter) -> dict[str, MachctlError]:
    """Finish what killed runs were renaming: half of it looks like a machine without a tree. Give what went wrong."""
    failed: dict[str, MachctlError] = {}
    names = [name for name, record in read_records(host).items() if record.intent.startswith("rename ")]
    for name in names:
        observed = observe(host)
        if name not in observed.records or host.files.is_locked(machine_lock(name)):
            continue
        from machines.plan.rename import plan_unfinished

        try:
            plan = plan_unfinished(observed.records[name], observed, readable_machines(host))
            await execute(plan, host, reporter=reporter)
        except MachctlError as error:
            failed[name] = error
    return failed


def is_somebodys(name: str, observed: Observed, host: Host) -> bool:
    """Tell whether a machine is there for a command that still runs."""
    record = observed.records.get(name)
    throwaway = record is not None and record.intent.startswith("throwaway")
    return throwaway and host.files.is_alive(observed.records[name].intent.removeprefix("throwaway "))


def observe_running(host: Host) -> Observed:
    """Look only at what runs."""
    return Observed(running=host.running())


def restarts(plan: Plan, host: Host) -> bool:
    """Tell whether a plan changed settings of a running machine that count from its next start on."""
    return bool(restart_note(plan, observe_running(host)))


def _is_socket_stop(step: steps.Step) -> bool:
    return isinstance(step, steps.ClosePorts)


def _chosen(names: list[str], declared: Mapping[str, Machine]) -> list[Machine]:
    unknown = [name for name in names if name not in declared]
    raise_all(
        [
            NotFound(f"machine {name} is not declared", hint=f"machctl create, or write {FLEET_DIRECTORY}/{name}.toml")
            for name in unknown
        ]
    )
    return [declared[name] for name in (names or sorted(declared))]
