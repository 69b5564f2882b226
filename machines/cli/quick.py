# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain words to a verb without typer and click, which take longer to import than most verbs do.

Only what is surely right is taken here, by the verb's own declarations (words.py). Anything else, a mistake above all,
is left to click, which knows what to say of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from machines.cli import table
from machines.cli.options import hoist
from machines.cli.output import report_error
from machines.cli.words import Declared, Exit

_TYPES: dict[str, Callable[[str], object]] = {"str": str, "list[str]": str, "float": float}
# Settings of a declaration that change nothing of what is read.
_SHOWN = {"metavar", "help", "autocompletion"}


class _NotPlain(Exception):
    """Something that click has to look at."""


def run() -> int:
    """Run machctl with sys.argv; every error becomes its lines on stderr and its exit status."""
    words = sys.argv[1:]
    try:
        words = hoist(words, table.VERBS.keys() | table.ALIASES.keys(), options_of)
        # What completes words in a shell says so in the environment.
        call = None if "_MACHCTL_COMPLETE" in os.environ else verb_of(words)
        if call is None:
            from machines.cli import app

            status = app.run(words)
        else:
            status = call()
    except Exit as done:
        return done.code
    except Exception as error:
        # Whatever it is, a person gets a line and not a traceback.
        if "--debug" in words:
            raise
        return report_error(error)
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


def options_of(verb: str) -> dict[str, bool]:
    """Give the options of a verb, which is none of a group, and whether each takes a value."""
    function = getattr(import_module(f"machines.cli.verbs.{table.VERBS[verb][0]}"), table.function_name(verb))
    names = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    declared = zip(names, function.__defaults__, strict=True)
    kinds = function.__annotations__
    given = [(option, kinds[name] != "bool") for name, each in declared for option in each.names]
    # A flag and its opposite are one word in a declaration.
    return {option: takes for names, takes in given for option in names.split("/")}


def verb_of(words: Sequence[str]) -> Callable[[], object] | None:
    """Give what the words ask for, ready to be called; None where click has to look at them."""
    context: Any = SimpleNamespace(obj=None)
    try:
        count = next(index for index, word in enumerate(words) if word in table.VERBS or word in table.ALIASES)
        values = _read(table.global_options, words[:count])
        verb, rest = table.ALIASES.get(words[count], words[count]), words[count + 1 :]
        module = import_module(f"machines.cli.verbs.{table.VERBS[verb][0]}")
        if verb in table.GROUPS:
            own = module.ALIASES.get(rest[0], rest[0]) if rest else ""
            function, rest = module.VERBS.get(own), rest[1:]
        else:
            function = getattr(module, table.function_name(verb))
        if function is None or hasattr(function, "context_settings"):
            return None
        arguments = _read(function, rest)
    except (_NotPlain, StopIteration):
        return None

    def call() -> object:
        table.global_options(context, **values)
        return function(context, **arguments)

    return call


def _read(function: Any, words: Sequence[str]) -> dict[str, Any]:
    """Read words into the values of a verb's parameters. Raises _NotPlain."""
    names = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    if len(function.__defaults__ or ()) != len(names):
        raise _NotPlain
    declared = dict(zip(names, function.__defaults__ or (), strict=True))
    kinds = {name: function.__annotations__[name] for name in names}
    if not all(isinstance(each, Declared) and each.settings.keys() <= _SHOWN for each in declared.values()):
        raise _NotPlain
    options = {option: name for name, each in declared.items() for option in each.names}
    values: dict[str, Any] = {}
    positional: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            positional.append(word)
            continue
        option, equals, value = word.partition("=")
        name = options.get(option if word.startswith("--") else word, "")
        if not name or (kinds[name] == "bool" and equals) or (kinds[name] != "bool" and not (equals or left)):
            raise _NotPlain
        if kinds[name] == "bool":
            values[name] = True
        else:
            given = _convert(kinds[name], value if equals else left.pop(0))
            values[name] = [*values.get(name, ()), given] if kinds[name].startswith("list") else given
    for name, each in declared.items():
        if each.kind == "Argument" and positional:
            many = kinds[name].startswith("list")
            taken, positional = (positional, []) if many else (positional[:1], positional[1:])
            read = [_convert(kinds[name], word) for word in taken]
            values[name] = read if many else read[0]
        elif name not in values:
            many = kinds[name].startswith("list")
            if each.default is ... or (each.default is None and many and each.kind == "Option"):
                raise _NotPlain
            # click makes an empty list of words that are left out.
            values[name] = list(each.default or ()) if many else each.default
    if positional:
        raise _NotPlain
    return values


def _convert(kind: str, word: str) -> object:
    try:
        return _TYPES[kind](word)
    except (KeyError, ValueError):
        raise _NotPlain from None
