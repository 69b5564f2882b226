# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine back to the text of its declaration file; comments and order of a file that people edited are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from machines.declare.keys import BY_NAME, KEYS, Key, function
from machines.declare.layers import LITERAL, escape
from machines.declare.links import link_values
from machines.declare.toml import format_toml, parse_toml, quote_key
from machines.model.machine import Machine


def declared_values(machine: Machine, *, only: Collection[str] | None = None) -> dict[str, object]:
    """Give what a declaration has to say of ``machine``; what is left at its default is left out.

    With ``only`` no more than these keys are looked at.
    """
    links = link_values(machine) if only is None else {}
    found: dict[str, object] = {}
    for key in KEYS if only is None else map(BY_NAME.__getitem__, only):
        if key.name in links:
            found[key.name] = links[key.name]
        elif not key.special or key.name == "source":
            value = getattr(machine, key.field)
            if value != getattr(Machine, key.field, None):
                found[key.name] = _formed(value, key)
    return found


def _formed(value: Any, key: Key) -> object:
    """Give a value as it stands in a file."""
    form = function(key.form) if key.form else str
    if key.kind == "flag":
        return value
    if key.kind == "texts":
        return [form(each) for each in value]
    if key.kind == "words":
        return value if isinstance(value, str) else list(value)
    if key.kind == "map":
        return dict(map(pair, value))
    if key.kind != "table" or key.form:
        return form(value)
    inner = ((each, getattr(value, each.field)) for each in function(key.inner))
    return {each.name: _formed(said, each) for each, said in inner if said != getattr(type(value), each.field, None)}


def pair(item: Any) -> tuple[str, str]:
    """Give an entry of a table of strings: what is not one already has a name."""
    return item if type(item) is tuple else (item.name, str(item))


def write_machine(
    machine: Machine, text: str = "", *, before: Machine | None = None, inherited: Mapping[str, object] | None = None
) -> str:
    """Give the declaration file ``text`` with ``machine`` in it as it is now; without ``text``, a new file.

    With what the machine was ``before``, only what has changed since is written. What is ``inherited`` (inherit.py) is
    not written; what it says that the machine is not has to be taken away by the caller first.
    """
    inherited = inherited or {}
    if not text:
        return _new_file(machine, inherited)
    if before is not None and text == _new_file(before, inherited):
        return _new_file(machine, inherited)
    import tomlkit

    document = tomlkit.parse(text)
    machines = document.setdefault("machines", tomlkit.table(True))  # noqa: FBT003 (is_super_table has no other form)
    table = machines.setdefault(machine.name, tomlkit.table())
    # Of a table in parts tomlkit 0.11 takes the first for new keys, whether it has a header of its own or not.
    parts = getattr(table, "_tables", ())
    home = next((part for part in parts if not part.is_super_table()), table)
    wanted = declared_values(machine)
    was = declared_values(before) if before else None
    for key in BY_NAME:
        if was is not None and was.get(key) == wanted.get(key):
            continue
        own = _own(key, wanted.get(key), inherited.get(key))
        if own is None:
            if key not in {"profiles", "replicas"}:
                table.pop(key, None)
        elif isinstance(own, dict) and isinstance(table.get(key), dict):
            _edit_table(table[key], own, ordered=BY_NAME[key].kind == "map")
        elif key not in table or not _is_edited(table[key], own):
            (table if key in table else home)[key] = own
    return tomlkit.dumps(document)


def _edit_table(table: dict[str, object], wanted: Mapping[str, object], *, ordered: bool) -> None:
    kept = [key for key in table if key in wanted]
    # Whoever reads it has its entries in this order, if they have one.
    anew = ordered and kept != list(wanted)[: len(kept)]
    for key in list(table) if anew else [key for key in table if key not in wanted]:
        del table[key]
    for key, value in wanted.items():
        if key not in table or not _is_edited(table[key], value):
            table[key] = value


def _is_edited(value: Any, wanted: object) -> bool:
    """Edit a list in its place, with the comments in it; tell whether the value is as wanted then."""
    if value == wanted or not (isinstance(value, list) and isinstance(wanted, list)):
        return bool(value == wanted)
    kept = [item for item in value if item in wanted]
    if kept != wanted[: len(kept)]:
        return False
    for index in reversed([index for index, item in enumerate(value) if item not in wanted]):
        del value[index]
    for item in wanted[len(kept) :]:
        value.append(item)
    try:
        # tomlkit puts an item without its comma behind a comment at the end.
        return parse_toml(f"list = {value.as_string()}") == {"list": wanted}  # type: ignore[attr-defined]
    except ValueError:
        return False


def default_word(key: Key) -> object:
    """Give what says in a file that a key is left at its default; None where nothing does."""
    default = getattr(Machine, key.field, None)
    if default is False or (isinstance(default, str) and default):
        return default
    return "no" if default == "" and "no" in key.choices else None


def _own(name: str, wanted: object, inherited: object) -> object:
    """Give what a machine's own table has to say so that, merged with what it inherits, it is as wanted; or None."""
    if wanted == inherited:
        return None
    if isinstance(wanted, list) and isinstance(inherited, list):
        wanted = [item for item in wanted if item not in inherited] or None
    elif isinstance(wanted, dict) and isinstance(inherited, dict):
        wanted = {key: value for key, value in wanted.items() if inherited.get(key) != value} or None
    elif wanted is None:
        return default_word(BY_NAME[name])
    return wanted if name in LITERAL else escape(wanted)


def _new_file(machine: Machine, inherited: Mapping[str, object]) -> str:
    """Give a file that declares one machine. There is nothing to keep in it, so nobody has to load tomlkit for it."""
    values = declared_values(machine)
    own = {key: _own(key, values.get(key), inherited.get(key)) for key in BY_NAME}
    wanted = {key: value for key, value in own.items() if value is not None}
    name = f"machines.{quote_key(machine.name)}"
    lines = [f"{key} = {format_toml(value)}\n" for key, value in wanted.items() if not isinstance(value, dict)]
    for key, table in wanted.items():
        if isinstance(table, dict):
            lines += [
                f"\n[{name}.{key}]\n",
                *(f"{quote_key(word)} = {format_toml(value)}\n" for word, value in table.items()),
            ]
    head = "# Written by machctl create. Edit it as you like, then run: machctl apply\n\n"
    return f"{head}[{name}]\n{''.join(lines)}"
