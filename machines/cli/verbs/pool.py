# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl pool create, show"""

from __future__ import annotations

from machines.cli import words
from machines.cli.output import note, show_object
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.declare.values import parse_disk
from machines.errors import InvalidValue
from machines.operations.pool import create_pool
from machines.render.paths import POOL_IMAGE


def create(
    context: words.Context,
    btrfs: str = words.Option(None, "--btrfs", metavar="SIZE", help="A btrfs of that size in a file, as in 50G."),
) -> None:
    """Make a pool that can take snapshots on a host whose file system cannot. It fills as it is used."""
    options = context.obj
    if btrfs is None:
        raise InvalidValue("a pool of what?", hint="machctl pool create --btrfs 50G")
    host = RealHost()
    plan = run(
        create_pool(parse_disk(btrfs), host, Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what="pool create",
        afterwards="run it again to finish it",
    )
    if options.dry_run:
        show_plan({"the pool": plan}, options)
    elif not options.quiet:
        note(f"the pool is a btrfs of {btrfs} in {POOL_IMAGE}")


def show(context: words.Context) -> None:
    """Show where machines are kept, how, and how much room there is."""
    host = RealHost()
    drivers = host.storage.drivers()
    show_object(
        {
            "path": "/var/lib/machines",
            "filesystem": host.pool.filesystem(),
            "free": host.pool.free_bytes(),
            "storage": next((name for name, reason in drivers.items() if not reason), None),
            "drivers": {name: reason or "yes" for name, reason in drivers.items()},
        },
        context.obj,
    )


VERBS = {"create": create, "show": show}
ALIASES = {"status": "show", "init": "create"}
