# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs that edit one machine: its declaration is changed, and made so."""

from __future__ import annotations

from collections.abc import Callable

from machines.cli.options import Options
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.model.machine import Machine
from machines.plan.steps import Plan


def edit_machine(
    name: str,
    edit: Callable[[Machine], Machine],
    options: Options,
    *,
    verb: str,
    done: str,
    nothing: str,
    what: str = "",
) -> Plan:
    """Do ``edit`` to a machine and say that it is ``done``, or that there was ``nothing`` to do; give the plan.

    ``what`` is the command as errors name it, where that is not "VERB NAME". Raises what the edit and its plan raise.
    """
    from machines.operations import fleet

    plan = run(
        fleet.change(name, edit, RealHost(), Progress(options), dry_run=options.dry_run, verb=verb),
        timeout=options.timeout,
        what=what or f"{verb} {name}",
        quick=True,
    )
    if options.dry_run:
        show_plan({name: plan}, options)
    elif not options.quiet:
        note(done if plan else nothing)
    return plan


def note_restart(name: str, plan: Plan, options: Options) -> None:
    """Say it where some of what was changed counts from the machine's next start on."""
    from machines.operations import fleet

    if not (options.dry_run or options.quiet) and fleet.restarts(plan, RealHost()):
        note(f"  some of it counts from its next start on: machctl restart {name}")
