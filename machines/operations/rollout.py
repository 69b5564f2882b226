# SPDX-License-Identifier: LGPL-2.1-or-later
"""rollout: machines get what is declared one after the other, and a stand-in answers for each meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from machines.declare.fleet import DECLARATIONS
from machines.errors import Conflict, MachctlError, NotFound, raise_all
from machines.model.frozen import NamedTuple
from machines.model.machine import Machine
from machines.model.rollout import DECLARED, INTENT, PREVIOUS, Rollout, stand_in_name
from machines.operations.applying import drop_unused, missing_bases
from machines.operations.bases import known_base
from machines.operations.declared import declared_machines, not_declared, one_file
from machines.operations.execute import execute
from machines.operations.fleetplan import PLAIN, SHAPE, FleetPlan, Wishes, fleet_plan, stand_ins
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.records import read_records
from machines.operations.reporter import Reporter
from machines.operations.rolling import Rolling
from machines.operations.standin import How, copy_of, read_state
from machines.operations.together import for_each
from machines.plan.claims import split_claims
from machines.plan.declared import NETWORK
from machines.plan.kinds import RECREATE, kind_of_plan, with_kinds
from machines.plan.machine import plan_machine
from machines.plan.rollout import check_restored, check_rollout, is_rolled, shown, stand_in_of
from machines.plan.steps import Plan
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.base import Base


class Chosen(NamedTuple):
    """What a rollout of ``names`` has to do: their plans, what they cost, and those that get a stand-in."""

    names: tuple[str, ...]
    planned: FleetPlan
    kinds: dict[str, str]
    rolled: tuple[str, ...]
    wishes: Wishes


def members(word: str, host: Host, *, verb: str = "rollout") -> list[Machine]:
    """Give the machine of a name, or the replicas that are declared under it, in their order. Raises NotFound."""
    declared = declared_machines(host)
    found = [machine for machine in declared.values() if machine.group == word]
    if not found and word in declared:
        found = [declared[word]]
    if not found:
        raise not_declared(word, host, verb=verb)
    return sorted(found, key=lambda machine: (len(machine.name), machine.name))


def choose(word: str, host: Host, *, force: bool, bases: dict[str, Base] | None = None) -> Chosen:
    """Look at what a rollout of machines has to do. Raises all that stands in its way."""
    machines = members(word, host)
    names = tuple(machine.name for machine in machines)
    wishes = PLAIN._replace(recreate=True, forced=names if force else ())
    planned = fleet_plan(names, host, verb="rollout", wishes=wishes, bases=bases)
    records, running = read_records(host), host.running()
    kinds = {name: kind_of_plan(planned.plans.get(name, [])) for name in names}
    rolled = tuple(name for name in names if name in running and is_rolled(kinds[name]))
    raise_all(
        [
            error
            for each in machines
            if each.name in rolled
            for error in check_rollout(each, records.get(each.name), planned.declared)
        ]
    )
    return Chosen(names, planned, kinds, rolled, wishes)


async def rollout(word: str, host: Host, reporter: Reporter, how: How) -> dict[str, str]:
    """Give machines what is declared with no moment in which their ports do not answer; give what was done, by name.

    Raises the first error, once the machine that it is of, and those that were done before it, are what they were.
    """
    check_ready(host, verb="rollout")
    with _locked(word, host):
        await take_up([each.name for each in members(word, host)], host, reporter, how)
        chosen = choose(word, host, force=how.force)
        names = [name for name in chosen.names if chosen.planned.plans.get(name)]
        # Without names that would be of all that is declared.
        bases, failed = await missing_bases(names, host, reporter, chosen.wishes) if names else ({}, {})
        raise_all(list(failed.values()))
        done: dict[str, str] = {}
        rolled: list[str] = []
        for name in names:
            try:
                if name in chosen.rolled:
                    _check_unchanged(chosen.planned.declared[name], host)
                    with Rolling(name, host, reporter, how, bases.get(name)) as rolling:
                        await rolling.forward(chosen.wishes._replace(recreated=(name,)))
                    rolled.append(name)
                else:
                    _check_unchanged(chosen.planned.declared[name], host)
                    await _apply_only(name, host, reporter, chosen.wishes, bases)
            except MachctlError as error:
                reporter.ended(name, error)
                raise await _stopped(error, rolled, host, reporter, how) from error
            reporter.ended(name, None)
            done[name] = chosen.kinds[name]
        await drop_unused(host, reporter, failed=False, planned=chosen.planned.plans[""])
    return done


def _check_unchanged(machine: Machine, host: Host) -> None:
    """Raise Conflict where what a machine is made of was edited since its base was looked for, or made."""
    now = declared_machines(host).get(machine.name)
    if now is None or any(getattr(now, field) != getattr(machine, field) for field in SHAPE):
        raise Conflict(f"the declaration of {machine.name} was edited meanwhile", hint="run the same command again")


def plan_shown(chosen: Chosen, host: Host, how: How) -> dict[str, Plan]:
    """Give what a rollout would do, by machine, as far as that is known before any of it is done."""
    plans: dict[str, Plan] = {}
    for name in chosen.names:
        plan = chosen.planned.plans.get(name, [])
        if name in chosen.rolled:
            machine = chosen.planned.declared[name]
            stand_in = stand_in_of(machine, stand_in_name(name))
            observed = observe(host, [stand_in], kernel=False)
            kind = chosen.kinds[name]
            base = known_base(machine, host) if kind == RECREATE else None
            copy = None if kind == RECREATE else copy_of(name, observed, host)
            made = plan_machine(stand_in, observed, base=base, copy=copy, intent=f"{INTENT} {name}")
            plan = with_kinds(
                name, shown(machine, stand_in, made, plan, observed, how.drain, how.limit), observed, kind=kind
            )
        plans[name] = plan
    return plans


async def _apply_only(name: str, host: Host, reporter: Reporter, wishes: Wishes, bases: Mapping[str, Base]) -> None:
    """Make a machine what is declared that does not run, or that goes on running."""
    with Rolling(name, host, reporter, How()):
        async with host.files.fleet_lock():
            made = {name: bases[name]} if name in bases else None
            planned = fleet_plan([name], host, verb="rollout", wishes=wishes, bases=made)
            plan: Plan = [step for key, made in planned.plans.items() if key.startswith(NETWORK) for step in made]
            claims, rest = split_claims(planned.plans[name])
            await execute([*plan, *claims], host, reporter=reporter)
        await execute(rest, host, reporter=reporter)


async def _stopped(
    error: MachctlError, rolled: Sequence[str], host: Host, reporter: Reporter, how: How
) -> MachctlError:
    """Take back what was done before something went wrong; give the error that says so."""
    undone, left = [], []
    for name in reversed(rolled):
        try:
            with Rolling(name, host, reporter, how) as rolling:
                await rolling.back(why=f"the rollout stopped: {error.message}")
            undone.append(name)
            reporter.ended(name, None)
        except MachctlError as other:
            reporter.ended(name, other)
            left.append(f"{name}: {other.message}")
    said = f"; {', '.join(sorted(undone))} {'is' if len(undone) == 1 else 'are'} as before again" if undone else ""
    hint = [error.hint] if error.hint else []
    hint += [f"not taken back: {each}" for each in left]
    hint.append("the files still say the new version: correct it there and roll it out again; machctl plan shows it")
    return MachctlError(error.message + said, hint="\n".join(hint))


async def undo(word: str, host: Host, reporter: Reporter, how: How) -> list[str]:
    """Have machines be what they were before their last rollout, with no moment without answers; give their names.

    Raises NotFound where there is nothing to go back to.
    """
    check_ready(host, verb="rollout")
    with _locked(word, host):
        names = [machine.name for machine in members(word, host, verb="rollout undo")]
        await take_up(names, host, reporter, how)
        can = [name for name in names if undo_of(read_state(name, host), host)]
        if not can:
            raise NotFound(
                f"there is no rollout of {word} that could be undone", hint="machctl rollout status says what there was"
            )
        # Before any of them is touched.
        raise_all([error for name in can for error in refusals(name, host, how)])
        for name in reversed(can):
            try:
                with Rolling(name, host, reporter, how) as rolling:
                    await rolling.back(why="asked for", keep=True)
            except MachctlError as error:
                reporter.ended(name, error)
                raise
            reporter.ended(name, None)
        await drop_unused(host, reporter, failed=False, planned=[])
    return can


def refusals(name: str, host: Host, how: How) -> list[MachctlError]:
    """Give why the rollout of a machine is not undone, unless that is forced."""
    return [] if how.force else check_restored(read_state(name, host))


def undo_of(state: Rollout, host: Host) -> bool:
    """Tell whether a machine can be had back as it was before its last rollout."""
    before = state.current.before
    if before is None or state.unfinished:
        return False
    return not before.snapshot or before.snapshot in host.storage.snapshots_of(state.name)


async def take_up(names: Iterable[str], host: Host, reporter: Reporter, how: How) -> list[str]:
    """Go on with rollouts of these machines, of all without names, that ended in their middle; give which there were.

    Raises the first error.
    """
    wanted = set(names)
    found = [name for name in stand_ins(read_records(host).values()) if not wanted or name in wanted]
    states = {name: read_state(name, host) for name in dict.fromkeys([*found, *sorted(wanted)])}
    names = [name for name, state in states.items() if state.unfinished or name in found]
    for name in names:
        with Rolling(name, _as_begun(states[name], host), reporter, how) as rolling:
            touched = await rolling.take_up()
        if touched:
            reporter.ended(name, None)
        else:
            reporter.warn(f"the rollout of {name} was interrupted before that was touched; its stand-in is gone")
    return list(names)


def _as_begun(state: Rollout, host: Host) -> Host:
    """Give the host with the declarations that a rollout was begun by: by others it may not be declared at all."""
    if (
        not state.unfinished
        or state.file == one_file(host)
        or (state.file and host.files.read_text(state.file) is None)
    ):
        return host
    begun: Any = copy(host)
    begun.declarations = (state.file,) if state.file else DECLARATIONS
    found: Host = begun
    return found


async def go_on(names: Iterable[str], host: Host, reporter: Reporter) -> dict[str, MachctlError]:
    """Go on with rollouts that ended in their middle; give the errors."""
    return await for_each(names, lambda name: take_up([name], host, reporter, How()))


def status(names: Iterable[str], host: Host) -> list[dict[str, object]]:
    """Give what is known of rollouts, of these machines or of all."""
    wanted = set(names)
    rows: list[dict[str, object]] = []
    files = host.files.read_files([f"{paths.ROLLOUT_DIRECTORY}/*.json"])
    for name in sorted(path.rpartition("/")[2].removesuffix(".json") for path in files):
        state = read_state(name, host)
        if wanted and not {name, state.group} & wanted:
            continue
        busy = host.files.is_locked(_lock(state.group or name)) or host.files.is_locked(_lock(name))
        rows.append(
            {
                "name": name,
                "group": state.group or None,
                "generation": state.current.number,
                "phase": state.phase if busy or not state.unfinished else "interrupted",
                "step": state.phase if state.unfinished else None,
                "to": {DECLARED: "declared", PREVIOUS: "previous"}.get(state.target),
                "at": state.at,
                "kind": state.kind or None,
                "stand_in": state.stand_in if state.unfinished else None,
                "undo": undo_of(state, host),
                "why": state.why or None,
            }
        )
    return rows


def _lock(word: str) -> str:
    return f"rollout-{word}"


@contextlib.contextmanager
def _locked(word: str, host: Host) -> Iterator[None]:
    with host.files.lock(_lock(word), what=f"the rollout of {word}"):
        yield
