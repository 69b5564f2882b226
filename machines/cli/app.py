# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs and the global flags; a verb's module is imported when that verb is run, and no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

# typer before 0.17 imports all of rich (30 ms) where that is installed, though nothing here asks it to draw.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

import click  # noqa: E402
import typer  # noqa: E402
import typer.core  # noqa: E402

from machines.cli.options import Options, hoist  # noqa: E402

PROGRAM = "machctl"

VERBS = {
    "create": ("create", "Make a machine: bootstrap its tree, write its settings and units"),
    "start": ("life", "Start machines and wait until they are ready"),
    "stop": ("life", "Power machines off in order"),
    "terminate": ("life", "End machines the hard way"),
    "restart": ("life", "Stop machines in order and start them again"),
    "enable": ("life", "Start machines at boot"),
    "disable": ("life", "No longer start machines at boot"),
    "shell": ("enter", "Open a shell in a machine"),
    "exec": ("enter", "Run a command in a machine; its exit status is machctl's"),
    "logs": ("enter", "Show a machine's journal"),
    "list": ("look", "List machines"),
    "status": ("look", "Show how machines are doing"),
    "show": ("look", "Show all that is known of machines, for programs"),
    "cat": ("look", "Show the files that were rendered for a machine"),
    "set": ("change", "Change limits of a machine, now and for good"),
    "rm": ("change", "Remove machines with all that was made for them"),
    "clone": ("copies", "Copy a machine; the copy has an identity of its own"),
    "rename": ("copies", "Call a machine by another name"),
    "snapshot": ("snapshot", "Keep how machines are: create, ls, rm, diff"),
    "restore": ("copies", "Let a machine be what it was"),
    "diff": ("copies", "Show what changed in a machine"),
    "run": ("run", "Run a command in a machine that is gone when it ends"),
    "cp": ("copy", "Copy files into a machine or out of it"),
    "export": ("transfer", "Write a machine into an archive"),
    "import": ("transfer", "Make a machine of an archive"),
    "image": ("image", "Manage what machines are made of: ls, show, pull, build, rm, prune, refresh, import, export"),
    "pool": ("pool", "Make a pool that can take snapshots: create"),
    "plan": ("fleet", "Show what apply would do, and why"),
    "apply": ("fleet", "Make the host what is declared"),
    "gc": ("fleet", "Clean up after interrupted runs"),
    "doctor": ("host", "Check what machines need of this host"),
    "version": ("host", "Show the version"),
    "completion": ("host", "Print the completion script of a shell"),
    "bridge": ("bridge", ""),
}
ALIASES = {
    "ls": "list",
    "ps": "list",
    "inspect": "show",
    "remove": "rm",
    "poweroff": "stop",
    "reboot": "restart",
    "init": "create",
    "kill": "terminate",
}
HIDDEN = {"bridge"}
GROUPS = {"snapshot", "image", "pool"}
# Verbs whose functions would otherwise be called like something of Python's.
_SUFFIXED = {"list", "set", "exec", "import", "run"}


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
        return _command(verb, getattr(module, verb.replace("-", "_") + ("_" if verb in _SUFFIXED else "")))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own asks every command for its help, which would import them all.
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in self.list_commands(ctx)])


def _command(verb: str, function: Callable[..., object]) -> click.Command:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(verb, context_settings=getattr(function, "context_settings", None))(function)
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


def run() -> int:
    """Run machctl with sys.argv; every error becomes its lines on stderr and its exit status."""
    from machines.cli.output import report_error

    words = hoist(sys.argv[1:], VERBS.keys() | ALIASES.keys())
    debug = "--debug" in words
    try:
        if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
            from typer.completion import completion_init

            completion_init()
        command = typer.main.get_command(_app())
        status = command.main(words, prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        # Whatever it is, a person gets a line and not a traceback.
        if debug:
            raise
        return report_error(error)
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


def _app() -> typer.Typer:
    app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    app.callback()(_globals)
    return app


def _globals(
    context: typer.Context,
    json: bool = typer.Option(False, "--json", help="Print JSON."),
    output: str = typer.Option("", "--output", "-o", metavar="FORMAT", help="table, wide, json, yaml, csv or name."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but the answer and errors."),
    verbose: bool = typer.Option(False, "--verbose", help="Say every step."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the plan and do nothing."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing."),
    timeout: float = typer.Option(None, "--timeout", metavar="SECONDS", help="Give up after that long."),
    no_legend: bool = typer.Option(False, "--no-legend", help="Print tables without their heading."),
    color: str = typer.Option("auto", "--color", metavar="WHEN", help="auto, always or never."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> Any:
    """Make and run systemd-nspawn machines on this host, without a daemon."""
    context.obj = Options.checked(
        output="json" if json else output or "table",
        quiet=quiet,
        verbose=verbose,
        dry_run=dry_run,
        yes=yes,
        timeout=timeout,
        legend=not no_legend,
        color=color,
        debug=debug,
    )
