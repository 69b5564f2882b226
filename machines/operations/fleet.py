# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs that change what is declared and make it so: create, apply, set, rm, gc."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from machines.errors import NotFound, raise_all
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import machine_lock
from machines.model.observed import Host as Observed
from machines.operations.bases import known_base, make_base
from machines.operations.declared import as_declared, declared_machines, edited, one_file, readable_machines
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.tree import drop_staged
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.check import check_disk, check_machine, check_new
from machines.plan.claims import split_claims, with_claims
from machines.plan.declared import plan_needed
from machines.plan.gc import KILLED, half_made
from machines.plan.machine import plan_machine, restart_note
from machines.plan.names import without_names
from machines.plan.ports import plan_unrouted
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
    forget: bool = False,
    command: Sequence[str] = (),
    user: str | None = None,
) -> Plan:
    """Declare a new machine and make it; give the plan that did.

    ``archive`` has the source to take as it is instead, with ``forget`` but for its identity; ``command`` is what an
    image without an init is to run, as ``user``.

    Its tree is copied from a base, which is made where there is none, or with ``fresh`` in any case. Raises all that is
    wrong at once before the first change. A failure or an interrupt takes everything back, but not the base.
    """
    check_ready(host, verb="create")
    with host.files.lock(machine_lock(machine.name), what=f"machine {machine.name}"):
        plan: Plan = []
        machine, declaration = as_declared(machine, host)
        base = None if fresh or archive else known_base(machine, host)
        made_of = archive or machine
        if base is None:
            # What can be known to go wrong goes wrong before minutes are spent on a base.
            observed = await _cleared(machine, host, reporter, dry_run=dry_run)
            raise_all(check_new(machine, observed, declared_machines(host), None))
            why = "asked for" if archive else "asked for anew" if fresh else "none is kept that was made like this"
            plan.append(steps.MakeBase(reason=why, machine=machine.name, declared=made_of, fresh=fresh))
            networks, observed = plan_needed(machine, observed)
            made = networks + plan_machine(machine, observed, declaration=declaration)
            if dry_run:
                return plan + made
            reporter.step(plan[0])
            progress = partial(reporter.progress, machine.name)
            base = await make_base(made_of, host, progress, fresh=fresh, as_is=archive is not None, forgotten=forget)
        if base.payload:
            base = base._replace(payload=base.payload.told(command, user))
        async with host.files.fleet_lock():
            observed = await _cleared(machine, host, reporter, dry_run=dry_run)
            raise_all(check_new(machine, observed, declared_machines(host), base))
            # What an archive was taken over as is nobody can make again.
            said = "new" if archive else intent
            networks, observed = plan_needed(machine, observed)
            made = networks + plan_machine(machine, observed, declaration=declaration, base=base, intent=said)
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


async def change(
    name: str, edit: Callable[[Machine], Machine], host: Host, reporter: Reporter, *, dry_run: bool, verb: str = "set"
) -> Plan:
    """Edit the declaration of machine ``name`` and apply it; give the plan. Raises NotFound if it is not declared."""
    check_ready(host, verb=verb)
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        async with host.files.fleet_lock():
            declared = readable_machines(host, name=name)
            if name not in declared:
                file = one_file(host)
                raise NotFound(
                    f"machine {name} is not declared{f' in {file}' if file else ''}, so there is nothing to {verb}",
                    hint="machctl list shows which machines are; for others: systemctl set-property",
                )
            machine, text = edited(edit(declared[name]), declared[name], host)
            # Where the rules of ports change all are loaded anyway.
            observed = observe(host, [machine], kernel=machine.publish == declared[name].publish)
            if name not in observed.trees:
                raise NotFound(f"machine {name} is declared and has no tree", hint=f"make it: machctl apply {name}")
            raise_all([*check_disk(machine, observed), *check_machine(machine, observed, {**declared, name: machine})])
            networks, observed = plan_needed(machine, observed)
            plan = networks + without_names(plan_machine(machine, observed, declaration=text))
            plan += plan_unused(with_claims(observed, plan), machine=name)
            plan += plan_unrouted(observed, plan, machine=name)
            if not dry_run:
                await execute(plan, host, reporter=reporter)
    return plan


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
