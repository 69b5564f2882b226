# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl events"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.options import Options
from machines.cli.output import colored, note, show_rows
from machines.cli.running import Interrupted, run
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.model.names import check_known_name, is_pattern
from machines.operations.events import HEALTH_DIRECTORY, PATTERNS, Event, Tracker, history

_COLUMNS = ("time", "machine", "kind", "event", "unit", "why")
_COLOURS = {"restarting": "starting", "out-of-memory": "failed", "registered": "", "gone": "", "stopped": "skipped"}


def events(
    context: words.Context,
    names: list[str] = names_argument("Only these machines, or patterns such as 'web*'.", optional=True),
    follow: bool = words.Option(False, "--follow", "-f", help="Print what happens from now on, as it does."),
    since: str = words.Option(
        None, "--since", "-S", metavar="TIME", help="What happened since then (systemd.time(7)); else since the boot."
    ),
    lines: str = words.Option(None, "--lines", "-n", metavar="N", help="Only the last of what happened."),
) -> object:
    """Show what happened to machines: started, stopped, failed, restarted, became healthy or unhealthy."""
    options: Options = context.obj
    if lines is not None and not lines.isdigit():
        raise InvalidValue(f"{lines!r} is not a number of lines", hint="use -n 100")
    wanted = _wanted(names or [])
    host = RealHost()
    if not follow:
        _past(host, wanted, since, lines, options)
        return 0
    if options.output not in {"table", "wide", "json"}:
        raise InvalidValue(f"events that go on are not shown as {options.output}", hint="use --json, or no --follow")

    def before() -> None:
        if since is not None or lines is not None:
            _past(host, wanted, since, lines, options)

    try:
        run(_follow(host, wanted, options, before), timeout=options.timeout, what="watching")
    except Interrupted as end:
        return end.exit_code
    return 0


def _past(
    host: RealHost, wanted: Callable[[Event], bool], since: str | None, lines: str | None, options: Options
) -> None:
    """Print what the journal has."""
    found = [event for event in history(host, [f"--since={since}"] if since else ["--boot"]) if wanted(event)]
    found = found[-int(lines) :] if lines and int(lines) else found if lines is None else []
    if options.output in {"table", "wide", "json"}:
        for event in found:
            _print(event, options)
        if not found and options.output != "json" and options.legend:
            note(f"nothing happened since {since or 'the boot of this host'}")
    else:
        show_rows([event.row() for event in found], _COLUMNS, options, named="machine")


async def _follow(
    host: RealHost, wanted: Callable[[Event], bool], options: Options, before: Callable[[], None]
) -> None:
    from machines.host.loop import looped

    await looped()
    import asyncio

    from machines.host.bus.events import follow

    # What a bus calls must neither raise nor take long: a pipe may be full, or its reader gone.
    queue: asyncio.Queue[tuple[str, str, Mapping[str, Any], float]] = asyncio.Queue()
    watching = asyncio.ensure_future(
        follow(lambda *told: queue.put_nowait((*told, time.time())), PATTERNS, HEALTH_DIRECTORY)
    )
    # The end of the one ends the other.
    watching.add_done_callback(lambda _: queue.put_nowait(("end", "", {}, 0.0)))
    tracker, listening = Tracker(host), False
    try:
        while True:
            what, name, properties, at = await queue.get()
            if what == "end":
                await watching
                return
            if what == "listening":
                listening = True
                before()
            for event in tracker.told(what, name, properties, at):
                if listening and wanted(event):
                    _print(event, options)
    finally:
        watching.cancel()


def _wanted(patterns: list[str]) -> Callable[[Event], bool]:
    """Give what chooses events; a machine may not be there yet."""
    from fnmatch import fnmatchcase

    for pattern in patterns:
        if not is_pattern(pattern):
            check_known_name(pattern)
    return lambda event: not patterns or any(fnmatchcase(event.machine, pattern) for pattern in patterns)


def _print(event: Event, options: Options) -> None:
    """Print a line, at once."""
    if options.output == "json":
        import json

        line = json.dumps(event.row(), ensure_ascii=False)
    else:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at)) + f".{int(event.at % 1 * 1000):03}"
        word = colored(event.event, options, key=_COLOURS.get(event.event, event.event))
        leader = f" (leader {event.leader})" if event.kind == "machine" and event.leader else ""
        why = f" ({event.why})" if event.why else ""
        kind = "health " if event.kind == "health" else ""
        line = f"{when}  {event.machine or event.unit:<16}  {kind}{word}{leader}{why}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
