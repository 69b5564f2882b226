# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machine names as arguments: completed by the shell, patterns expanded."""

from __future__ import annotations

from typing import Any

from machines.cli import words
from machines.errors import InvalidValue
from machines.model.names import is_pattern


def complete(incomplete: str) -> list[str]:
    """Give the machines whose name begins with what was typed so far."""
    from machines.cli.wire import RealHost
    from machines.operations.inspect import known_names

    return [name for name in known_names(RealHost()) if name.startswith(incomplete)]


def names(help: str, *, optional: bool = False) -> Any:
    """Give the argument of a verb that takes several machines."""
    default = None if optional else ...
    return words.Argument(
        default, metavar="NAME..." if not optional else "[NAME]...", help=help, autocompletion=complete
    )


def name(help: str, *, optional: bool = False) -> Any:
    """Give the argument of a verb that takes one machine."""
    if optional:
        return words.Argument(None, metavar="[NAME]", help=help, autocompletion=complete)
    return words.Argument(..., metavar="NAME", help=help, autocompletion=complete)


def one(name: str) -> str:
    """Give the machine that a verb of one machine is about: the name, or the one that a pattern matches.

    Raises NotFound for a pattern that matches none, InvalidValue for one that matches several.
    """
    if not is_pattern(name):
        return name
    from machines.cli.wire import RealHost
    from machines.operations.inspect import expand

    found = expand([name], RealHost())
    if len(found) > 1:
        shown = ", ".join(found) if len(found) <= 8 else f"{', '.join(found[:7])} and {len(found) - 7} more"
        raise InvalidValue(f"{name!r} is several machines, and this is done to one: {shown}", hint="say which it is")
    return found[0]
