# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl plan, apply, down, gc"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from machines.cli import words
from machines.cli.declarations import FILE, host_of
from machines.cli.names import names as names_argument
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.wire import RealHost
from machines.model.command import apply_command
from machines.operations.declared import one_file
from machines.operations.fleetplan import PLAIN, FleetPlan, Wishes, fleet_plan
from machines.render.paths import APPLYING_FILE, unit_dropin

if TYPE_CHECKING:
    from machines.cli.options import Options
    from machines.errors import MachctlError
    from machines.plan.steps import Plan

DIFFERENCES = 10
SCHEDULE = unit_dropin("machctl-apply-scheduled.timer")

_NAMES = "The machines; all that is declared if left out."
_PRUNE = words.Option(False, "--prune", help="Remove machines that were made of the files and are in them no more.")
_PURGE = words.Option(False, "--purge", help="With --prune: keep no snapshot of them.")
_RECREATE = words.Option(False, "--recreate", help="Make trees anew that were made of something else.")
_NO_RESTART = words.Option(False, "--no-restart", help="Leave machines as they run; restart them later.")


def plan(
    context: words.Context,
    names: list[str] = names_argument(_NAMES, optional=True),
    file: str = FILE,
    detailed_exitcode: bool = words.Option(
        False, "--detailed-exitcode", help="End with 10 if there is something to do."
    ),
    prune: bool = _PRUNE,
    purge: bool = _PURGE,
    recreate: bool = _RECREATE,
    no_restart: bool = _NO_RESTART,
) -> None:
    """Show what apply would do, why, and what it costs machines that run: live, reload, restart, recreate."""
    host = host_of(file)
    wishes = _wishes(prune=prune, purge=purge, recreate=recreate, no_restart=no_restart)
    planned = fleet_plan(_expanded(names, host), host, verb="plan", wishes=wishes)
    _show(planned, context.obj, names or [], host)
    if host.files.read_text(SCHEDULE) is not None:
        from machines.cli.scheduling import say_schedule

        say_schedule(host)
    if detailed_exitcode and any(planned.plans.values()):
        raise words.Exit(DIFFERENCES)


def apply(
    context: words.Context,
    names: list[str] = names_argument(_NAMES, optional=True),
    file: str = FILE,
    prune: bool = _PRUNE,
    purge: bool = _PURGE,
    recreate: bool = _RECREATE,
    no_restart: bool = _NO_RESTART,
    schedule: str = words.Option(
        "", "--schedule", metavar="WHEN", help="Restart machines then (systemd.time(7)), now do the rest; off: no more."
    ),
) -> None:
    """Make the host what is declared: machines in parallel, each after those it comes after."""
    options = context.obj
    host = host_of(file)
    if schedule:
        from machines.cli.scheduling import schedule_apply

        named = bool(names or file or prune or no_restart)
        schedule_apply(schedule, host, options, recreate=recreate, more=named)
        if schedule == "off":
            return
        recreate, no_restart = False, True
    wishes = _wishes(prune=prune, purge=purge, recreate=recreate, no_restart=no_restart)
    chosen = _expanded(names, host)
    planned = fleet_plan(chosen, host, verb="apply", wishes=wishes)
    if options.dry_run:
        _show(planned, options, chosen, host)
        return
    if planned.pruned:
        _ask(planned.pruned, options, purge=purge)
    # Minutes of bootstraps later the files may say more than anybody was asked about.
    wishes = wishes._replace(pruned=planned.pruned, recreated=planned.recreated)
    if any(planned.plans.values()) or planned.unfinished or (not names and _was_killed(host)):
        raise words.Exit(_apply(chosen, host, options, wishes, planned))
    if host.files.abandoned():
        from machines.cli.progress import Progress
        from machines.cli.running import run
        from machines.operations.garbage import collect_garbage

        # Killed before it had done anything.
        run(collect_garbage(host, Progress(options), dry_run=False), timeout=options.timeout, what="apply")
    if not options.quiet:
        _show(planned, options, chosen, host)


