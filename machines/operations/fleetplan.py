# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan of the whole fleet: every machine's own, of networks, of what is no longer declared, of what is unused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.declare.values import parse_publish
from machines.errors import Conflict, MachctlError, raise_all
from machines.model.base import Base
from machines.model.frozen import NamedTuple, replace
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.model.snapshot import Origin, timed_name
from machines.model.tree import Tree
from machines.operations.declared import declared_machines, not_declared, said_twice
from machines.operations.observe import observe
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.check import check_machine, check_made_name, check_tree
from machines.plan.check_host import check_host
from machines.plan.claims import with_shared
from machines.plan.declared import plan_declared
from machines.plan.firewalld import plan_left_open
from machines.plan.kinds import CREATE, LIVE, pending_restart, with_kinds
from machines.plan.links import lost_ends
from machines.plan.machine import plan_machine, tree_note
from machines.plan.order import check_waits
from machines.plan.ports import plan_unrouted
from machines.plan.steps import Plan
from machines.plan.stranded import stranded

if TYPE_CHECKING:
    from machines.host.interfaces import Host

Plans = dict[str, Plan]


class Wishes(NamedTuple):
    """What apply may do beside what costs a machine nothing: restart those that need it, make trees anew, prune.

    Trees of ``forced`` ones are made anew whatever they were made of. ``purge`` keeps nothing of what is pruned.
    Without ``wait`` machines are told to start and not waited for; with ``no_bases`` those are left for later whose
    base is not there yet. ``pruned`` and ``recreated`` are the only ones this is done to, where they are given:
    somebody agreed to that, and the files may say more by now.
    """

    restart: bool = True
    recreate: bool = False
    prune: bool = False
    purge: bool = False
    wait: bool = True
    no_bases: bool = False
    pruned: tuple[str, ...] | None = None
    recreated: tuple[str, ...] | None = None
    forced: tuple[str, ...] = ()

    def may_recreate(self, name: str) -> bool:
        """Tell whether the tree of a machine may be made anew."""
        return self.recreate and (self.recreated is None or name in self.recreated)


PLAIN = Wishes()

# All that the base of a machine depends on.
SHAPE = (
    "source", "mirror", "checksum", "insecure", "packages", "ssh_keys", "variant", "bootstrapper", "keyring",
)  # fmt: skip


