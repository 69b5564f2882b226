# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as typer and click have it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import click
import typer
import typer.core

from machines.cli.table import ALIASES, GROUPS, HIDDEN, VERBS, function_name, global_options
from machines.cli.words import for_typer

PROGRAM = "machctl"


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are looked up in VERBS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb in VERBS if verb not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = ALIASES.get(cmd_name, cmd_name)
        if verb not in VERBS:
            return None
        module = import_module(f"machines.cli.verbs.{VERBS[verb][0]}")
        if verb in GROUPS:
            return _group(verb, module)
        return _command(verb, getattr(module, function_name(verb)))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own asks every command for its help, which would import them all.
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in self.list_commands(ctx)])


def _command(verb: str, function: Callable[..., object]) -> click.Command:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(verb, context_settings=getattr(function, "context_settings", None))(for_typer(function))
    return typer.main.get_command(single)


def _group(verb: str, module: ModuleType) -> click.Group:
    """Give a verb that has verbs of its own: module.VERBS, and what else they are called in module.ALIASES."""

    class Group(click.Group):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            own = module.ALIASES.get(cmd_name, cmd_name)
            return _command(own, module.VERBS[own]) if own in module.VERBS else None

        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(module.VERBS)

    return Group(verb, help=VERBS[verb][1].split(":")[0], no_args_is_help=True)


def run(words: Sequence[str]) -> object:
    """Do what the words ask for, or complete them; give the exit status."""
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        from typer.completion import completion_init

        completion_init()
    return typer.main.get_command(_app()).main(list(words), prog_name=PROGRAM, standalone_mode=False)


def _app() -> typer.Typer:
    app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    app.callback()(for_typer(global_options))
    return app
