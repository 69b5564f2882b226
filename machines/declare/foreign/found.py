# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a description by others comes to: keys of a declaration, and what machctl has no word for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from machines.declare.fleet import parse_fleet
from machines.declare.layers import LITERAL, escape
from machines.declare.toml import format_toml, quote_key
from machines.model.base import Payload
from machines.model.frozen import NamedTuple
from machines.model.machine import Machine

# What a later key needs comes before it: each is taken over only if the declaration is right with it.
ORDER = (
    "source", "insecure", "replicas", "hostname", "network", "bridges", "links", "binds", "devices", "tmpfs",
    "read-only", "volatile", "ephemeral", "capabilities", "drop-capabilities", "system-call-filter", "nesting",
    "memory", "memory-high", "swap", "cpus", "cpu-weight", "io-weight", "tasks", "restart", "restart-delay",
    "publish", "after", "environment", "secrets", "health", "autostart",
)  # fmt: skip


class Unmapped(NamedTuple):
    """Something that a description says (``what``) in a file (``where``) and a declaration cannot, and what of it."""

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


class Found:
    """A description while it is read. ``values`` are keys of a declaration as TOML has them."""

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.values: dict[str, object] = {}
        self.unmapped: list[Unmapped] = []
        self.payload: Payload | None = None
        # Variables of our own environment whose values are declared now.
        self.inherited: dict[str, None] = {}

    def set(self, key: str, value: object) -> None:
        """Declare ``value``; a later one takes its place."""
        self.values[key] = value

    def add(self, key: str, *items: str) -> None:
        """Declare items of a list, each once."""
        have = self.values.setdefault(key, [])
        assert isinstance(have, list)
        have += [item for item in dict.fromkeys(items) if item not in have]

    def put(self, key: str, name: str, value: object) -> None:
        """Declare an entry of a table."""
        table = self.values.setdefault(key, {})
        assert isinstance(table, dict)
        table[name] = value

    def leave(self, what: str, why: str, *, where: str = "") -> None:
        """Note what cannot be declared, in one line whatever others wrote."""
        self.unmapped.append(Unmapped(where or self.where, _line(what), _line(why)))


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def settle(name: str, found: Found, *, file: str) -> tuple[Machine, dict[str, object]]:
    """Give the machine that is declared by as much of ``found`` as a declaration can say, and that as TOML has it.

    The rest is noted in ``found``. Raises the errors of the source, without which there is no machine.
    """
    taken: dict[str, object] = {}
    for key in sorted(found.values, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER)):
        value = found.values[key]
        if isinstance(value, list) and value:
            for item in value:
                _try(name, found, taken, key, [*_list(taken.get(key)), item], shown=str(item))
        elif isinstance(value, dict) and key != "health":
            for inner, each in value.items():
                _try(name, found, taken, key, {**_table(taken.get(key)), inner: each}, shown=f"{inner}={each}")
        else:
            _try(name, found, taken, key, value, shown=str(value))
    machines, errors = parse_fleet({file: declaration(name, taken)})
    if errors:
        raise errors[0]
    # Of replicas each is a machine; the first is as good as any to plan with.
    return machines.get(name) or next(iter(machines.values())), taken


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _try(name: str, found: Found, taken: dict[str, object], key: str, value: object, *, shown: str) -> None:
    """Take a value over if the declaration is right with it."""
    _, errors = parse_fleet({"-": declaration(name, {**taken, key: value})})
    if not errors or key == "source":
        taken[key] = value
        return
    said = re.sub(r"^-(:\d+)?: (machines\.\S+: )?", "", errors[0].message)
    found.leave(f"{key} = {shown}", said)


def declaration(name: str, values: Mapping[str, object], *, comments: tuple[str, ...] = ()) -> str:
    """Give the text of a file that declares one machine; ``comments`` stand above it, a line each.

    Braces of others are no placeholders: they are written so that they stand for themselves.
    """
    values = {key: value if key in LITERAL else escape(value) for key, value in values.items()}
    own = f"machines.{quote_key(name)}"
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in values.items() if isinstance(value, dict) and value}
    # Nothing but a tab may stand in a comment that cannot be printed (toml.io, 1.0.0).
    said = [_line(line) for text in comments for line in text.splitlines()]
    lines = [f"# {line}" for line in said]
    lines += ["", f"[{own}]", *(f"{quote_key(key)} = {format_toml(value)}" for key, value in plain.items())]
    for key, table in tables.items():
        lines += ["", f"[{own}.{quote_key(key)}]"]
        lines += [f"{quote_key(inner)} = {format_toml(each)}" for inner, each in table.items()]
    return "\n".join(lines[0 if comments else 1 :]) + "\n"
