# SPDX-License-Identifier: LGPL-2.1-or-later
"""update: the packages of a machine upgraded in it, and all taken back where it then does not do its work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from machines.errors import Conflict, InvalidFile, MachctlError
from machines.model.machine import Machine
from machines.model.names import machine_lock, machine_unit
from machines.model.observed import Host as Observed
from machines.model.snapshot import timed_name
from machines.model.update import PREFIX, SAVING, Update, Volume, read_update
from machines.operations.copies import origin_of, tree_of
from machines.operations.declared import declared_machines, readable_machines
from machines.operations.execute import execute
from machines.operations.health import probe_of
from machines.operations.observe import observe
from machines.operations.packages import entry_of, find_upgrades, manager_of
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.standin import read_state
from machines.operations.updating import bad_units, probe_well
from machines.plan import steps
from machines.plan.steps import Plan
from machines.plan.update import (
    check_updatable,
    half_restored,
    has_served,
    plan_commit,
    plan_find,
    plan_keep,
    plan_restarts,
    plan_save,
    plan_undo,
    plan_upgrade,
    to_run,
    written_binds,
)  # fmt: skip
from machines.plan.updatesteps import EndMachine, ProveWell, RestartServices
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Beside what a probe itself says, for a machine that starts anew.
_PATIENCE_SECONDS = 30.0


class Wishes(NamedTuple):
    """How a machine is to be updated: a command in it that has to end with 0 (``probe``), for how many seconds its
    own probe may fail, whether directories that it writes into are rolled back as well, how many snapshots stay.

    ``interrupted`` says what becomes of a former update that was killed where the machine may have served since: UNDO
    or KEEP. Without it that is an error.
    """

    probe: str = ""
    volumes: bool = True
    health_timeout: float | None = None
    keep: int = 1
    interrupted: str = ""


UNDO, KEEP = "undo", "keep"
PLAIN = Wishes()


class Updated(NamedTuple):
    """What came of an update: what was upgraded, what was restarted for it, and what there is to go back to.

    ``left`` are directories that it writes into and that would not have been rolled back, and why. ``undone`` says
    that a former update was taken back first.
    """

    packages: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    snapshot: str = ""
    left: Mapping[str, str] = {}
    undone: bool = False
    plan: tuple[steps.Step, ...] = ()


async def update(
    name: str, host: Host, reporter: Reporter, wishes: Wishes = PLAIN, *, dry_run: bool = False
) -> Updated:
    """Upgrade the packages of a machine, restart what ran the old ones, see whether it does its work, or undo it all.

    One that does not run is started for it and stopped again. Raises what was wrong, once everything is as before;
    NotFound, Unsupported, Conflict and what else can be known before come before anything is done.
    """
    check_ready(host, verb="update")
    with host.files.lock(machine_lock(name), what=f"machine {name}"):
        undone = await _finish_former(name, host, reporter, wishes, dry_run=dry_run)
        if read_state(name, host).unfinished:
            # Its stand-in writes to the same places.
            raise Conflict(f"a rollout of {name} ended in its middle", hint=f"to go on with it: machctl apply {name}")
        observed = observe(host)
        declared = readable_machines(host)
        tree_of(name, observed)
        host.freezer.refuse_paused(name)
        check_updatable(declared.get(name), observed.records.get(name), name)
        work = _Work(name, host, reporter, wishes, observed, declared)
        done = work.foreseen() if dry_run else await work.do()
    return done._replace(undone=undone)


async def _finish_former(name: str, host: Host, reporter: Reporter, wishes: Wishes, *, dry_run: bool) -> bool:
    """End an update that was killed; tell whether it was taken back. Raises Conflict where others have to say."""
    former = update_of(name, host)
    served = former is not None and _has_served(former, host)
    if served and not wishes.interrupted:
        raise Conflict(
            f"an update of {name} was killed in its middle, and what {name} has done since would be lost with it",
            hint=_choice(name),
        )
    if dry_run:
        return False
    if served and former is not None and wishes.interrupted == KEEP:
        await execute(plan_keep(former), host, reporter=reporter)
        if half := half_restored(former):
            reporter.warn(f"{name}: {half}")
        return False
    return bool(await finish_update(name, host, reporter, killed=True))


def _choice(name: str) -> str:
    return (
        f"to take that back and upgrade anew: machctl update --interrupted {UNDO} {name}\n"
        f"to keep {name} as it is and go on from there: machctl update --interrupted {KEEP} {name}"
    )


class _Work:
    """The update of one machine."""

    def __init__(
        self,
        name: str,
        host: Host,
        reporter: Reporter,
        wishes: Wishes,
        observed: Observed,
        declared: Mapping[str, Machine],
    ) -> None:
        self._name = name
        self._host = host
        self._reporter = reporter
        self._wishes = wishes
        self._origin = origin_of(name, observed, host)
        self._running = name in observed.running
        self._unit = observed.running.get(name, machine_unit(name))
        volumes, self._left = _volumes(declared.get(name), observed, host) if wishes.volumes else ((), {})
        snapshot = timed_name(host.storage.snapshots_of(name), PREFIX)
        self._update = Update(name, SAVING, snapshot, self._running, volumes)

    def foreseen(self) -> Updated:
        """Give the plan as far as it is known before anything was looked for."""
        plan = plan_find(self._name, running=self._running) + plan_save(self._update, self._origin, now=time.time())
        plan += [*plan_upgrade(self._name, ()), self._proof(frozenset(), ())]
        plan += plan_commit(self._update, self._host.storage.snapshots_of(self._name), keep=self._wishes.keep)
        return Updated(left=self._left, plan=tuple(plan))

    async def do(self) -> Updated:
        """Do it."""
        name, host = self._name, self._host
        plan = plan_find(name, running=self._running)
        await execute(plan[:-1], host, reporter=self._reporter)
        try:
            manager_of(name, host)
            self._reporter.step(plan[-1])
            self._reporter.progress(name, "looking for upgrades", 0, None)
            packages = await find_upgrades(name, host)
            failed = await bad_units(name, host) if packages else frozenset()
        except BaseException:
            await self._stop_again()
            raise
        if not packages:
            await self._stop_again()
            return Updated()
        try:
            # machined knows when it started: another start is one that nobody here has asked for.
            since = entry_of(name, host).since_usec
            self._update = self._update._replace(at=time.time(), since=since)
            await execute(plan_save(self._update, self._origin, now=time.time()), host, reporter=self._reporter)
            await execute(plan_upgrade(name, packages), host, reporter=self._reporter)
            restarts = self._restarts()
            await execute(restarts, host, reporter=self._reporter)
            units = tuple(unit for step in restarts if isinstance(step, RestartServices) for unit in step.units)
            await execute([self._proof(failed, units)], host, reporter=self._reporter)
        except MachctlError as error:
            raise await self._undone(packages, error) from error
        except BaseException:
            await finish_update(name, host, self._reporter, why="it was interrupted")
            raise
        snapshots = host.storage.snapshots_of(name)
        await execute(plan_commit(self._update, snapshots, keep=self._wishes.keep), host, reporter=self._reporter)
        whole = tuple(name for step in restarts if isinstance(step, steps.RestartMachine))
        kept = self._update.snapshot if self._wishes.keep else ""
        return Updated(tuple(packages), whole or units, kept, self._left)

    def _restarts(self) -> Plan:
        leader = entry_of(self._name, self._host).leader
        return plan_restarts(self._name, self._host.upkeep.stale_units(leader, self._unit))

    def _proof(self, failed: frozenset[str], units: tuple[str, ...]) -> ProveWell:
        health, payload = probe_of(self._name, self._host) or (None, None)
        limit = self._wishes.health_timeout
        if limit is None and health is not None:
            limit = health.start_period + health.retries * (health.interval + health.timeout) + _PATIENCE_SECONDS
        return ProveWell(
            reason="what does not work is taken back", machine=self._name, health=health, payload=payload,
            command=self._wishes.probe, failed=tuple(sorted(failed)), units=units, limit=limit or 0.0,
        )  # fmt: skip

    async def _stop_again(self) -> None:
        if not self._running:
            step = EndMachine(reason="it did not run before", machine=self._name)
            await execute([step], self._host, reporter=self._reporter.quietly())

    async def _undone(self, packages: list[str], error: MachctlError) -> MachctlError:
        """Take it all back; give the error that says so, and why."""
        name, host = self._name, self._host
        record = update_of(name, host)
        changed = record is not None and record.phase != SAVING
        try:
            await finish_update(name, host, self._reporter, why=error.message)
        except MachctlError as second:
            return MachctlError(
                f"the update of {name} failed, and could not be taken back: {second.message}",
                hint=f"{error.message}\n{error.hint}\nmachctl gc tries again; {second.hint}",
            )
        if not changed:
            return MachctlError(f"{error.message}; nothing was changed", hint=error.hint, exit_code=error.exit_code)
        what = ", ".join(packages[:3]) + (f" and {len(packages) - 3} more" if len(packages) > 3 else "")
        message = f"{error.message}; {name} has been taken back to how it was before the upgrade of {what}"
        hint = error.hint
        try:
            if self._running:
                proof = self._proof(frozenset(), ())
                health = probe_of(name, host)
                if health is not None:
                    await probe_well(proof, health[0], host)
        except MachctlError as still:
            message += f", where it is not well either: {still.message}"
        left = "".join(f"\n{path} was not taken back: {why}" for path, why in self._left.items())
        return MachctlError(message, hint=hint + left)


def _volumes(machine: Machine | None, observed: Observed, host: Host) -> tuple[tuple[Volume, ...], dict[str, str]]:
    """Give the directories that a machine writes into and that can be kept; and those that cannot be, and why."""
    if machine is None or all(bind.read_only for bind in machine.binds):
        return (), {}
    try:
        # Who cannot be read may write to the same places, and would lose it.
        declared = declared_machines(host, together=False)
    except MachctlError as error:
        raise InvalidFile(
            f"{error.message}; so nobody knows who else writes where {machine.name} does",
            hint=f"mend that, or roll back its tree alone: machctl update --no-volumes {machine.name}",
        ) from error
    settings = {path: text for path, text in observed.files.items() if path.endswith(".nspawn")}
    binds = written_binds(machine, declared, settings=settings, real=host.upkeep.real_path)
    left, found = dict(binds.left), []
    for number, source in enumerate(binds.own, 1):
        volume = host.upkeep.find_volume(source, machine.name, number)
        if isinstance(volume, str):
            left[source] = volume
        else:
            found.append(volume)
    return tuple(found), left


def update_of(name: str, host: Host) -> Update | None:
    """Give the update of a machine that is under way, or was when it was killed."""
    text = host.files.read_text(paths.update_record(name))
    return read_update(text) if text else None


def unfinished_updates(host: Host) -> list[str]:
    """Name the machines whose updates were killed, or are under way."""
    found = host.files.read_files([f"{paths.UPDATE_DIRECTORY}/*.json"])
    return sorted(path.rpartition("/")[2].removesuffix(".json") for path in found)


async def finish_update(
    name: str,
    host: Host,
    reporter: Reporter,
    *,
    why: str = "it was killed in the middle",
    killed: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Take back an update that did not come to its end, or finish one that did; give the plan, empty for none.

    One that was ``killed`` some time ago leaves a machine stopped that somebody has stopped since. The caller holds the
    lock of the machine.
    """
    text = host.files.read_text(paths.update_record(name))
    if text is None:
        return []
    found = read_update(text)
    if found is None:
        # Written whole or not at all: this is none of ours.
        raise MachctlError(f"{paths.update_record(name)} is no record of an update", hint="remove it")
    if killed:
        up, since = _life(name, host)
        died = host.units.states([machine_unit(name)]).get(machine_unit(name)) == "failed"
        found = found._replace(running=to_run(found, up=up, died=died, since=since))
    plan: Plan = []
    if host.freezer.is_held(name):
        plan.append(steps.ThawMachine(reason="whoever held it still was killed", machine=name))
    plan += plan_undo(found, observe(host), reason=why)
    if not dry_run:
        await execute(plan, host, reporter=reporter)
    return plan


