# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table of keys.py to values: what a layer or a merged machine says, read by the one table of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from machines.declare.keys import BY_NAME, Key, function
from machines.declare.links import links_of, parse_bridge, parse_link, parse_mode
from machines.declare.reader import Table
from machines.declare.values import parse_flag
from machines.errors import InvalidValue, MachctlError
from machines.model.machine import Machine
from machines.model.source import Source, parse_source


def read_machine(name: str, table: Table, *, group: str = "") -> Machine:
    """Read a machine of a table that has all it says; what is wrong is noted there, and the default taken."""
    mirror = "mirror" in table.values
    source = read_source(table, any_suite=mirror)
    if source is None and "source" not in table.values:
        table.fail("source", "is missing", hint='source = "debian:trixie"')
    if source is not None and source.kind == "machine":
        table.fail("source", f"{source} cannot be declared", f"copy it: machctl clone {source.reference} {name}")
    mode = table.text("network", parse_mode, "private")
    links = links_of(table.texts("bridges", _bridge, None), table.texts("links", _link, None), mode=mode)
    values = read_keys(table, BY_NAME.values(), Machine)
    table.finish(BY_NAME)
    return Machine(
        name=name, source=source or Source("debian", "trixie"), origin=table.file, group=group, network=mode,
        links=links, **values,
    )  # fmt: skip


def read_source(table: Table, *, any_suite: bool) -> Source | None:
    """Read what a tree is made of, as far as it is said."""
    return table.text("source", _any_source if any_suite else _source, None)


def read_keys(table: Table, keys: Iterable[Key], defaults: type, *, part: bool = False) -> dict[str, Any]:
    """Read what a table says of ``keys``, by field; the fields of a class are what a wrong value is left at.

    With ``part`` there is more to come from other layers, so nothing is made of inner tables yet.
    """
    known = {key.name: key for key in keys}
    found = {}
    for name in table.values:
        key = known.get(name)
        if key is not None and not key.special:
            found[key.field] = _read(table, key, getattr(defaults, key.field, None), part=part)
    return found


def _read(table: Table, key: Key, default: Any, *, part: bool) -> Any:
    match key.kind:
        case "flag":
            return table.flag(key.name, default=default)
        case "text":
            return table.text(key.name, parser(key.parse), default)
        case "number":
            return table.number(key.name, parser(key.parse), default)
        case "texts":
            return table.texts(key.name, parser(key.parse), default)
        case "words":
            return table.words(key.name, function(key.parse), default)
        case "map":
            return table.pairs(key.name, function(key.parse), default)
        case _:
            return _inner(table, key, default, part=part)


def read_word(key: Key, text: str) -> Any:
    """Read the value of a key that was typed: yes or no, or the items of a list with commas between; none is none.

    Of a map it is one NAME=VALUE, of a table what it says: KEY=VALUE,...

    Raises InvalidValue.
    """
    if key.kind == "flag":
        return parse_flag(text)
    if key.kind == "texts":
        return () if text == "none" else tuple(map(parser(key.parse), _items(key, text)))
    if key.kind == "map":
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidValue(f"{text!r} says nothing of {key.name}", hint="write NAME=VALUE")
        return (function(key.parse)(name, value),)
    if key.kind == "table":
        return function(key.parse)(_typed(key, text))
    return parser(key.parse)(text)


def _typed(key: Key, text: str) -> dict[str, Any]:
    """Read KEY=VALUE,... of a table, by field; a comma before what is no key of it belongs to the value."""
    known = {inner.name: inner for inner in function(key.inner)}
    words: list[str] = []
    for word in text.split(","):
        name, equals, _ = word.partition("=")
        if words and not (equals and name in known):
            words[-1] += f",{word}"
        elif not equals or name not in known:
            raise InvalidValue(f"{word!r} says nothing of {key.name}", hint=f"write KEY=VALUE of {', '.join(known)}")
        else:
            words.append(word)
    pairs = (word.partition("=") for word in words)
    return {known[name].field: function(known[name].parse)(value) for name, _, value in pairs}


def _items(key: Key, text: str) -> list[str]:
    """Give the items of a list that was typed; those of binds have options with commas before them: ro,idmap."""
    items: list[str] = []
    for word in text.split(","):
        if items and key.name == "binds" and not word.startswith("/"):
            items[-1] += f",{word}"
        else:
            items.append(word)
    return items


def _inner(table: Table, key: Key, default: Any, *, part: bool) -> Any:
    """Read a table of its own keys, and make one value of what it says."""
    before = len(table.errors)
    inner = table.table(key.name)
    keys = function(key.inner)
    values = read_keys(inner, keys, object)
    inner.finish([each.name for each in keys])
    if part or len(table.errors) > before:
        return default
    try:
        return function(key.parse)(values)
    except MachctlError as error:
        table.fail(key.name, error.message, error.hint)
        return default


@cache
def parser(name: str) -> Callable[[str], Any]:
    """Give the function that reads a value, which reads no text twice: machines of one profile say the same."""
    parse: Callable[[str], Any] = function(name) if name else str
    return cache(parse)


_source = cache(parse_source)
_bridge = cache(parse_bridge)
_link = cache(parse_link)


@cache
def _any_source(text: str) -> Source:
    return parse_source(text, any_suite=True)
