# SPDX-License-Identifier: LGPL-2.1-or-later
"""The networks that plans of machines need, as they are declared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, raise_all
from machines.model.command import apply_command
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.network import DeclaredNetwork
from machines.model.observed import Host as Observed
from machines.plan.networks import as_done, check_networks, plan_networks, plan_undeclared, resolve
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.declare.reader import WrongKey

# What the plan of a network is kept under beside those of machines, whose names hold no space.
NETWORK = "network "

_Read = tuple[dict[str, DeclaredNetwork], dict[str, DeclaredNetwork], list[MachctlError]]


def plan_needed(machine: Machine, observed: Observed) -> tuple[Plan, Observed]:
    """Give what has to be made of declared networks before a machine can be on them, and the host once it is.

    Raises Conflict and InvalidFile for a network that cannot be as it is declared.
    """
    plans, view = plan_declared([machine], observed)
    return [step for plan in plans.values() for step in plan], view


def plan_declared(
    machines: Iterable[Machine], observed: Observed, *, whole: bool = False
) -> tuple[dict[str, Plan], Observed]:
    """Give the plans of the networks that ``machines`` are on, and the host after them.

    With ``whole`` of all as well that the files which count declare, or no longer do. Raises Conflict and InvalidFile
    for networks that cannot be as they are declared, and Conflict where others than ``machines`` would lose their
    addresses by a network that is not among the latter.
    """
    chosen = list(machines)
    read = _read(observed)
    declared = _networks_for(chosen, read, observed, whole=whole)
    plans: dict[str, Plan] = {}
    own = [name for name, network in declared.items() if observed.declares(network.origin)] if whole else []
    if whole:
        plans = {NETWORK + name: plan for name, plan in plan_undeclared(declared, observed).items()}
    on = [name for name in dict.fromkeys(b for each in chosen for b in each.bridges) if name in declared]
    names = list(dict.fromkeys([*own, *on]))
    raise_all([*_said_twice(names, read), *check_networks(declared, observed, names)])
    others = [name for name in on if name not in own]
    raise_all(_left_behind(declared, observed, others, {each.name for each in chosen}))
    plans |= {NETWORK + name: plan for name, plan in plan_networks(declared, observed, names).items()}
    view = observed
    for plan in plans.values():
        view = as_done(view, plan)
    return plans, view


def _left_behind(
    declared: Mapping[str, DeclaredNetwork], observed: Observed, names: Iterable[str], chosen: Collection[str]
) -> list[MachctlError]:
    """What keeps networks from getting other subnets: machines that are not ``chosen`` have addresses in those."""
    errors: list[MachctlError] = []
    for name in names:
        have = observed.networks.get(name)
        others = sorted(recorded_on(name, observed) - set(chosen))
        if have is None or not others:
            continue
        wanted = resolve(declared[name], observed)
        if (have.subnet, have.subnet6) != (wanted.subnet, wanted.subnet6):
            command = apply_command(wanted.origin)
            errors.append(
                Conflict(
                    f"network {name} is declared with other subnets by now, and has other machines on it: "
                    f"{', '.join(others)}",
                    hint=f"move all of them along: {command}",
                )
            )
    return errors


def _said_twice(names: Iterable[str], read: _Read) -> list[MachctlError]:
    """What is said of networks in the one file that counts and in the host's own, and is not the same."""
    theirs, mine, _ = read
    return [
        Conflict(
            f"network {name} is declared in {theirs[name].origin} and in {mine[name].origin}, and not the same",
            hint="keep one of the two, or let both say the same",
        )
        for name in names
        if name in mine and name in theirs and replace(mine[name], origin=theirs[name].origin) != theirs[name]
    ]


def recorded_on(name: str, observed: Observed) -> set[str]:
    """Name the machines that have a link to a network, by what is recorded of them."""
    return {record.name for record in observed.records.values() if name in record.addresses or name in record.networks}


def networks_in(observed: Observed) -> dict[str, DeclaredNetwork]:
    """Give the networks that the host's files declare. Raises InvalidFile for a declaration that is none."""
    theirs, mine, errors = _read(observed)
    raise_all(errors)
    return {**theirs, **mine}


def _networks_for(
    machines: Collection[Machine], read: _Read, observed: Observed, *, whole: bool
) -> dict[str, DeclaredNetwork]:
    """Give the networks that are declared. Raises InvalidFile for what is wrong with those that count here.

    A mistake in another file is none of these machines, unless it is why a network of theirs is not known.
    """
    theirs, mine, errors = read
    declared = {**theirs, **mine}
    if errors:
        from machines.declare.reader import WrongKey

        needed = {bridge for machine in machines for bridge in machine.bridges}
        needed |= {other for name in (needed | mine.keys()) & declared.keys() for other in declared[name].reach}
        needed -= mine.keys()
        every = whole and not observed.declared_in
        raise_all(
            [
                error
                for error in errors
                if every
                or not isinstance(error, WrongKey)
                or error.file == observed.declared_in
                or any(_hides(error, name, theirs, observed) for name in needed)
            ]
        )
    return declared


def _hides(error: WrongKey, name: str, known: Collection[str], observed: Observed) -> bool:
    """Tell whether what is wrong with a file is why nobody knows how a network is declared."""
    path = error.path.replace('"', "")
    if path:
        return path == "networks" or f"{path}.".startswith(f"networks.{name}.")
    import re

    have = observed.networks.get(name)
    # Of a file that is not TOML nobody can tell what it declares, but it can be guessed.
    called = rf"[\"']?{re.escape(name)}[\"']?"
    said = rf"networks\s*\.\s*{called}(?![\w-])|(?:^|[{{,])\s*{called}\s*[.=]"
    there = re.search(said, observed.files.get(error.file, ""), re.MULTILINE)
    return name not in known and (there is not None or (have is not None and have.origin == error.file))


def _read(observed: Observed) -> _Read:
    """Give the networks of the host's files, those of the one file that is taken in their place, and all errors."""
    theirs = {path: text for path, text in observed.files.items() if path.startswith("/etc/machctl/")}
    own = {path: theirs.pop(path, "") or observed.files.get(path, "") for path in [observed.declared_in] if path}
    # To most there is none, and they need not wait for what reads them.
    if not any("networks" in text for text in (*theirs.values(), *own.values())):
        return {}, {}, []
    from machines.declare.networks import parse_networks

    # The file that is taken in the place of the others may say of a network of theirs what it is now.
    declared, errors = parse_networks(theirs)
    mine, wrong = parse_networks(own)
    return declared, mine, [*errors, *wrong]