class FleetPlan(NamedTuple):
    """The plans by machine, under the empty name what no machine needs any more; and what they were made from.

    ``notes`` says of machines what their plans do not: what apply would do only if it was asked to. ``unfinished`` are
    those whose rollout has a stand-in, ``lost`` those whose tree is a layer over a base that somebody deleted. ``left``
    says which machines of others have addresses that their networks do not have any more.
    """

    plans: Plans
    declared: Mapping[str, Machine]
    pruned: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()
    notes: Mapping[str, str] = {}
    stale: tuple[str, ...] = ()
    recreated: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def fleet_plan(
    names: Iterable[str],
    host: Host,
    *,
    verb: str,
    bases: Mapping[str, Base] | None = None,
    wishes: Wishes = PLAIN,
) -> FleetPlan:
    """Give the plan of every named machine, of all that is declared without names; raise what cannot be fulfilled.

    ``bases`` are those that were made for machines without a tree; where that is None they are looked for, and missing
    ones are part of the plan.
    """
    declared = declared_machines(host)
    names = list(names)
    machines = chosen_machines(names, declared, host, verb=verb)
    raise_all(said_twice(machines, host))
    observed = observe(host, machines, kernel=True)
    raise_all(check_host(observed, verb=verb))
    undeclared = [] if names else _undeclared(observed, declared)
    pruned, plans = [], Plans()
    if wishes.prune:
        pruned = [name for name in undeclared if wishes.pruned is None or name in wishes.pruned]
        if pruned and not declared:
            raise Conflict(
                f"nothing is declared, and all {len(pruned)} machines of the fleet would be removed",
                hint=f"if that is wanted: machctl rm {' '.join(pruned)}",
            )
        plans, observed = _plan_prune(pruned, observed, host, purge=wishes.purge)
    needing = needs_tree(machines, observed.trees, lambda: observed.records, wishes)
    needy = {machine.name for machine in needing}
    found = known_bases(needing, host) if bases is None else dict(bases)
    if bases is not None:
        # Without a base there is nothing to make these of, and their errors have been kept.
        machines = [machine for machine in machines if machine.name not in needy or machine.name in bases]
    raise_all(_errors(machines, needy, observed, declared, found))
    made, view = plan_declared(machines, observed, whole=not names)
    plans |= {name: with_kinds("", plan, observed, kind=LIVE) for name, plan in made.items()}
    left = [] if names else stranded(view, declared)
    stale, recreated = [], []
    for machine in machines:
        if machine.name in needy and machine.name in observed.trees:
            plan = _recreate(machine, view, host, base=found[machine.name])
            recreated.append(machine.name)
            view = with_shared(_bare(machine.name, view), plan)
        else:
            plan = plan_machine(machine, view, base=found.get(machine.name), names=False)
            view = with_shared(view, plan)
            if machine.name in needy and found[machine.name] is None:
                why = "none is kept that was made like this"
                plan.insert(0, steps.MakeBase(reason=why, machine=machine.name, declared=machine))
            pending = pending_restart(machine.name, plan, observed) + lost_ends(machine, plan, observed)
            plan += _run(machine, pending if wishes.restart else [], observed)
            kind = CREATE if machine.name in needy else ""
            plan = with_kinds(machine.name, plan, observed, kind=kind, pending=bool(pending))
            stale += [machine.name] if pending and not wishes.restart else []
        plans[machine.name] = plan
    # Only now is it known which bridges nobody is on any more, and what all names are.
    rest = plan_unused(view, machine="")
    rest += plan_unrouted(view, [step for plan in (*plans.values(), rest) for step in plan])
    rest += plan_left_open(view, [step for plan in (*plans.values(), rest) for step in plan])
    plans[""] = with_kinds("", rest, observed, kind=LIVE)
    notes = {machine.name: tree_note(machine, observed) for machine in machines if machine.name not in needy}
    notes = {name: note for name, note in notes.items() if note}
    unfinished = stand_ins(observed.records.values())
    lost = [each.name for each in machines if each.name not in needy and observed.trees[each.name].kind == "lost"]
    return FleetPlan(
        plans,
        declared,
        tuple(pruned),
        tuple(undeclared),
        notes,
        tuple(stale),
        tuple(recreated),
        unfinished,
        tuple(lost),
        tuple(left),
    )


def stand_ins(records: Iterable[Record]) -> tuple[str, ...]:
    """Name the machines that others stand in for (machctl rollout)."""
    return tuple(record.intent.split()[1] for record in records if record.intent.startswith("standin "))


def _errors(
    machines: Iterable[Machine],
    needy: set[str],
    observed: Observed,
    declared: Mapping[str, Machine],
    found: Mapping[str, Base | None],
) -> list[MachctlError]:
    errors: list[MachctlError] = []
    for machine in machines:
        errors += check_machine(machine, observed, declared)
        errors += check_made_name(machine.name, observed)
        errors += check_waits(machine, observed, declared) if machine.after else []
        errors += check_tree(machine, observed, found[machine.name], trees=len(needy)) if machine.name in needy else []
    return errors


def known_bases(machines: Iterable[Machine], host: Host) -> dict[str, Base | None]:
    """Give the bases that machines can be copied from, by machine; None where one has to be made."""
    machines = list(machines)
    if not machines:
        return {}
    from machines.operations.bases import known_base

    known: dict[tuple[object, ...], Base | None] = {}
    found: dict[str, Base | None] = {}
    for machine in machines:
        key = tuple(getattr(machine, field) for field in SHAPE)
        if key not in known:
            known[key] = known_base(machine, host)
        found[machine.name] = known[key]
    return found


def needs_tree(
    machines: Iterable[Machine], trees: Mapping[str, Tree], records: Callable[[], Mapping[str, Record]], wishes: Wishes
) -> list[Machine]:
    """Give the machines whose trees are to be made: those without one, and those that are to be made anew."""
    machines = list(machines)
    if not (wishes.recreate or wishes.forced):
        return [machine for machine in machines if machine.name not in trees]
    view = Observed(trees=trees, records=records())
    return [
        machine
        for machine in machines
        if machine.name not in trees
        or machine.name in wishes.forced
        or (wishes.may_recreate(machine.name) and tree_note(machine, view))
    ]


