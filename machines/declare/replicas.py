# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table of a file to those of its machines: what lies below it, its replicas, and what placeholders stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.declare.layers import LITERAL, Layer, Merged, fill, merge
from machines.declare.reader import Table
from machines.declare.values import parse_whole
from machines.errors import InvalidValue

if TYPE_CHECKING:
    from machines.declare.profiles import Below

MOST = 1000


def parse_replicas(text: str) -> int:
    """Read how many machines are made of one table. Raises InvalidValue."""
    return parse_whole(text, 0, MOST, what="a number of replicas", hint=f"write a number up to {MOST}: replicas = 3")


class Expansion:
    """What a table makes: one machine, or its replicas."""

    def __init__(self, name: str, table: Table, below: Below | None) -> None:
        """Note in ``table`` what is wrong with its number of replicas or its profiles."""
        before = len(table.errors)
        self._table = table
        count = table.number("replicas", parse_replicas, None)
        self._merged = _below(table, below)
        self.group = name if "replicas" in table.values else ""
        self.names = [f"{name}-{index}" for index in range(1, (count or 0) + 1)] if self.group else [name]
        self.wrong = table.errors[before:]
        self._told: set[tuple[str, str]] = set()

    def filled(self, index: int) -> Table:
        """Give all that the machine of this index says; what is no placeholder is noted."""
        merged, name = self._merged, self.names[index]
        made = Table(
            {}, file=self._table.file, path=self._table.path, errors=self._table.errors,
            places=merged.places if merged else None,
        )  # fmt: skip
        names = {"name": name, "index": str(index + 1)} if self.group else {"name": name}
        made.values = filled(merged.values if merged else self._table.values, names, made)
        return made

    def once(self, before: int) -> None:
        """Leave out of the errors since what an earlier replica has complained of already."""
        errors = self._table.errors
        new = errors[before:]
        places = [(getattr(error, "file", ""), getattr(error, "path", "")) for error in new]
        errors[before:] = [error for error, place in zip(new, places, strict=True) if place not in self._told]
        self._told |= set(places)


def _below(table: Table, below: Below | None) -> Merged | None:
    """Put the layer of a table over those below it; None where there are none."""
    table.texts("profiles", str, ())
    if below is None and "profiles" in table.values:
        from machines.declare.profiles import Below

        below = Below()
    if below is None:
        return None
    return merge([Layer(table.file, table.path, table.values)], below.under(table.values, below.named(table)))


def filled(values: Mapping[str, object], names: Mapping[str, str], table: Table) -> dict[str, object]:
    """Give what a machine or profile says with its placeholders filled in; what has others is noted and left out."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if key in {"replicas", "profiles"}:
            continue
        try:
            found[key] = value if key in LITERAL else fill(value, names)
        except InvalidValue:
            _fail(key, value, names, table)
            if key == "source":
                # It is wrong, not missing.
                found[key] = "debian"
    return found


def _fail(key: str, value: object, names: Mapping[str, str], table: Table) -> None:
    """Note each string below ``key`` that has a placeholder which is none."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _fail(f"{key}[{index}]", item, names, table)
    elif isinstance(value, dict):
        for word, item in value.items():
            _fail(f"{key}.{word}", item, names, table)
    else:
        try:
            fill(value, names)
        except InvalidValue as error:
            table.fail(key, error.message, error.hint)
