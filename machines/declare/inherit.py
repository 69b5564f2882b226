# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine has from defaults and profiles, for those who write its own table: what need not be said there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from machines.declare.fleet import FLEET_DIRECTORY, FLEET_FILE, is_layered, own_file, parse_fleet
from machines.declare.keys import BY_NAME, function
from machines.declare.layers import Place
from machines.declare.lines import key_lines, line_of
from machines.declare.machine import read_machine
from machines.declare.profiles import Below
from machines.declare.reader import Table
from machines.declare.replicas import filled
from machines.declare.rewritten import checked
from machines.declare.toml import declares_only, parse_toml, quote_key
from machines.declare.write import declared_values, default_word, write_machine
from machines.errors import Conflict, MachctlError, raise_all
from machines.model.command import apply_command
from machines.model.frozen import NamedTuple, replace
from machines.model.machine import Machine


class Inherited(NamedTuple):
    """What is below a machine's own table, as it would stand there, and where it does stand."""

    values: Mapping[str, object]
    places: Mapping[str, Place]


NOTHING = Inherited({}, {})


def is_declaration(path: str) -> bool:
    """Tell whether a file is one of those that say what is declared on a host."""
    return path == FLEET_FILE or (path.startswith(f"{FLEET_DIRECTORY}/") and path.endswith(".toml"))


def inherited(machine: Machine, files: Mapping[str, str]) -> Inherited:
    """Give what a machine, declared in these files or about to be, inherits in them."""
    if not is_layered(files):
        return NOTHING
    name, origin, below = machine.name, machine.origin, Below()
    own: Mapping[str, object] = {"source": str(machine.source), "network": machine.network}
    for file in sorted(files):
        try:
            top = Table(parse_toml(files[file]), file=file, path="", errors=[])
        except ValueError:
            continue
        below.add(top)
        if file == origin:
            own = {**own, **dict(top.tables("machines")).get(name, top).values}
    asked = Table({"profiles": own.get("profiles", [])}, file=origin, path="", errors=[])
    merged = below.under(own, below.named(asked))
    if not merged.values:
        return NOTHING
    # What is wrong is said by whoever reads the machine itself.
    table = Table({}, file=origin, path="", errors=[])
    table.values = filled(merged.values, {"name": name}, table)
    values = declared_values(read_machine(name, table))
    # What a machine is made of is always its own to say: without it the file would be nothing once the defaults go.
    del values["source"]
    return Inherited(values, merged.places)


def settled(machine: Machine, files: Mapping[str, str], *, whole: bool = False) -> tuple[Machine, str]:
    """Give a machine that is to have a file of its own as it will be then, with what the defaults add; and the text.

    What it leaves at its default is not said of it, but where it is the ``whole`` of another machine. Raises
    InvalidFile.
    """
    below = inherited(machine, files).values
    if not below:
        return machine, write_machine(machine)
    said = declared_values(machine)
    text = write_machine(machine, inherited={key: value for key, value in below.items() if whole or key in said})
    machines, errors = parse_fleet({**files, machine.origin: text})
    if machine.name not in machines:
        raise_all([error for error in errors if machine.name in error.message] or errors)
    return machines[machine.name], text


def moved(machine: Machine, name: str, files: Mapping[str, str]) -> tuple[Machine, str]:
    """Give a machine that has a file of its own under another name, and the text of its file then.

    What people wrote in it stays, where the name stands in it as plainly as it can.
    """
    origin = own_file(name)
    declared = {path: text for path, text in files.items() if is_declaration(path) and path != machine.origin}
    wanted = replace(machine, name=name, origin=origin)
    text = files.get(machine.origin, "")
    for old in (machine.name, f'"{machine.name}"'):
        new = quote_key(name)
        text = re.sub(rf"(?m)^\[machines\.{re.escape(old)}(?=[].])", f"[machines.{new}", text)
    machines, _ = parse_fleet({**declared, origin: text})
    if name in machines and declares_only(text, "machines", name):
        return machines[name], text
    return settled(wanted, declared, whole=True)


def edited(machine: Machine, before: Machine, files: Mapping[str, str]) -> tuple[Machine, str]:
    """Give the file that declares ``before``, with ``machine`` in its place, and the machine that it says then.

    A value that is taken back is the one that it inherits again, if there is one. Raises Conflict for a replica, and
    for what is inherited and cannot be taken back in the machine's own table.
    """
    text = files[before.origin]
    if before.group:
        line = line_of(f"machines.{before.group}", key_lines(text))
        raise Conflict(
            f"{before.name} is one of the replicas of {before.group}, which are all alike",
            hint=f"edit [machines.{before.group}] in {before.origin}:{line} for all of them, then run: "
            + apply_command(before.origin),
        )
    found = inherited(before, files)
    if not found.values:
        made = write_machine(machine, text, before=before)
        return checked(made, machine, files), made
    raise_all(_kept(machine, before, found, files))
    made = write_machine(machine, text, before=before, inherited=found.values)
    return checked(made, machine, files, inherited=found.values), made


def _kept(machine: Machine, before: Machine, found: Inherited, files: Mapping[str, str]) -> list[MachctlError]:
    """What was taken from a machine that a layer below it goes on saying."""
    wanted, was = declared_values(machine), declared_values(before)
    errors: list[MachctlError] = []
    for key, below in found.values.items():
        value = wanted.get(key)
        if value == was.get(key):
            continue
        if isinstance(below, list):
            lost = [(f"{key}[{index}]", item) for index, item in enumerate(below) if item not in _items(value)]
        elif isinstance(below, dict):
            lost = [(f"{key}.{word}", item) for word, item in below.items() if not _has(key, value, word)]
        else:
            fixed = value is None and was.get(key) == below and default_word(BY_NAME[key]) is None
            lost = [(key, below)] if fixed else []
        for path, item in lost:
            place = found.places.get(path) or found.places.get(key) or Place(before.origin, key)
            line = line_of(place.path, key_lines(files.get(place.file, "")))
            errors.append(
                Conflict(
                    f"{key} {item} of {before.name} is what {place.path.rpartition('.')[0]} says",
                    hint=f"take it out there, in {place.file}:{line}, then run: {apply_command(place.file)}",
                )
            )
    return errors


def _items(value: object) -> list[object] | dict[str, object]:
    return value if isinstance(value, (list, dict)) else []


def _has(key: str, value: object, word: str) -> bool:
    """Tell whether a table has a value for ``word``, or one that takes its place."""
    items, inner = _items(value), BY_NAME[key].inner
    choice = {each.name: each.one_of for each in function(inner)} if inner else {}
    return word in items or (bool(choice.get(word)) and any(choice.get(str(each)) == choice[word] for each in items))