def _was_killed(host: RealHost) -> bool:
    """Tell whether an apply of the same files was killed: it may have left more behind than what is planned."""
    if host.files.read_text(APPLYING_FILE) is None:
        return False
    from machines.operations.unfinished import read_unfinished

    found = read_unfinished(host)
    return found is not None and found.declarations == host.declarations


def _apply(names: list[str], host: RealHost, options: Options, wishes: Wishes, planned: FleetPlan) -> int:
    from machines.cli.fleetprogress import FleetProgress
    from machines.cli.running import run
    from machines.cli.several import exit_status
    from machines.operations.applying import apply as operate

    progress = FleetProgress(options)
    try:
        plans, failed = run(
            operate(names, host, progress, wishes),
            timeout=options.timeout,
            what="apply",
            afterwards="run it again: it goes on from there",
        )
    finally:
        progress.clear()
    if not options.quiet:
        _show(planned._replace(plans=plans), options, names, host)
        _say_kept({name: plans[name] for name in planned.pruned if name in plans and name not in failed})
    return exit_status(failed, len(_concerned(plans, failed)))


def _say_kept(pruned: Mapping[str, Plan]) -> None:
    """Say how those are had back whose trees were kept."""
    from machines.plan.prune import had_back
    from machines.plan.steps import TakeSnapshot

    taken = [step for plan in pruned.values() for step in plan if isinstance(step, TakeSnapshot)]
    kept = {step.machine: step.snapshot.name for step in taken}
    if len(kept) == 1:
        ((name, snapshot),) = kept.items()
        note(f"{name}: its tree is kept as snapshot {snapshot}\n  {had_back(name, snapshot)}")
    elif kept:
        note(
            f"{_some(sorted(kept))}: their trees are kept as snapshots (machctl snapshot ls NAME)\n"
            f"  {had_back('NAME', 'SNAPSHOT')}"
        )


def _concerned(plans: Mapping[str, Plan], failed: Mapping[str, MachctlError]) -> set[str]:
    """Name the machines that anything was done to or failed for; networks, and what is of none, do not count."""
    from machines.plan.declared import NETWORK

    concerned = {name for name, plan in plans.items() if plan and name and not name.startswith(NETWORK)}
    return concerned | failed.keys()


def go_on(
    context: words.Context,
    later: bool = words.Option(False, "--later", help="Do what had to wait for the network."),
    scheduled: bool = words.Option(False, "--scheduled", help="Apply what is declared, whether one was interrupted."),
    recreate: bool = _RECREATE,
) -> None:
    """Go on with an apply that was interrupted when this host went down; for machctl-apply.service."""
    raise words.Exit(_go_on(context.obj, later=later, scheduled=scheduled, recreate=recreate))


def _go_on(options: Options, *, later: bool, scheduled: bool, recreate: bool) -> int:
    from machines.cli.fleetprogress import FleetProgress
    from machines.cli.running import run
    from machines.cli.several import exit_status
    from machines.operations.resuming import resume as operate
    from machines.operations.resuming import resume_later
    from machines.operations.unfinished import Unfinished, read_unfinished

    host = RealHost()
    whole = Unfinished([], PLAIN._replace(recreate=recreate), host.declarations)
    found = whole if scheduled else read_unfinished(host)
    if found is None:
        return 0
    host.declarations = found.declarations
    progress = FleetProgress(options)
    work = resume_later(found, host, progress) if later else operate(found, host, progress, wait=scheduled)
    failed = run(work, timeout=options.timeout, what="go-on")
    return exit_status(failed, len(failed) + 1)


def down(
    context: words.Context,
    names: list[str] = names_argument("The machines; all of the fleet if left out.", optional=True),
    file: str = FILE,
    force: bool = words.Option(False, "--force", help="End them the hard way, as terminate does."),
) -> None:
    """Stop the fleet: every machine before those it comes after."""
    from machines.cli.fleetprogress import FleetProgress
    from machines.cli.running import run
    from machines.cli.several import exit_status
    from machines.operations.down import down as operate
    from machines.operations.down import plan_down

    options = context.obj
    host = host_of(file)
    chosen = _expanded(names, host)
    plans, order = plan_down(chosen, host, terminate=force)
    if options.dry_run or not plans:
        show_plan(plans, options)
        return
    progress = FleetProgress(options)
    try:
        failed = run(
            operate(plans, order, host, progress, timeout=options.timeout),
            timeout=None,
            what="down",
            afterwards="machctl list shows how things are",
        )
    finally:
        progress.clear()
    raise words.Exit(exit_status(failed, len(plans)))