def _life(name: str, host: Host) -> tuple[bool, int]:
    """Tell whether a machine runs or is about to, and when it started, 0 where that is not known yet."""
    unit, entry = machine_unit(name), host.registered().get(name)
    up = entry is not None or host.units.states([unit]).get(unit) in {"active", "activating"}
    return up, entry.since_usec if entry else 0


def _has_served(update: Update, host: Host) -> bool:
    up, since = _life(update.machine, host)
    return has_served(update, up=up, since=since, now=time.time())


async def finish_updates(host: Host, reporter: Reporter, *, dry_run: bool) -> tuple[Plan, dict[str, MachctlError]]:
    """Do as finish_update() does for all updates that nobody is at work on any more; give the plan, and the errors."""
    plan: Plan = []
    failed: dict[str, MachctlError] = {}
    for name in unfinished_updates(host):
        if not host.files.is_locked(machine_lock(name)):
            with host.files.lock(machine_lock(name), what=f"machine {name}"):
                found = update_of(name, host)
                if found is not None and _has_served(found, host):
                    reporter.warn(
                        f"the update of {name} was killed in its middle, and what {name} has done since would be lost "
                        f"with it\n{_choice(name)}"
                    )
                    continue
                try:
                    plan += await finish_update(name, host, reporter, killed=True, dry_run=dry_run)
                except MachctlError as error:
                    # That is no reason to leave all else as it is.
                    failed[name] = MachctlError(
                        f"the update of {name} cannot be taken back: {error.message}",
                        hint=error.hint,
                        exit_code=error.exit_code,
                    )
    return plan, failed
