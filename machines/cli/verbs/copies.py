# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl clone, rename, restore, diff"""

from __future__ import annotations

from machines.cli import words
from machines.cli.names import name as name_argument
from machines.cli.names import one
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.operations import copies
from machines.operations.forgetting import as_it_was

TAKEN_BACK = "what was half done has been taken back"


def clone(
    context: words.Context,
    source: str = name_argument("The machine to copy."),
    name: str = words.Argument(..., metavar="NEW", help="What the copy is called."),
    identity: str = words.Option(
        "new", "--identity", metavar="new|keep", help="Machine ID, host name and ssh host keys: new ones, or the same."
    ),
    snapshot: str = words.Option("", "--snapshot", metavar="SNAPSHOT", help="Copy it as it was then."),
    start: bool = words.Option(False, "--start", help="Start the copy."),
    wait: str = words.Option(None, "--wait", metavar="ip|healthy", help="With --start: wait for an address or health."),
) -> None:
    """Copy a machine, running or not. The copy has its own address, identity and settings, and publishes no ports."""
    options = context.obj
    if identity not in {"new", "keep"}:
        raise InvalidValue(f"{identity!r} is no identity", hint="use --identity new or keep")
    source, host, progress = one(source), RealHost(), Progress(options)
    how = as_it_was(source, host)
    try:
        plan, left_out = run(
            copies.clone(
                source, name, host, progress, forget=identity == "new", snapshot=snapshot, dry_run=options.dry_run
            ),
            timeout=options.timeout,
            what=f"clone {source}",
            quick=True,
            afterwards=TAKEN_BACK,
        )
    finally:
        progress.clear()
    if options.dry_run:
        show_plan({name: plan}, options)
        return
    if not options.quiet:
        of = f"snapshot {snapshot} of {source}" if snapshot else f"{source}{how}"
        note(f"cloned {name} from {of}" + (f"; without {', '.join(left_out)}" if left_out else ""))
    if start or wait:
        from machines.cli.verbs.life import start_all

        raise words.Exit(start_all([name], wait=wait, options=options))


def rename(
    context: words.Context,
    old: str = name_argument("The machine."),
    new: str = words.Argument(..., metavar="NEW", help="What it is called from now on."),
) -> None:
    """Call a stopped machine by another name. Its tree, address, ports, snapshots and settings stay its own."""
    options, old = context.obj, one(old)
    plan = run(
        copies.rename(old, new, RealHost(), Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what=f"rename {old}",
        quick=True,
        afterwards="machctl gc finishes it",
    )
    if options.dry_run:
        show_plan({new: plan}, options)
    elif not options.quiet:
        note(f"renamed {old} to {new}")


def restore(
    context: words.Context,
    name: str = name_argument("The machine."),
    snapshot: str = words.Argument(..., metavar="SNAPSHOT", help="machctl snapshot ls NAME shows them."),
    no_undo: bool = words.Option(False, "--no-undo", help="Keep no snapshot of how it is now."),
) -> None:
    """Let a machine's tree be what it was. How it is now is kept as a snapshot; a running machine is restarted."""
    options = context.obj
    name, host, progress = one(name), RealHost(), Progress(options)
    try:
        plan, before = run(
            copies.restore(name, snapshot, host, progress, dry_run=options.dry_run, keep=not no_undo),
            timeout=options.timeout,
            what=f"restore {name}",
            quick=True,
            afterwards=f"machctl status {name} shows how it is",
        )
    finally:
        progress.clear()
    if options.dry_run:
        show_plan({name: plan}, options)
    elif not options.quiet:
        note(
            f"restored {name} from snapshot {snapshot}"
            + f"; to undo that: machctl restore {name} {before}" * bool(before)
        )


def diff(
    context: words.Context,
    name: str = name_argument("The machine; the fleet if left out.", optional=True),
    snapshot: str = words.Argument(None, metavar="[SNAPSHOT]", help="Since then; since it was made if left out."),
    file: str = words.Option(None, "--file", "-f", metavar="FILE", help="Of the fleet: read this declaration file."),
    detailed_exitcode: bool = words.Option(False, "--detailed-exitcode", help="Exit with 10 if something changed."),
) -> None:
    """Show what changed in a machine: packages, /etc, units, users, size; of the fleet: what apply would change."""
    if name is None:
        from machines.cli.verbs.fleet import diff_of_fleet

        diff_of_fleet(context, file, detailed_exitcode=detailed_exitcode)
        return
    show_changes(context, one(name), snapshot, None, detailed_exitcode=detailed_exitcode)


def show_changes(
    context: words.Context, name: str, before: str | None, after: str | None, *, detailed_exitcode: bool
) -> None:
    """Show what changed in a machine from one snapshot (or its base) to another (or now)."""
    from machines.cli.differences import show_difference
    from machines.operations.changes import changes

    difference = changes(name, RealHost(), before=before, after=after)
    show_difference(difference, context.obj)
    if detailed_exitcode and difference.changed:
        raise words.Exit(10)
