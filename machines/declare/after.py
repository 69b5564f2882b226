# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine waits for: "db", "db/postgresql.service" or "db:healthy"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from machines.declare.reader import WrongKey
from machines.errors import InvalidValue, MachctlError
from machines.model.after import HEALTHY, After, find_circle, order_of
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import check_known_name

# systemd.unit(5), DESCRIPTION: 255 characters at most, these alone; nobody waits for one with a backslash.
_UNIT = r"[A-Za-z0-9:_.@-]{1,240}\.(service|socket|target|device|mount|automount|swap|path|timer|slice)"


def parse_after(text: str) -> After:
    """Read one entry of ``after``. Raises InvalidValue."""
    name, slash, unit = text.partition("/")
    name, colon, state = name.partition(":")
    if (slash and (colon or not re.fullmatch(_UNIT, unit))) or (colon and state != HEALTHY):
        wrong = f"{unit!r} is no unit" if slash and not colon else f"{state!r} is nothing a machine can be"
        raise InvalidValue(f"{text!r}: {wrong}", hint=_FORMS)
    try:
        check_known_name(name)
    except InvalidValue as error:
        raise InvalidValue(f"{text!r} is nothing to wait for: {error.message}", hint=_FORMS) from None
    return After(name, unit, bool(colon))


_FORMS = "write a machine, a unit in it, or that it is healthy: db, db/postgresql.service, db:healthy"


def check_after(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with what a machine waits for, whatever else there is."""
    if any(after.machine == machine.name for after in machine.after):
        return [InvalidValue(f"machine {machine.name} cannot wait for itself", hint="take it out of its after")]
    return []


def check_order(machines: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what is wrong with what these machines, all that are declared, wait for taken together."""
    errors: list[MachctlError] = []
    if not any(machine.after for machine in machines.values()):
        return errors
    if circle := find_circle(order_of(machines)):
        ways = ", ".join(f"{one} after {other}" for one, other in pairwise(circle))
        errors.append(_wrong(machines[circle[0]], f"machines wait for each other: {ways}", "leave one out"))
    for machine in machines.values():
        for after in machine.after:
            other = machines.get(after.machine)
            if after.healthy and other is not None and getattr(other, "health", None) is None:
                said = f"machine {machine.name} waits for {other.name} to be healthy, and nothing says how to tell"
                hint = f"write [machines.{other.group or other.name}.health], or wait for {other.name} alone"
                errors.append(_wrong(machine, said, hint))
    return errors


def _wrong(machine: Machine, said: str, hint: str) -> WrongKey:
    return WrongKey(machine.origin, f"machines.{machine.group or machine.name}.after", said, hint)


def with_groups(machines: dict[str, Machine]) -> dict[str, Machine]:
    """Give the machines with each of its replicas in the place of a name that is that of several."""
    groups: dict[str, list[str]] = {}
    for machine in machines.values():
        if machine.group and machine.group not in machines:
            groups.setdefault(machine.group, []).append(machine.name)
    if not groups:
        return machines
    return {
        name: replace(machine, after=tuple(each for after in machine.after for each in _members(after, groups)))
        if any(after.machine in groups for after in machine.after)
        else machine
        for name, machine in machines.items()
    }


def _members(after: After, groups: Mapping[str, list[str]]) -> list[After]:
    return [after._replace(machine=name) for name in groups.get(after.machine, [after.machine])]
