# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the code that jinja2 makes of our templates needs of jinja2, under the names that has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from machines.render.environment import one_line

missing = object()


def Undefined(*, name: str = "") -> NoReturn:
    """Refuse a name that nobody gave the template a value for, as jinja2's StrictUndefined does."""
    raise NameError(f"a template has no value for {name}")


class environment:
    """What the code asks jinja2.Environment for."""

    undefined = staticmethod(Undefined)
    finalize = staticmethod(one_line)
    concat = "".join
    filters: Mapping[str, Callable[[object, Iterable[object], str], str]] = {
        "join": lambda _, values, separator: separator.join(map(str, values))
    }
    tests: Mapping[str, Callable[[object], bool]] = {"none": lambda value: value is None}

    @staticmethod
    def getattr(value: Any, name: str) -> object:
        """Give an attribute, or the item of that name."""
        return value[name] if isinstance(value, dict) else getattr(value, name)


class _Context:
    """What the code asks jinja2.runtime.Context for."""

    eval_ctx = None

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def resolve_or_missing(self, name: str) -> object:
        return self._values.get(name, missing)


def filled(root: Callable[[_Context], Iterator[str]]) -> Callable[[Mapping[str, object]], str]:
    """Give a template's code as a function of its values."""
    return lambda values: "".join(root(_Context(values)))
