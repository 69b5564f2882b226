# SPDX-License-Identifier: LGPL-2.1-or-later
"""apply: the fleet is planned, then done machine by machine, in parallel along what comes after what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from machines.errors import MachctlError, raise_all
from machines.model.after import order_of
from machines.model.base import Base
from machines.model.machine import Machine
from machines.model.names import machine_lock, machine_unit
from machines.operations.bases import known_base, make_base
from machines.operations.batches import SHARED, Batches
from machines.operations.declared import declared_machines, readable_machines
from machines.operations.execute import execute
from machines.operations.fleetplan import (
    PLAIN,
    FleetPlan,
    Plans,
    Wishes,
    chosen_machines,
    fleet_plan,
    known_bases,
    needs_tree,
    stand_ins,
)  # fmt: skip
from machines.operations.lifecycle import dispatch_start, dispatch_together, finish_start
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.records import read_records
from machines.operations.reporter import Reporter
from machines.operations.together import Before, for_each, in_order
from machines.operations.tree import drop_staged
from machines.operations.unfinished import unmark, write_unfinished
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.claims import split_claims, split_shared
from machines.plan.declared import NETWORK
from machines.plan.firewalld import plan_left_open
from machines.plan.names import names_only
from machines.plan.order import is_new, left_out, split_start
from machines.plan.ports import given_up, wanted_loopback
from machines.plan.steps import Plan
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.operations.gates import Gates

Failed = dict[str, MachctlError]

AWAY = (steps.RestartMachine, steps.StopMachine)
"""Steps for which a machine that runs is away for a while."""


async def apply(names: Iterable[str], host: Host, reporter: Reporter, wishes: Wishes = PLAIN) -> tuple[Plans, Failed]:
    """Make the host what is declared; give each machine's plan, and the errors of those that failed.

    A machine that fails stops its own steps and those of the machines that come after it, not those of the others.
    """
    check_ready(host, verb="apply")
    names = list(names)
    # Whoever finds this at boot goes on with it; it stays where this ends in the middle.
    before = host.files.read_text(paths.APPLYING_FILE)
    killed = before is not None or bool(host.files.abandoned())
    mine = write_unfinished(names, wishes, host)
    try:
        done = await _apply(names, host, reporter, wishes)
    except MachctlError:
        # What another one left is still to be done.
        unmark(mine, host, before=before)
        raise
    if killed:
        from machines.operations.garbage import collect_garbage

        # Whoever was killed has left more than what is planned: locks, what it was writing, trees it was making.
        await collect_garbage(host, reporter, dry_run=False, failed=done[1])
        if wishes.wait:
            # Nor may systemd know yet what starts at boot, unless it has just done so.
            host.units.reload()
    unmark(mine, host)
    return done


async def _apply(names: list[str], host: Host, reporter: Reporter, wishes: Wishes) -> tuple[Plans, Failed]:
    async with host.files.fleet_lock():
        unfinished = await _finish_renames(host, reporter)
    if wishes.wait and (replaced := _replaced(names, host)):
        from machines.operations.rollout import go_on

        unfinished |= await go_on(replaced, host, reporter)
    bases, without = await missing_bases(names, host, reporter, wishes)
    run = _Run(host, reporter, wait=wishes.wait)
    async with host.files.fleet_lock():
        planned = fleet_plan(names, host, verb="apply", bases=bases, wishes=wishes)
        gone = await in_order(
            planned.pruned, {}, lambda name, _: run.all(name, planned.plans[name]), failed={}, ended=reporter.ended
        )
        plans = {name: plan for name, plan in planned.plans.items() if name not in planned.pruned}
        if gone:
            # Who is still there has its addresses and ports still.
            removed = {name: planned.plans[name] for name in planned.pruned}
            planned = _without_prune(names, host, bases, wishes, gone)
            plans, planned = planned.plans, planned._replace(plans=removed | planned.plans)
        # A port that moves from one machine to another is given up before it is taken.
        moved: Plan = []
        for name in [name for name in plans if name.startswith(NETWORK)]:
            await execute(plans[name], host, reporter=reporter)
        work = {}
        for name, plan in plans.items():
            claims, rest = split_claims(plan)
            await execute(claims, host, reporter=reporter)
            closed, work[name] = given_up(rest)
            moved += closed
        await execute(moved, host, reporter=reporter)
        failed = unfinished | without | gone | await _bring_up(work, host, reporter)

    ours = [name for name in work if work[name] and name and not name.startswith(NETWORK) and name not in failed]
    order = order_of(planned.declared)
    # Others are made while these boot.
    ahead = [name for name in ours if _is_quick(work[name]) and not set(order.get(name, ())) & set(ours)]
    failed |= await for_each(ahead, lambda name: run.tree(name, work))
    for name in [name for name in ours if name in failed]:
        reporter.ended(name, failed[name])
        ours.remove(name)
    run.take_turns(planned.declared)
    try:
        failed = await in_order(
            ours, order, lambda name, before: run.one(name, work[name], before), failed=failed, ended=reporter.ended
        )
    finally:
        run.finish()
    if plans[""]:
        await drop_unused(host, reporter, failed=bool(failed), planned=plans[""])
    return planned.plans, failed


def _replaced(names: list[str], host: Host) -> list[str]:
    """Name the machines that others stand in for, of these or of all, and that nobody is at work on."""
    found = stand_ins(read_records(host).values())
    return [name for name in found if name in (names or found) and not host.files.is_locked(machine_lock(name))]


def _without_prune(
    names: list[str], host: Host, bases: Mapping[str, Base], wishes: Wishes, failed: Failed
) -> FleetPlan:
    """Plan anew where machines could not be removed. Raises their errors with what is then in the way."""
    try:
        return fleet_plan(names, host, verb="apply", bases=bases, wishes=wishes._replace(prune=False))
    except MachctlError as error:
        raise_all([*failed.values(), error])
        raise


async def _bring_up(work: dict[str, Plan], host: Host, reporter: Reporter) -> Failed:
    """Do what machines have in common before any of them goes on, and take it out of ``work``; give what failed."""
    failed: Failed = {}
    for name in [name for name in work if name and not name.startswith(NETWORK)]:
        shared, work[name] = split_shared(work[name])
        try:
            await execute(shared, host, reporter=reporter)
        except MachctlError as error:
            failed[name] = error
            reporter.ended(name, error)
    return failed


def _is_quick(plan: Plan) -> bool:
    """Tell whether a plan makes a tree in moments: what comes behind it is better done for all at once."""
    return any(isinstance(step, steps.MakeTree) and step.storage in {"btrfs", "overlay", "reflink"} for step in plan)


class _Run:
    """Does the plans of machines, all at once."""

    def __init__(self, host: Host, reporter: Reporter, *, wait: bool) -> None:
        self._host = host
        self._reporter = reporter
        self._wait = wait
        self._batches = Batches(host, reporter)
        self._new: set[str] = set()
        # Those whose trees were made first, until they start: whoever is still to be made waits for that.
        self._ahead: set[str] = set()
        self._started = asyncio.Event()
        self._gates: Gates | None = None
        self._declared: Mapping[str, Machine] = {}
        # Copying file by file keeps a processor busy.
        self._limit = asyncio.Semaphore(os.cpu_count() or 1)

    async def tree(self, name: str, work: dict[str, Plan]) -> None:
        """Make the tree of a new machine and take that out of its ``work``. Raises MachctlError."""
        plan = work[name]
        placed = next((at for at, step in enumerate(plan, 1) if isinstance(step, steps.PlaceTree)), 0)
        if is_new(plan) and not any(isinstance(step, SHARED) for step in plan[:placed]):
            await self.all(name, plan[:placed])
            work[name] = plan[placed:]
            self._new.add(name)
            if any(isinstance(step, steps.StartMachine) for step in work[name]):
                self._ahead.add(name)

    def take_turns(self, declared: Mapping[str, Machine]) -> None:
        """From now on have no more replicas of a group away at one time than they say (max-unavailable)."""
        if self._wait and any(each.max_unavailable for each in declared.values()):
            from machines.operations.gates import Gates, limits_of

            self._gates, self._declared = Gates(limits_of(declared)), declared

    async def one(self, name: str, plan: Plan, before: Before) -> None:
        """Do the plan of one machine, once all that it comes after is done. Raises MachctlError."""
        try:
            await self._one(name, plan, before)
        finally:
            self._goes_on(name)

    def _goes_on(self, name: str) -> None:
        self._ahead.discard(name)
        if not self._ahead:
            self._started.set()

    def finish(self) -> None:
        """Do what is done once for all that was done. Raises MachctlError."""
        self._batches.finish()

    async def _one(self, name: str, plan: Plan, before: Before) -> None:
        if self._ahead and name not in self._ahead:
            await self._started.wait()
        new = name in self._new or is_new(plan)
        # Nobody can notice what is made of a new machine before it starts.
        made, rest = split_start(plan) if new else ([], plan)
        await self.all(name, made)
        if rest and (wrong := await before()):
            raise left_out(name, wrong, made=new)
        if self._gates is None or not any(isinstance(step, AWAY) for step in rest):
            await self.all(name, rest)
            return
        machine = self._declared[name]
        async with self._gates.through(name, machine.group):
            await self.all(name, rest)
            if machine.health is not None and machine.group in self._gates.limits:
                # Not under its lock: whoever holds that is taken for somebody who is about to stop it.
                from machines.operations.waiting import await_well

                await await_well(machine.name, machine.health, self._host)

    async def all(self, name: str, plan: Plan) -> None:
        """Do all of a plan. Raises MachctlError."""
        if not plan:
            return
        with self._host.files.lock(machine_lock(name), what=f"machine {name}"):
            try:
                for step in plan:
                    await self._do(name, step)
            except BaseException:
                # The rest of an unfinished apply is finished by the next; a tree that never came to its place is made
                # anew.
                drop_staged(name, "", self._host)
                raise

    async def _do(self, name: str, step: steps.Step) -> None:
        if isinstance(step, SHARED):
            await self._batches.do(step)
        elif isinstance(step, (steps.MakeTree, steps.TakeSnapshot)):
            async with self._limit:
                await execute([step], self._host, reporter=self._reporter)
        elif isinstance(step, (steps.StartMachine, steps.RestartMachine)) and not self._wait:
            # It is ordered behind whoever does this, and goes on by itself.
            self._reporter.step(step)
            if isinstance(step, steps.StartMachine):
                dispatch_start(name, self._host)
            else:
                # Nobody is there to try again what systemd refuses as it was started a few times before.
                self._host.units.reset_failed(machine_unit(name))
                self._host.units.dispatch("restart", machine_unit(name))
        elif isinstance(step, steps.StartMachine):
            self._reporter.step(step)
            job = await dispatch_together(name, self._host)
            self._goes_on(name)
            await finish_start(name, job, self._host)
        else:
            await execute([step], self._host, reporter=self._reporter)


async def missing_bases(
    names: Iterable[str], host: Host, reporter: Reporter, wishes: Wishes
) -> tuple[dict[str, Base], Failed]:
    """Make the bases that machines without a tree are copied from; give them by machine, and the errors."""
    names = list(names)
    bases, missing = look_for_bases(names, host, wishes)
    if not missing:
        return bases, {}
    # All that can be known to go wrong before minutes are spent.
    fleet_plan(names, host, verb="apply", wishes=wishes)
    later: Failed = {}
    if wishes.no_bases:
        why = "it takes a base that is made once the network is up"
        later = {
            name: MachctlError(f"machine {name} is left for later: {why}") for name in left_for_later(missing, host)
        }
    made, failed = await make_bases({name: each for name, each in missing.items() if name not in later}, host, reporter)
    return bases | made, failed | later


def left_for_later(missing: Mapping[str, Machine], host: Host) -> list[str]:
    """Name the machines whose bases may be made by another run: of some sources, as dir:, nobody would know them."""
    from machines.operations.bases import is_told_apart

    return [name for name, machine in missing.items() if is_told_apart(machine, host)]


def look_for_bases(names: list[str], host: Host, wishes: Wishes) -> tuple[dict[str, Base], dict[str, Machine]]:
    """Give the bases of machines whose trees are to be made, by machine, and the machines that there is none for."""
    chosen = chosen_machines(names, declared_machines(host), host, verb="apply")
    new = needs_tree(chosen, host.pool.trees(), lambda: read_records(host), wishes)
    found = known_bases(new, host)
    bases = {name: base for name, base in found.items() if base is not None}
    return bases, {machine.name: machine for machine in new if machine.name not in bases}


async def make_bases(missing: Mapping[str, Machine], host: Host, reporter: Reporter) -> tuple[dict[str, Base], Failed]:
    """Make the bases of machines; give them by machine, and the errors."""
    bases: dict[str, Base] = {}
    # As many bootstraps as there are processors: each keeps one busy.
    limit = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(name: str) -> None:
        async with limit:
            base = known_base(missing[name], host)
            if base is None:
                why = "none is kept that was made like this"
                reporter.step(steps.MakeBase(reason=why, machine=name, declared=missing[name]))
                base = await make_base(missing[name], host, partial(reporter.progress, name))
        bases[name] = base

    failed = await for_each(missing, one)
    for name, error in failed.items():
        reporter.ended(name, error)
    return bases, failed


async def drop_unused(host: Host, reporter: Reporter, *, failed: bool, planned: Plan) -> None:
    """Remove bridges that nobody is on any more, as things are now and not as they were when all was planned.

    A machine that failed to move may still need the bridge it was on; names are kept of those there are. Of what was
    ``planned`` the kernel routes 127.0.0.1 no more where that still is so.
    """
    async with host.files.fleet_lock():
        observed = observe(host)
        plan = plan_unused(observed, machine="")
        plan += plan_left_open(observed, plan)
        plan = names_only(plan) if failed else plan
        wanted = wanted_loopback(observed.files)
        plan += [
            step for step in planned if isinstance(step, steps.SetSysctl) and step.name.split("/")[3] not in wanted
        ]
        await execute(plan, host, reporter=reporter)


async def _finish_renames(host: Host, reporter: Reporter) -> Failed:
    """Finish what killed runs were renaming: half of it looks like a machine without a tree. Give what went wrong."""
    failed: Failed = {}
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