def _run(machine: Machine, pending: list[str], observed: Observed) -> Plan:
    """What makes a machine run that is to, and again where it runs with other settings, which ``pending`` names."""
    name = machine.name
    if pending:
        what = ", ".join(pending[:3]) + (f" and {len(pending) - 3} more" if len(pending) > 3 else "")
        return [steps.RestartMachine(reason=f"{what} changed since it started", machine=name, name=name)]
    new = name not in observed.trees
    if name in observed.running or not machine.autostart or (machine.on_demand and not new):
        return []
    if machine_unit(name) in observed.active:
        # It is just starting.
        return []
    reason = "autostart is on" + ("" if new else " and it does not run")
    return [steps.StartMachine(reason=reason, machine=name, name=name)]


def _recreate(machine: Machine, view: Observed, host: Host, *, base: Base | None) -> Plan:
    from machines.plan.recreate import plan_recreate

    chosen = replace(view, storage={**view.storage, machine.storage: host.storage.choose(machine.storage)})
    return plan_recreate(
        machine,
        chosen,
        base=base,
        origin=_origin(machine.name, view, host),
        snapshot=timed_name(_taken(machine.name, view), "recreated-"),
        now=time.time(),
        why=tree_note(machine, view).partition(", which")[0] or "asked for",
    )


def _bare(name: str, view: Observed) -> Observed:
    from machines.plan.recreate import without_tree

    return without_tree(name, view)


def _origin(name: str, view: Observed, host: Host) -> Origin:
    record = view.records[name]
    return host.storage.origin_of_machine(name, record.storage, base=record.base, uid=record.uid)


def _taken(name: str, view: Observed) -> set[str]:
    """Give what snapshots of a machine are called; a run that was killed may have taken one in the same second."""
    return {snapshot.name for snapshot in view.snapshots.get(name, ())}


def _undeclared(observed: Observed, declared: Mapping[str, Machine]) -> list[str]:
    if not observed.records.keys() - declared.keys():
        return []
    from machines.plan.prune import undeclared

    return undeclared(observed, declared)


def _plan_prune(names: list[str], observed: Observed, host: Host, *, purge: bool) -> tuple[Plans, Observed]:
    """Give the plans that take machines away, and the host without them."""
    from machines.plan.prune import plan_prune

    plans = Plans()
    for name in names:
        origin = None if purge or name not in observed.trees else _origin(name, observed, host)
        if origin is None and not purge and name in observed.snapshots:
            origin = Origin("", "", "", None)
        kept = timed_name(_taken(name, observed), "pruned-")
        plans[name] = plan_prune(name, observed, origin=origin, snapshot=kept, now=time.time())
    gone = set(names)
    ports = {
        (port.host + offset, port.protocol)
        for name in names
        for port in map(parse_publish, observed.records[name].ports)
        for offset in range(port.count)
    }
    files = {step.path for plan in plans.values() for step in plan if isinstance(step, steps.RemoveFile)}
    view = replace(
        observed,
        trees={name: tree for name, tree in observed.trees.items() if name not in gone},
        records={name: record for name, record in observed.records.items() if name not in gone},
        running={name: unit for name, unit in observed.running.items() if name not in gone},
        guest_hosts={name: text for name, text in observed.guest_hosts.items() if name not in gone},
        files={path: text for path, text in observed.files.items() if path not in files},
        listeners=tuple(each for each in observed.listeners if (each.port, each.protocol) not in ports),
        active=frozenset(
            unit for unit in observed.active if not any(unit.startswith(f"machctl-port-{name}_") for name in gone)
        ),
    )
    return plans, view


def chosen_machines(names: list[str], declared: Mapping[str, Machine], host: Host, *, verb: str) -> list[Machine]:
    """Give the named machines, all that are declared without names. Raises NotFound for those that are not."""
    raise_all([not_declared(name, host, verb=verb) for name in names if name not in declared])
    return [declared[name] for name in (names or sorted(declared))]
