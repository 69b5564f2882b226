# SPDX-License-Identifier: LGPL-2.1-or-later
"""An edited declaration file read again before it is written, for it must say what was asked for and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.fleet import parse_fleet
from machines.declare.toml import parse_toml
from machines.declare.write import declared_values
from machines.errors import Conflict, raise_all
from machines.model.command import apply_command
from machines.model.machine import Machine


def checked(
    text: str, machine: Machine, files: Mapping[str, str], *, inherited: Mapping[str, object] | None = None
) -> Machine:
    """Give ``machine`` as ``text`` in place of its file says it: as it is asked for, but for what is ``inherited``.

    Raises Conflict where the text says something else, of this machine or of another: tomlkit 0.11 writes a table
    twice that stands behind one below it. Raises InvalidFile for what the machine cannot be.
    """
    name, origin = machine.name, machine.origin
    wrong = Conflict(
        f"{origin} is written in a way that {name} cannot be changed in",
        hint=f"edit {origin} by hand, then run: {apply_command(origin)}",
    )
    try:
        parse_toml(text)
    except ValueError:
        raise wrong from None
    said, errors = parse_fleet({**files, origin: text})
    if name not in said:
        raise_all([error for error in errors if name in error.message] or errors)
    others, _ = parse_fleet(files)
    found = said.pop(name)
    others.pop(name, None)
    if others != said or not _is_meant(found, machine, inherited or {}):
        raise wrong
    return found


def _is_meant(found: Machine, machine: Machine, inherited: Mapping[str, object]) -> bool:
    """Tell whether a machine is as wanted, or inherits again what is not said of it and the order of what is joined."""
    if found == machine or not inherited:
        return found == machine
    said, wanted = declared_values(found), declared_values(machine)
    return all(
        _same(said.get(key), wanted.get(key)) or (key not in wanted and said[key] == inherited.get(key))
        for key in {*said, *wanted}
    )


def _same(value: object, wanted: object) -> bool:
    if isinstance(value, list) and isinstance(wanted, list):
        return sorted(map(str, value)) == sorted(map(str, wanted))
    return value == wanted
