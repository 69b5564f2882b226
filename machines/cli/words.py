# SPDX-License-Identifier: LGPL-2.1-or-later
"""What verbs declare of their words, as typer has it, without typer: to import that takes longer than most verbs do.

Words that are plain are read by what is declared (quick.py); for all else, and for help, app.py gives it to typer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typer import Context as Context


class Declared(NamedTuple):
    """The default of a parameter: ``kind`` is typer's name for what makes its own of it."""

    kind: str
    default: Any
    names: tuple[str, ...]
    settings: dict[str, Any]


class Exit(Exception):
    """The verb ends here with this exit status."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


def Option(default: Any, *names: str, **settings: Any) -> Any:
    """Declare an option, as typer.Option does."""
    return Declared("Option", default, names, settings)


def Argument(default: Any, **settings: Any) -> Any:
    """Declare an argument, as typer.Argument does."""
    return Declared("Argument", default, (), settings)


def bare(command: Sequence[str] | None) -> list[str]:
    """Give the words of a command that is passed on, without the "--" that may stand before it."""
    words = [*(command or [])]
    return words[1:] if words[:1] == ["--"] else words


def for_typer(function: Callable[..., object]) -> Callable[..., object]:
    """Give a verb with typer's own declarations in the place of these."""
    from types import FunctionType

    import typer

    assert isinstance(function, FunctionType)
    defaults = tuple(
        getattr(typer, each.kind)(each.default, *each.names, **each.settings) if isinstance(each, Declared) else each
        for each in function.__defaults__ or ()
    )
    made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, function.__closure__)
    made.__annotations__, made.__doc__ = function.__annotations__, function.__doc__
    return made


def __getattr__(name: str) -> Any:
    # typer looks up what the annotations say.
    if name != "Context":
        raise AttributeError(name)
    import typer

    return typer.Context
