# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl plan, apply, gc"""

from __future__ import annotations

import typer

from machines.cli.names import names as names_argument
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status
from machines.cli.wire import RealHost
from machines.operations import fleet
from machines.operations.garbage import collect_garbage
from machines.operations.inspect import expand
from machines.plan.machine import restart_note

DIFFERENCES = 10


def plan(
    context: typer.Context,
    names: list[str] = names_argument("The machines; all that is declared if left out.", optional=True),
    detailed_exitcode: bool = typer.Option(
        False, "--detailed-exitcode", help="End with 10 if there is something to do."
    ),
) -> None:
    """Show what apply would do, and why."""
    host = RealHost()
    chosen = expand(names or [], host)
    plans = fleet.plan_fleet(chosen, host, verb="plan")
    show_plan(plans, context.obj)
    _note_trees(chosen, host)
    if detailed_exitcode and any(plans.values()):
        raise typer.Exit(DIFFERENCES)


def apply(
    context: typer.Context,
    names: list[str] = names_argument("The machines; all that is declared if left out.", optional=True),
) -> None:
    """Make the host what is declared."""
    options = context.obj
    host = RealHost()
    chosen = expand(names or [], host)
    if options.dry_run:
        show_plan(fleet.plan_fleet(chosen, host, verb="apply"), options)
        return
    progress = Progress(options)
    try:
        plans, failed = run(
            fleet.apply(chosen, host, progress),
            timeout=options.timeout,
            what="apply",
            afterwards="run it again: it goes on from there",
        )
    finally:
        progress.clear()
    if not options.quiet:
        show_plan(plans, options)
        for name in restart_note([step for steps in plans.values() for step in steps], fleet.observe_running(host)):
            note(f"{name}: its new settings count from its next start on: machctl restart {name}")
        _note_trees(chosen, host)
    raise typer.Exit(exit_status(failed, len([name for name, steps in plans.items() if steps])))


def _note_trees(names: list[str], host: RealHost) -> None:
    for name, text in fleet.tree_notes(names, host).items():
        note(f"{name}: {text}\n  change it inside (machctl shell {name}), or make a new machine and remove this one")


def gc(context: typer.Context) -> None:
    """Remove what interrupted runs left behind, and nothing else."""
    options = context.obj
    plan = run(
        collect_garbage(RealHost(), Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what="gc",
    )
    if not options.quiet or options.dry_run:
        show_plan({"gc": plan}, options)
