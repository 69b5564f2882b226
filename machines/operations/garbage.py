# SPDX-License-Identifier: LGPL-2.1-or-later
"""gc: what killed runs left, and nothing that another machctl is working on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.errors import MachctlError, raise_all
from machines.model.base import IMPORTED
from machines.model.frozen import replace
from machines.model.health import HEALTHY
from machines.model.names import machine_lock
from machines.model.observed import Host as Observed
from machines.operations.bases import is_being_made
from machines.operations.declared import declared_machines
from machines.operations.execute import execute
from machines.operations.fleet import is_somebodys
from machines.operations.fleetplan import stand_ins
from machines.operations.health import health_of
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.gc import plan_gc
from machines.plan.rename import plan_unfinished
from machines.plan.rollout import plan_settle
from machines.plan.steps import Plan
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def collect_garbage(
    host: Host, reporter: Reporter, *, dry_run: bool, failed: dict[str, MachctlError] | None = None
) -> Plan:
    """Remove what killed runs left, and nothing that another machctl is working on; give the plan.

    Why machines could not be taken back to what they were comes into ``failed``; where that is None, it is raised once
    all else is done.
    """
    check_ready(host, verb="gc")
    undone, wrong = await _finish_updates(host, reporter, dry_run=dry_run)
    async with host.files.fleet_lock():
        temporary = host.files.abandoned()
        leftovers = host.pool.leftovers()
        observed, declared, storage = observe(host), declared_machines(host, together=False), host.storage
        kept = storage.layer_leftovers() | storage.snapshot_leftovers() | storage.restored_leftovers()
        held = host.freezer.held_machines()
        known = {*leftovers.values(), *kept.values(), *held, *observed.records}
        busy = frozenset(name for name in known if _is_busy(name, observed, host))
        store = [path for path, name in kept.items() if name not in busy]
        # A layer that no record and no tree leads to: nobody can ever mount it again.
        lost = set(storage.layers()) - {*observed.records, *observed.trees, *declared}
        store += [paths.layer(name) for name in sorted(lost) if not host.files.is_locked(machine_lock(name))]
        store += [path for path, base in storage.base_leftovers().items() if not is_being_made(base, host)]
        store += [*host.files.abandoned_directories(), *storage.pool_leftovers()]
        settled, observed = _settled(observed, host, busy, reporter)
        plan: Plan = settled
        plan += [
            steps.ThawMachine(reason="whoever held it still was killed", machine=name)
            for name in sorted(held)
            if name not in busy
        ]
        plan += [
            step
            for name, record in observed.records.items()
            if record.intent.startswith("rename ") and name not in busy
            for step in plan_unfinished(record, observed, declared)
        ]
        plan += plan_gc(observed, declared, leftovers, busy=busy, temporary=temporary, store=store)
        used = {record.base for record in observed.records.values()} | {tree.base for tree in observed.trees.values()}
        used |= {snapshot.base for taken in observed.snapshots.values() for snapshot in taken}
        plan += [
            steps.RemoveBase(reason="it was for one machine alone, which is gone", base=base.id)
            for base in observed.bases.values()
            if base.source.startswith(IMPORTED)
            and base.id not in used
            and not host.files.is_locked(machine_lock(base.source.removeprefix(IMPORTED)))
        ]
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    if failed is None:
        raise_all(list(wrong.values()))
    else:
        failed |= {**wrong, **failed}
    return undone + plan


async def _finish_updates(host: Host, reporter: Reporter, *, dry_run: bool) -> tuple[Plan, dict[str, MachctlError]]:
    if not host.files.read_files([f"{paths.UPDATE_DIRECTORY}/*.json"]):
        return [], {}
    from machines.operations.update import finish_updates

    return await finish_updates(host, reporter, dry_run=dry_run)


def _settled(observed: Observed, host: Host, busy: frozenset[str], reporter: Reporter) -> tuple[Plan, Observed]:
    """Give the steps that end rollouts whose machines answer themselves, and the host once they are done."""
    plan: Plan = []
    for name in stand_ins(observed.records.values()):
        if name in busy or host.files.is_locked(machine_lock(name)):
            continue
        entry = host.registered().get(name)
        ready = entry is not None and health_of(name, entry.leader, host) in {"", HEALTHY}
        found = plan_settle(name, observed, ready=ready)
        if found is None:
            reporter.warn(f"the rollout of {name} ended in its middle; to go on with it: machctl apply {name}")
            continue
        plan += found
        texts = {step.path: step.text for step in found if isinstance(step, steps.WriteFile)}
        gone = {step.path for step in found if isinstance(step, steps.RemoveFile)}
        files = {path: text for path, text in observed.files.items() if path not in gone}
        observed = replace(observed, files={**files, **texts})
    return plan, observed


def _is_busy(name: str, observed: Observed, host: Host) -> bool:
    """Tell whether a machctl is working on a machine, or waits for the command it has it for."""
    return is_somebodys(name, observed, host) or host.files.is_locked(machine_lock(name))
