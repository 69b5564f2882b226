# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl cp"""

from __future__ import annotations

import sys

from machines.cli import words
from machines.cli.output import note
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.model.place import Place
from machines.operations.copying import STREAM, hidden, is_machine, sides


def cp(
    context: words.Context,
    source: str = words.Argument(
        ..., metavar="SOURCE", help="NAME:/path, a path of the host, or - for a tar on stdin."
    ),
    target: str = words.Argument(..., metavar="TARGET", help="The same; - writes a tar archive to stdout."),
    archive: bool = words.Option(False, "--archive", "-a", help="Keep owners, by number, setuid bits and devices."),
    follow: bool = words.Option(False, "--follow-link", "-L", help="Copy what SOURCE leads to, if it is a symlink."),
) -> None:
    """Copy files into a machine, out of it, or from one to another, running or not. DIR/. means what is in it."""
    options = context.obj
    if source == target == STREAM or not (is_machine(source) or is_machine(target)):
        raise InvalidValue("neither side is in a machine", hint="write one as NAME:/path")
    if target == STREAM and sys.stdout.isatty():
        raise InvalidValue("an archive would garble the terminal", hint=f"machctl cp {source} - >FILE.tar")
    if source == STREAM and sys.stdin.isatty():
        raise InvalidValue("stdin is a terminal, not a tar archive", hint=f"machctl cp - {target} <FILE.tar")
    progress = Progress(options)
    if options.dry_run:
        _check(source, target, progress, follow=follow)
        note(f"would copy {source} to {target}")
        return
    try:
        count = run(
            _copy(source, target, progress, archive=archive, follow=follow),
            timeout=options.timeout,
            what=f"cp {source} {target}",
            afterwards="what was copied until then is there",
        )
    finally:
        progress.clear()
    if not options.quiet and target != STREAM:
        note(f"copied {source} to {target}: {count} {'entry' if count == 1 else 'entries'}")


def _check(source: str, target: str, progress: Progress, *, follow: bool) -> None:
    from machines.host.archive import copying

    with sides([source, target], RealHost()) as (here, there):
        copying.check(here, there, follow=follow)
        _warn(there, progress)


def _warn(target: Place | None, progress: Progress) -> None:
    if over := hidden(target):
        assert target is not None
        progress.warn(f"{target.machine} does not run, and does not see this once it does: {over} is another there")


async def _copy(source: str, target: str, progress: Progress, *, archive: bool, follow: bool) -> int:
    """Copy in a thread, which ends when this is cancelled, and give how many entries."""
    import asyncio
    import threading

    from machines.host.archive import copying
    from machines.host.archive.entries import Counts

    host = RealHost()
    cancelled = threading.Event()

    def report(stage: str, done: int, total: int | None) -> None:
        if cancelled.is_set():
            raise asyncio.CancelledError
        if progress.bar:
            progress.progress(source if target == STREAM else target, stage, done, total)

    def work() -> Counts:
        with sides([source, target], host) as found:
            here, there = found
            _warn(there, progress)
            if here is None:
                assert there is not None
                return copying.unpack(sys.stdin.fileno(), there, progress=report, archive=archive)
            if there is None:
                return copying.pack(here, sys.stdout.fileno(), progress=report, follow=follow)
            return copying.copy(here, there, progress=report, archive=archive, follow=follow)

    try:
        return (await asyncio.to_thread(work)).entries
    except asyncio.CancelledError:
        cancelled.set()
        raise
