# SPDX-License-Identifier: LGPL-2.1-or-later
"""One machine of a rollout: phase by phase, each written down before it begins, so that whoever finds it can go on."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from machines.declare.fleet import own_file, parse_fleet
from machines.declare.write import write_machine
from machines.errors import Conflict, MachctlError, NotFound, raise_all
from machines.model import rollout as phases
from machines.model.frozen import replace
from machines.model.health import Health
from machines.model.machine import Machine
from machines.model.names import machine_lock, machine_unit
from machines.model.observed import Record
from machines.model.rollout import Before, Generation, stand_in_name, write_rollout
from machines.model.snapshot import timed_name
from machines.operations.bases import known_base, wanted_base
from machines.operations.declared import declared_machines, one_file, readable_machines
from machines.operations.execute import execute
from machines.operations.fleet import make_planned
from machines.operations.fleetplan import PLAIN, Wishes, fleet_plan
from machines.operations.observe import observe
from machines.operations.readiness import answering_ports, lacks_ipv6
from machines.operations.records import read_networks, read_records
from machines.operations.reporter import Reporter
from machines.operations.standin import AsMachine, How, copy_of, kept_tree, last_words, read_state
from machines.operations.tree import drop_staged
from machines.operations.unfinished import read_unfinished, unmark, write_unfinished
from machines.plan import rollout as parts
from machines.plan import steps
from machines.plan.check import check_machine, check_taken, check_tree
from machines.plan.claims import split_claims
from machines.plan.declared import NETWORK, plan_needed
from machines.plan.kinds import RECREATE, kind_of_plan
from machines.plan.machine import plan_machine
from machines.plan.remove import plan_remove
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.placement import Placement
from machines.render.redirect import addresses_of

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.base import Base

_MOVED_BACK = "it answers itself again"
_STOOD_IN = "its ports lead to its stand-in until then"


class Rolling:
    """The rollout of one machine, which nobody else may change meanwhile, nor its stand-in."""

    def __init__(self, name: str, host: Host, reporter: Reporter, how: How, base: Base | None = None) -> None:
        """``base`` is the one that was made for its new tree: of some sources nobody else can tell which that is."""
        self._name, self._host, self._how, self._base = name, host, how, base
        self._stand_in = stand_in_name(name)
        self._reporter = AsMachine(name, reporter)
        self._state = read_state(name, host)
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name in (self._name, self._stand_in):
                stack.enter_context(self._host.files.lock(machine_lock(name), what=f"machine {name}"))
            self._locks = stack.pop_all()
        self._state = read_state(self._name, self._host)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks.close()

    # --- the two ways ---

    async def forward(self, wishes: Wishes) -> None:
        """Make the machine what is declared. Raises MachctlError once it is what it was."""
        machine = self._as_declared()
        planned = fleet_plan([self._name], self._host, verb="rollout", wishes=wishes)
        kind = kind_of_plan(planned.plans[self._name])
        answering = await self._answering()
        old = parts.old_ports(self._record(self._name))
        ports = parts.expected_ports(machine, old, answering)
        await self._move(machine, anew=kind == RECREATE, ports=ports)
        earlier = self._state.current
        before = self._before(parts.SNAPSHOT if kind == RECREATE else "", answering)
        self._save(
            phases.REPLACING, kind=kind, target=phases.DECLARED, why="", restored="", earlier=earlier,
            group=machine.group,
            current=Generation(
                earlier.number + 1, write_machine(replace(machine, group="")), before
            ),
        )  # fmt: skip
        await self._replaced(wishes)

    async def back(self, *, why: str, keep: bool = False) -> None:
        """Make the machine what it was before its last rollout, and ``keep`` a snapshot of the tree that it gives up.

        Raises MachctlError once it is what it is now.
        """
        target = self._state.current.before
        assert target is not None
        machine = self._current()
        raise_all(parts.check_restored(self._state) if not self._how.force else [])
        async with self._host.files.fleet_lock():
            raise_all(parts.check_given(self._name, target, read_records(self._host)))
        raise_all(parts.check_rollout(machine, self._record(self._name), declared_machines(self._host)))
        answering = await self._answering()
        await self._move(machine, anew=False, ports=tuple(set(answering) & set(parts.guest_ports(machine.publish))))
        called = parts.UNDONE_SNAPSHOT if keep else parts.SNAPSHOT
        before = self._before(called if target.snapshot else "", answering)
        current = self._state.current
        self._save(
            phases.REPLACING, target=phases.PREVIOUS, why=why, earlier=current, restored="",
            current=Generation(current.number - 1, "", before),
        )  # fmt: skip
        await self._replaced(PLAIN)
        if keep and before.snapshot in self._host.storage.snapshots_of(self._name):
            self._reporter.warn(
                f"the tree that {self._name} had until now is its snapshot {before.snapshot}; once nobody needs that: "
                f"machctl snapshot rm {self._name} {before.snapshot}"
            )

    async def take_up(self) -> bool:
        """Go on where somebody was killed; tell whether the machine was touched at all. Raises MachctlError."""
        state = self._state
        match state.phase:
            case phases.REPLACING if state.target == phases.DECLARED and not self._declared():
                await self._undo("it is no longer declared")
            case phases.REPLACING:
                before = state.current.before
                taken = before is not None and before.snapshot in self._host.storage.snapshots_of(self._name)
                anew = state.kind == RECREATE and not (taken and self._name in self._host.running())
                forced = (self._name,) if anew else ()
                await self._replaced(PLAIN._replace(recreate=anew, forced=forced))
            case phases.UNDOING:
                await self._undo(state.why)
            case phases.RETURNING:
                await self._return_for_good([])
            case _:
                await self._return()
                await self._remove_stand_in()
                if state.unfinished:
                    self._save(phases.FAILED, why="it was interrupted before the machine was touched")
                return False
        return True

    # --- its phases ---

    async def _move(self, machine: Machine, *, anew: bool, ports: tuple[int, ...]) -> None:
        """Have a stand-in of ``machine``, its tree made ``anew`` or a copy, and lead the ports to it."""
        stand_in = parts.stand_in_of(machine, self._stand_in)
        await self._remove_stand_in()
        self._save(phases.TRYING, stand_in=self._stand_in, why="", file=one_file(self._host))
        try:
            await self._make(stand_in, anew=anew)
            why = f"{self._name} stays as it is until its stand-in does its work"
            await self._do([steps.StartMachine(reason=why, machine=self._stand_in, name=self._stand_in)])
            await self._ready(self._stand_in, self._name, machine.health, ports, why)
            self._save(phases.MOVING)
            placement = self._placement(self._stand_in)
            await self._do(parts.plan_move(machine, stand_in, self._record(self._name), placement))
            await self._drain(self._name, parts.guest_ports(parts.old_ports(self._record(self._name))))
        except BaseException as error:
            said = last_words(self._stand_in, self._host) if isinstance(error, MachctlError) else []
            await self._return()
            await self._remove_stand_in()
            self._save(phases.FAILED, why=str(error) or "it was interrupted")
            if isinstance(error, MachctlError):
                hint = "\n".join([f"its journal ended with: {said[0]}", *said[1:]] if said else [])
                raise MachctlError(f"machine {self._name} is left as it is: {error.message}", hint=hint) from error
            raise

    async def _make(self, stand_in: Machine, *, anew: bool) -> None:
        host, name = self._host, stand_in.name
        async with host.files.fleet_lock():
            observed = observe(host, [stand_in], kernel=False)
            declared = declared_machines(host)
            base = (self._base or known_base(stand_in, host)) if anew else None
            if anew and base is None:
                raise NotFound(f"what {self._name} is to be made of is gone", hint="run the same command again")
            raise_all(
                [
                    *check_taken(name, observed, declared),
                    *check_machine(stand_in, observed, declared),
                    *(check_tree(stand_in, observed, base) if anew else []),
                ]
            )
            networks, observed = plan_needed(stand_in, observed)
            copy = None if anew else copy_of(self._name, observed, host)
            intent = f"{phases.INTENT} {self._name}"
            plan = networks + plan_machine(stand_in, observed, base=base, copy=copy, intent=intent)
        await make_planned(stand_in, plan, host, self._reporter)

    async def _replaced(self, wishes: Wishes) -> None:
        """Make the machine what it is to be, and lead its ports back to it; else have it be what it was."""
        try:
            later = await (self._anew(wishes) if self._state.target == phases.DECLARED else self._previous())
        except (MachctlError, OSError) as error:
            await self._undo(str(error))
            hint = error.hint if isinstance(error, MachctlError) else ""
            raise MachctlError(f"machine {self._name} is as before again: {error}", hint=hint) from error
        current = self._state.current
        if self._state.target == phases.DECLARED:
            await self._finish(later, current)
        else:
            # To go forward again is what a rollout does.
            await self._finish(later, current._replace(before=None), ends=phases.UNDONE)

    async def _anew(self, wishes: Wishes) -> Plan:
        found = read_unfinished(self._host)
        # One that was for this machine alone ends with this.
        ours = found is None or found.names == [self._name]
        mark = None if ours else self._host.files.read_text(paths.APPLYING_FILE)
        # Found at boot, it has the machine made what is declared, whatever of it is there.
        mine = write_unfinished([self._name], wishes, self._host)
        try:
            machine = self._as_declared()
            if self._base is None and self._name in wishes.forced:
                # The one that was made for it may be known to nobody any more.
                self._base = await wanted_base(machine, self._host, partial(self._reporter.progress, self._name))
            ports = parts.guest_ports(machine.publish)
            answering = await self._answering(self._stand_in, ports)
            later = await self._apply(wishes)
            await self._ready(self._name, self._stand_in, machine.health, answering)
        except (MachctlError, OSError):
            unmark(mine, self._host, before=mark)
            raise
        unmark(mine, self._host, before=mark)
        return later

    async def _previous(self) -> Plan:
        earlier = self._state.earlier
        if earlier is None or earlier.before is None:
            raise NotFound(f"what machine {self._name} was before is not known any more")
        return await self._restore(earlier.before, self._state.why)

    async def _undo(self, why: str) -> None:
        """Have the machine be what it was before this began."""
        state = self._state
        assert state.current.before is not None
        self._save(phases.UNDOING, why=why)
        try:
            later = await self._restore(state.current.before, f"the new one does not do its work: {why}")
        except (MachctlError, OSError) as error:
            raise MachctlError(
                f"machine {self._name} is neither what it is to be ({why}) nor what it was: {error}",
                hint=f"{self._stand_in} answers in its place; machctl rollout {self._name} tries again",
            ) from error
        await self._finish(later, state.earlier or Generation(), ends=phases.UNDONE)

    async def _finish(self, later: Plan, current: Generation, *, ends: str = phases.DONE) -> None:
        self._save(phases.RETURNING, current=current, earlier=None, ends=ends)
        await self._return_for_good(later)

    async def _return_for_good(self, later: Plan) -> None:
        # What passes on connections knows the new way before the stand-in is no longer behind the old one.
        await self._do(later)
        await self._return()
        if self._stand_in in self._host.running():
            # Not as it is declared: it may not be any more.
            await self._drain(self._stand_in, parts.guest_ports(parts.old_ports(self._record(self._name))))
        await self._remove_stand_in()
        await self._do(parts.plan_sweep(self._name, self._state.current, self._host.storage.snapshots_of(self._name)))
        self._save(self._state.ends or phases.DONE, stand_in="")

    async def _apply(self, wishes: Wishes) -> Plan:
        host, name = self._host, self._name
        before = self._state.current.before
        assert before is not None
        async with host.files.fleet_lock():
            bases = {name: self._base} if self._base else None
            planned = fleet_plan([name], host, verb="rollout", wishes=wishes, bases=bases)
            observed = observe(host)
            first: Plan = [step for key, plan in planned.plans.items() if key.startswith(NETWORK) for step in plan]
            plan, later = parts.replacing(name, planned.plans[name], observed, snapshot=before.snapshot)
            claims, rest = split_claims(plan)
            await self._do([*first, *claims])
        await self._do(rest)
        return later

    async def _restore(self, before: Before, why: str) -> Plan:
        """Make the machine what it was, and wait until it does its work; give what is left to be done."""
        host, name = self._host, self._name
        snapshot = origin = None
        if before.snapshot:
            snapshot = host.storage.snapshots_of(name).get(before.snapshot)
            if snapshot is None and name not in host.pool.trees():
                raise NotFound(f"snapshot {before.snapshot} of {name} is gone", hint=f"machctl snapshot ls {name}")
            origin = host.storage.origin_of_snapshot(snapshot) if snapshot else None
        async with host.files.fleet_lock():
            observed = observe(host)
            # Others may have been given it while its stand-in was made.
            raise_all(parts.check_given(name, before, observed.records))
            plan, later = parts.plan_restore(name, before, observed, snapshot=snapshot, origin=origin, why=why)
            await self._do(plan[:1])
            host.units.reset_failed(machine_unit(name))
            await self._do([*kept_tree(self._state, observed, host), *plan[1:-1]])
        await self._do(plan[-1:])
        probe = before.files.get(paths.probe_file(name))
        health = None
        if probe:
            from machines.render.health import read_probe

            found = read_probe(probe)
            health = found[0] if found else None
        await self._ready(name, self._stand_in, health, before.ports)
        return later

    # --- what they share ---

    def _save(self, phase: str, **changes: Any) -> None:
        self._state = self._state._replace(phase=phase, at=time.time(), **changes)
        self._host.files.write_file(paths.rollout_file(self._name), write_rollout(self._state), mode=0o600)

    async def _do(self, plan: Plan) -> None:
        await execute(plan, self._host, reporter=self._reporter)

    async def _ready(
        self, name: str, other: str, health: Health | None, ports: tuple[int, ...], why: str = _STOOD_IN
    ) -> None:
        """Wait until one of the two does its work, at the kinds of addresses that the ``other`` has inside."""
        lacks, record = await lacks_ipv6(self._record(other), self._host), self._record(name)
        await self._do(parts.await_ready(name, health, record, ports, self._how.limit, why=why, without6=lacks))

    async def _drain(self, name: str, ports: tuple[int, ...]) -> None:
        reason = "whoever is connected keeps the connection"
        await self._do([steps.Drain(reason=reason, machine=name, name=name, ports=ports, seconds=self._how.drain)])

    async def _return(self) -> None:
        """Lead the ports to the machine again, where they lead to a stand-in."""
        if self._host.files.read_text(paths.redirect_file(self._name)) is not None:
            await self._do(parts.plan_return(self._name, why=_MOVED_BACK))

    async def _remove_stand_in(self) -> None:
        host, name = self._host, self._stand_in
        record = read_records(host).get(name)
        if record is None:
            return
        if not record.intent.startswith((f"{phases.INTENT} ", "remove")):
            raise Conflict(f"machine {name} is in the way of a stand-in", hint=f"machctl rename {name} OTHER")
        async with host.files.fleet_lock():
            plan = plan_remove(name, observe(host), readable_machines(host), reason="it was for a moment only")
            drop_staged(name, "", host)
            await self._do(plan)
            host.units.reset_failed(machine_unit(name))

    def _record(self, name: str) -> Record:
        return read_records(self._host).get(name) or Record(name)

    def _placement(self, name: str) -> Placement:
        record, networks = self._record(name), read_networks(self._host)
        return Placement(
            networks={bridge: networks[bridge] for bridge in record.addresses if bridge in networks},
            addresses=record.addresses,
            addresses6=record.addresses6,
            ipv6_loopback=self._host.facts.ipv6_loopback(),
        )

    async def _answering(self, name: str = "", ports: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Give the TCP ports that are published on which the machine answers now, or its stand-in."""
        record = self._record(name or self._name)
        wanted = parts.guest_ports(parts.old_ports(record)) if ports is None else ports
        return await answering_ports(record.name, tuple(filter(None, addresses_of(record))), wanted, self._host)

    def _before(self, called: str, ports: tuple[int, ...]) -> Before:
        """Give what the machine is; of its tree there is going to be a snapshot where that is ``called`` anything."""
        snapshot = timed_name(self._host.storage.snapshots_of(self._name), called) if called else ""
        text = self._host.files.read_text(paths.machine_record(self._name)) or ""
        return parts.before_of(self._name, observe(self._host), record=text, snapshot=snapshot, ports=ports)

    def _current(self) -> Machine:
        """Give what the machine is: as it was declared when it was rolled out, else as it is declared."""
        text, origin = self._state.current.declaration, own_file(self._name)
        found = parse_fleet({origin: text})[0].get(self._name) if text else None
        return found or self._as_declared()

    def _declared(self) -> bool:
        return self._name in declared_machines(self._host)

    def _as_declared(self) -> Machine:
        found = declared_machines(self._host).get(self._name)
        if found is None:
            raise NotFound(f"machine {self._name} is no longer declared", hint="machctl list shows which are")
        return found
