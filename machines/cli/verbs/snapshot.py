# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl snapshot create, ls, rm, diff"""

from __future__ import annotations

import datetime
import os

from machines.cli import words
from machines.cli.names import name as name_argument
from machines.cli.names import one
from machines.cli.options import Options
from machines.cli.output import note, show_rows
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.copies import TAKEN_BACK, show_changes
from machines.cli.wire import RealHost
from machines.errors import InvalidValue, NotPermitted
from machines.model.names import check_kept_name
from machines.operations import copies
from machines.operations.forgetting import not_kept

COLUMNS = ("machine", "name", "created", "note")


def create(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    snapshot: str = words.Argument("", metavar="[SNAPSHOT]", help="What it is called; the time if left out."),
    keep: str = words.Option(
        "",
        "--keep",
        metavar="N",
        help="Call it auto-TIME, and keep the newest N of these; see machctl-snapshot@.timer.",
    ),
) -> None:
    """Keep how a machine's tree is now."""
    options = context.obj
    name, host, progress = one(name), RealHost(), Progress(options)
    if keep:
        _in_turn(name, snapshot, keep, host, options)
        return
    if snapshot:
        check_kept_name(snapshot, what="a snapshot")
    missing = not_kept(name, host)
    try:
        taken = run(
            copies.take(name, snapshot, host, progress, dry_run=options.dry_run),
            timeout=options.timeout,
            what=f"snapshot {name}",
            quick=True,
            afterwards=TAKEN_BACK,
        )
    finally:
        progress.clear()
    if not options.quiet:
        word = "would take" if options.dry_run else "took"
        back = f"to go back to it: machctl restore {name} {taken.name}"
        note(f"{word} snapshot {taken.name} of {name}{_without(missing)}; {back}")


def _in_turn(name: str, snapshot: str, keep: str, host: RealHost, options: Options) -> None:
    from machines.operations.rotation import take_in_turn

    if snapshot or not keep.isdigit() or int(keep) < 1:
        raise InvalidValue(
            f"--keep {keep} is no number of snapshots" if not snapshot else "--keep chooses the name itself",
            hint="machctl snapshot create NAME --keep 7",
        )
    progress, missing = Progress(options), not_kept(name, host)
    try:
        work = take_in_turn(name, int(keep), host, progress, dry_run=options.dry_run)
        taken, gone = run(work, timeout=options.timeout, what=f"snapshot {name}", afterwards=TAKEN_BACK)
    finally:
        progress.clear()
    if not options.quiet:
        would = "would take" if options.dry_run else "took"
        removed = f"; removed {', '.join(gone)}" if gone else ""
        note(f"{would} snapshot {taken.name} of {name}{_without(missing)}{removed}")


def _without(missing: str) -> str:
    return f", without {missing}" if missing else ""


def ls(
    context: words.Context,
    name: str = words.Argument(None, metavar="[NAME]", help="Of this machine; of all if left out."),
) -> None:
    """List snapshots."""
    host = RealHost()
    found = {name: host.storage.snapshots_of(name)} if name is not None else host.storage.all_snapshots()
    if name is not None and not found[name]:
        from machines.operations.inspect import require

        # Those of a machine that was pruned outlive it.
        require([name], host)
    if os.geteuid() != 0 and not any(found.values()):
        raise NotPermitted("snapshots need root", hint="run it again with sudo")
    rows = [
        {
            "machine": snapshot.machine,
            "name": snapshot.name,
            "created": datetime.datetime.fromtimestamp(snapshot.created).astimezone().isoformat(timespec="seconds"),
            "storage": snapshot.storage,
            "note": snapshot.note or None,
        }
        for snapshots in found.values()
        for snapshot in snapshots.values()
    ]
    show_rows(rows, COLUMNS, context.obj, empty="no snapshots; take one: machctl snapshot create NAME")


def rm(
    context: words.Context,
    name: str = name_argument("The machine."),
    snapshots: list[str] = words.Argument(..., metavar="SNAPSHOT...", help="Those to remove."),
) -> None:
    """Remove snapshots."""
    options, name = context.obj, one(name)
    plan = run(
        copies.drop(name, snapshots, RealHost(), Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what=f"snapshot rm {name}",
        quick=True,
    )
    if options.dry_run:
        show_plan({name: plan}, options)
    elif not options.quiet:
        note(f"removed {', '.join(snapshots)} of {name}")


def diff(
    context: words.Context,
    name: str = name_argument("The machine."),
    before: str = words.Argument(..., metavar="BEFORE", help="A snapshot."),
    after: str = words.Argument(None, metavar="[AFTER]", help="A later one; how it is now if left out."),
    detailed_exitcode: bool = words.Option(False, "--detailed-exitcode", help="Exit with 10 if something changed."),
) -> None:
    """Show what changed in a machine from one snapshot to another."""
    show_changes(context, one(name), before, after, detailed_exitcode=detailed_exitcode)


VERBS = {"create": create, "ls": ls, "rm": rm, "diff": diff}
ALIASES = {"list": "ls", "take": "create", "remove": "rm", "delete": "rm"}