def _wishes(*, prune: bool, purge: bool, recreate: bool, no_restart: bool) -> Wishes:
    if not (prune or purge or recreate or no_restart):
        return PLAIN
    if purge and not prune:
        from machines.errors import InvalidValue

        raise InvalidValue("--purge says how to --prune, which was not asked for", hint="give both, or neither")
    return PLAIN._replace(prune=prune, purge=purge, recreate=recreate, restart=not no_restart)


def _expanded(names: Sequence[str] | None, host: RealHost) -> list[str]:
    if not names:
        return []
    from machines.operations.inspect import expand

    return expand(names, host)


def _show(planned: FleetPlan, options: Options, names: Sequence[str], host: RealHost) -> None:
    show_plan(planned.plans, options, notes=planned.notes)
    for name, text in planned.notes.items():
        note(
            f"{name}: {text}\n  change it inside (machctl shell {name}), "
            f"or have it made anew, the old one kept as a snapshot: {apply_command(one_file(host), '--recreate', name)}"
        )
    for name in planned.lost:
        note(
            f"{name}: it cannot start, as the base that its tree is a layer over is gone\n"
            f"  bring that back from a backup, or give up: machctl rm {name}"
        )
    for name in planned.stale:
        note(f"{name}: its new settings count from its next start on: machctl restart {name}")
    for text in planned.left:
        note(text)
    left = [name for name in planned.undeclared if name not in planned.pruned]
    if left and not names:
        note(f"{_some(left)}: no longer declared; to remove: {apply_command(one_file(host), '--prune')}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])} and {len(names) - 7} more"


def _ask(names: Sequence[str], options: Options, *, purge: bool) -> None:
    """Ask whether machines may go. Raises InvalidValue where there is nobody to ask, Exit for a no."""
    import sys

    kept = "nothing of them is kept" if purge else "their trees are kept as snapshots"
    if options.yes:
        return
    if not sys.stdin.isatty():
        from machines.errors import InvalidValue

        raise InvalidValue(
            f"{_some(names)} would be removed, and there is nobody to ask",
            hint="machctl apply --prune --yes does it without asking; machctl plan --prune shows what it does",
        )
    sys.stderr.write(f"remove {', '.join(names)}; {kept}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        note("nothing was done")
        raise words.Exit(1)


def diff_of_fleet(context: words.Context, file: str | None, *, detailed_exitcode: bool) -> None:
    """Show what differs between the files and this host, as a unified diff where that is text."""
    from machines.cli.fleetdiff import show_diff

    host = host_of(file)
    planned = fleet_plan([], host, verb="diff")
    show_diff(planned, _texts(host, planned), context.obj)
    if detailed_exitcode and any(planned.plans.values()):
        raise words.Exit(DIFFERENCES)


def _texts(host: RealHost, planned: FleetPlan) -> Mapping[str, str]:
    from machines.plan.steps import RemoveFile, WriteFile

    paths = {step.path for plan in planned.plans.values() for step in plan if isinstance(step, (WriteFile, RemoveFile))}
    found = {path: host.files.read_text(path) for path in sorted(paths)}
    return {path: text for path, text in found.items() if text is not None}


def gc(context: words.Context) -> None:
    """Remove what interrupted runs left behind, and nothing else."""
    from machines.cli.progress import Progress
    from machines.cli.running import run
    from machines.cli.several import exit_status
    from machines.operations.garbage import collect_garbage

    options = context.obj
    failed: dict[str, MachctlError] = {}
    plan = run(
        collect_garbage(RealHost(), Progress(options), dry_run=options.dry_run, failed=failed),
        timeout=options.timeout,
        what="gc",
    )
    if (plan or not failed) and (not options.quiet or options.dry_run):
        show_plan({"gc": plan}, options)
    raise words.Exit(exit_status(failed, len(failed)))
