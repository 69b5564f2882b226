# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl update"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.output import note, show_rows
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.operations import update as operations
from machines.operations.declared import readable_machines
from machines.operations.gates import Gates, limits_of
from machines.operations.inspect import expand, require
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.together import for_each

if TYPE_CHECKING:
    from machines.cli.options import Options
    from machines.errors import MachctlError
    from machines.model.machine import Machine
    from machines.plan.steps import Plan

COLUMNS = ("name", "upgraded", "restarted", "snapshot")
_AFTERWARDS = "machines that were being updated are as they were before"


def update(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'.", optional=True),
    everything: bool = words.Option(False, "--all", help="All that are declared and whose trees keep what is written."),
    probe: str = words.Option(
        "", "--probe", metavar="COMMAND", help="Also run this in it by /bin/sh: it has to end with 0."
    ),
    no_volumes: bool = words.Option(
        False, "--no-volumes", help="Roll back its tree alone, and none of the directories that it writes into."
    ),
    health_timeout: float = words.Option(
        None, "--health-timeout", metavar="SECONDS", help="How long its own probe may fail afterwards."
    ),
    keep: str = words.Option("1", "--keep", metavar="N", help="How many snapshots of before updates are kept."),
    parallel: str = words.Option(
        "1", "--parallel", metavar="N", help="Update so many at once; of replicas as many as max-unavailable says."
    ),
    interrupted: str = words.Option(
        "",
        "--interrupted",
        metavar="undo|keep",
        help="Of a former update that was killed, where the machine has served since: take it back, or keep it so.",
    ),
    schedule: str = words.Option(
        "", "--schedule", metavar="WHEN", help="Do it then, again and again (systemd.time(7)); off takes that back."
    ),
) -> None:
    """Upgrade the packages of machines: apt, pacman or dnf. What ran the old ones is restarted, by service or whole.

    Before, their trees are kept as snapshots and the directories of the host that only they write into as copies. Where
    a machine then is not healthy, or units of it have failed, all of that is put back.
    """
    options = context.obj
    host = RealHost()
    check_ready(host, verb="update")
    declared = readable_machines(host)
    chosen = _chosen(names, everything, declared, host)
    if interrupted not in {"", operations.UNDO, operations.KEEP}:
        raise InvalidValue(f"{interrupted!r} is nothing to do with an update", hint="use --interrupted undo or keep")
    wishes = operations.Wishes(probe, not no_volumes, _seconds(health_timeout), _count("--keep", keep, 0), interrupted)
    count = _count("--parallel", parallel, 1)
    if schedule:
        from machines.cli.scheduling import schedule_updates

        schedule_updates(schedule, chosen, host, options, more=wishes != operations.Wishes() or count != 1)
        return
    if options.dry_run:
        show_plan(run(_foreseen(chosen, host, wishes), timeout=None, what="update"), options)
        return
    raise words.Exit(_update_all(chosen, host, wishes, declared, options, count=count))


def _update_all(
    chosen: list[str],
    host: RealHost,
    wishes: operations.Wishes,
    declared: Mapping[str, Machine],
    options: Options,
    *,
    count: int,
) -> int:
    progress = Progress(options)
    gates = Gates(limits_of(declared, otherwise=1))
    rows: list[Mapping[str, object]] = []

    async def one(name: str, places: asyncio.Semaphore) -> None:
        group = declared[name].group if name in declared else ""
        async with gates.through(name, group), places:
            began = time.monotonic()
            done = await operations.update(name, host, progress, wishes)
            progress.clear()
            rows.append(_row(name, done, time.monotonic() - began))
            if not options.quiet:
                _say(name, done, time.monotonic() - began)

    async def every() -> dict[str, MachctlError]:
        places = asyncio.Semaphore(count)
        return await for_each(chosen, lambda name: one(name, places))

    try:
        failed = run(every(), timeout=options.timeout, what="update", afterwards=_AFTERWARDS)
    finally:
        progress.clear()
    if options.output not in {"table", "wide"}:
        show_rows(rows, COLUMNS, options)
    return exit_status(failed, len(chosen))


def _row(name: str, done: operations.Updated, seconds: float) -> Mapping[str, object]:
    return {
        "name": name,
        "upgraded": list(done.packages),
        "restarted": list(done.restarted),
        "snapshot": done.snapshot or None,
        "left": dict(done.left),
        "seconds": round(seconds, 1),
    }


async def _foreseen(chosen: list[str], host: RealHost, wishes: operations.Wishes) -> dict[str, Plan]:
    return {name: list((await operations.update(name, host, Reporter(), wishes, dry_run=True)).plan) for name in chosen}


def _say(name: str, done: operations.Updated, seconds: float) -> None:
    if done.undone:
        note(f"{name}: a former update had been killed, and was taken back first")
    if not done.packages:
        note(f"{name}: there is nothing to upgrade")
        return
    restarted = f"; restarted {', '.join(done.restarted)}" if done.restarted else ""
    note(f"updated {name} in {seconds:.1f} s: {', '.join(done.packages)}{restarted}")
    if done.snapshot:
        note(f"  how it was before: machctl restore {name} {done.snapshot}")
    for path, why in done.left.items():
        note(f"  {path} would not have been rolled back: {why}")


def _chosen(names: list[str] | None, everything: bool, declared: Mapping[str, Machine], host: RealHost) -> list[str]:
    if bool(names) == everything:
        raise InvalidValue("say which machines to update", hint="machctl update NAME..., or --all for all of the fleet")
    if everything:
        keeping = [
            name
            for name, machine in sorted(declared.items())
            if not (machine.read_only or machine.volatile or machine.ephemeral)
        ]
        there = host.pool.trees()
        return [name for name in keeping if name in there]
    chosen = expand(names or [], host)
    require(chosen, host)
    return chosen


def _count(option: str, text: str, least: int) -> int:
    if not text.isdigit() or not least <= int(text) < 1000:
        raise InvalidValue(f"{option} {text} is no number of that", hint=f"give a number from {least} on")
    return int(text)


def _seconds(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1e6:
        raise InvalidValue(f"{value:g} is no time to wait for", hint="give seconds above 0")
    return value
