# SPDX-License-Identifier: LGPL-2.1-or-later
"""--schedule of apply and update: what was chosen, and when it is next."""

from __future__ import annotations

from machines.cli.options import Options
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.model.names import update_timer
from machines.operations import schedule
from machines.plan.schedule import APPLY_TIMER


def schedule_apply(when: str, host: RealHost, options: Options, *, recreate: bool, more: bool) -> None:
    """Have the fleet applied at ``when``, or no more; ``more`` tells that words were given that do not go with that.

    Raises InvalidValue.
    """
    if more:
        raise InvalidValue(
            "--schedule is of the whole fleet in /etc/machctl, and takes nothing but --recreate",
            hint="what is declared no more goes by: systemctl enable --now machctl-prune.timer",
        )
    flags = ("--recreate",) if recreate else ()
    work = schedule.schedule_apply(when, host, Progress(options), flags=flags, dry_run=options.dry_run)
    plan = run(work, timeout=options.timeout, what="apply --schedule")
    if options.dry_run:
        show_plan({"": plan}, options)
    elif when == schedule.OFF:
        note(f"the fleet is applied by nobody but you any more ({APPLY_TIMER})")
    else:
        say_schedule(host)


def say_schedule(host: RealHost) -> None:
    """Say when the fleet is applied by itself, if it is."""
    when, following = schedule.apply_time(host)
    if when and following:
        note(f"what needs a restart is done {when}, next on {following}; machctl apply --schedule off: no more")
    elif when:
        note(f"what needed a restart was to be done {when}, which is over; machctl apply --schedule off forgets that")


def schedule_updates(when: str, names: list[str], host: RealHost, options: Options, *, more: bool) -> None:
    """Have machines updated at ``when``, or no more. Raises InvalidValue."""
    if more:
        raise InvalidValue(
            "--schedule takes no other options",
            hint='systemctl edit machctl-update@NAME.service, and there: [Service] Environment="FLAGS=--keep 2"',
        )
    plans = run(
        schedule.schedule_updates(names, when, host, Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what="update --schedule",
    )
    if options.dry_run:
        show_plan(plans, options)
    elif when == schedule.OFF:
        note(f"{', '.join(names)}: no longer updated by a timer")
    else:
        timers = ", ".join(map(update_timer, names[:3])) + (" ..." if len(names) > 3 else "")
        note(f"{', '.join(names)}: updated {when}, next on {schedule.next_time(when, host)} ({timers})")
