# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl top, stats, metrics"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.options import Options
from machines.cli.output import say, show_rows
from machines.cli.usage import fitting, plain_row
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.operations import usage
from machines.operations.usage import Look

_WIDE = 240


def top(
    context: words.Context,
    names: list[str] = names_argument("Only these machines, or patterns such as 'web*'.", optional=True),
    interval: float = words.Option(2.0, "--interval", "-d", metavar="SECONDS", help="Look again that often."),
    sort: str = words.Option("cpu", "--sort", "-s", metavar="COLUMN", help="What is sorted by; keys change it."),
) -> object:
    """Show what running machines use, again and again until q is typed; once, where there is no terminal."""
    from machines.cli.top import SORTS, View, watch

    by_name = {column.removesuffix("%").removesuffix("/s"): column for column in SORTS.values()}
    if sort not in by_name:
        raise InvalidValue(f"{sort!r} is no column to sort by", hint=f"use one of {', '.join(by_name)}")
    look = _look(names, RealHost(), interval)
    options: Options = context.obj
    view = View(options, sort=by_name[sort], interval=interval)
    # A terminal like Emacs' shell knows no place but the end.
    if options.output in {"table", "wide"} and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return watch(look, view)
    _show(_twice(look, min(interval, 1.0)), options, view.ordered)
    return 0


def stats(
    context: words.Context,
    names: list[str] = names_argument("Only these machines, or patterns such as 'web*'.", optional=True),
    interval: float = words.Option(
        1.0, "--interval", "-d", metavar="SECONDS", help="Measure rates that long; 0: none, and no waiting."
    ),
) -> None:
    """Show what running machines use, once."""
    look = _look(names, RealHost(), interval or 1.0)
    _show(_twice(look, interval) if interval else look(None), context.obj, lambda found: list(found.machines.values()))


def metrics(
    context: words.Context,
    write: str = words.Option(
        "", "--write", metavar="FILE", help="Write them there, whole or not at all, as node_exporter's textfiles want."
    ),
) -> None:
    """Print what machines are and use for Prometheus, in its text format."""
    from machines.host.meters.textfile import publish
    from machines.operations.metrics import exposition

    host = RealHost()
    text = exposition(host, host.meters)
    if not write:
        say(text.rstrip("\n"))
        return
    if not write.startswith("/") or not write.endswith(".prom"):
        raise InvalidValue(
            f"{write!r} is no file that node_exporter reads",
            hint="give an absolute path that ends in .prom: /var/lib/prometheus/node-exporter/machctl.prom",
        )
    publish(write, text)


def _look(patterns: list[str] | None, host: RealHost, interval: float) -> Callable[[Look | None], Look]:
    """Give what looks at the machines that are meant, new ones that a pattern matches too."""
    if not 0 < interval < 1e6:
        raise InvalidValue(f"{interval:g} is no time to wait for", hint="give seconds above 0")
    patterns = patterns or []
    usage.running(patterns, host)

    def wanted(name: str) -> bool:
        from fnmatch import fnmatchcase

        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    return lambda before: usage.look(host, host.meters, wanted=wanted, before=before)


def _twice(look: Callable[[Look | None], Look], seconds: float) -> Look:
    import select

    first = look(None)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        # There is nothing to wait for but time: what is asked for is how much happens in it.
        select.select([], [], [], left)
    return look(first)


def _show(found: Look, options: Options, ordered: Callable[[Look], list[usage.Reading]]) -> None:
    readings = ordered(found)
    if options.output not in {"table", "wide"}:
        rows = [reading.row() for reading in readings]
        show_rows(rows, tuple(name for name in (rows[0] if rows else {}) if name != "pressure"), options)
        return
    import shutil

    width = _WIDE if options.output == "wide" else shutil.get_terminal_size((100, 24)).columns
    longest = max((len(reading.name) for reading in readings), default=0)
    _, columns = fitting(width, longest, gap=2)
    rows = [plain_row(reading, columns) for reading in readings]
    show_rows(rows, ("name", *(column.name for column in columns)), options, empty="no machine runs; machctl list")
