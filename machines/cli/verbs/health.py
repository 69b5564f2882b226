# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl health, wait; and probe, for units/machctl-health@.service"""

from __future__ import annotations

import time
from collections.abc import Mapping

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.wire import RealHost
from machines.errors import InvalidValue, MachctlError
from machines.operations.health import Round

COLUMNS = ("name", "health", "since", "failures", "probe", "took", "said")


def health(
    context: words.Context,
    names: list[str] = names_argument("The machines; all that have a probe if left out.", optional=True),
) -> None:
    """Show whether machines do their work, and what their last probes said. The exit status is 3 if one does not."""
    from machines.cli.output import show_object, show_rows
    from machines.operations.health import describe_health, health_row
    from machines.operations.inspect import expand, require

    host, options = RealHost(), context.obj
    chosen = expand(names, host) if names else _probed(host)
    require(chosen, host)
    found = [describe_health(name, host) for name in chosen]
    if options.output == "json" and len(names or ()) == 1 and len(found) == 1:
        show_object(found[0], options)
    elif options.output == "table" and len(names or ()) == 1 and len(found) == 1:
        _block(found[0])
    else:
        rows = found if options.output not in {"table", "wide"} else [_shown(health_row(row)) for row in found]
        empty = "no machine has a probe; declare one: [machines.NAME.health]"
        show_rows(rows, COLUMNS, options, empty=empty)
    if any(row["health"] != "healthy" for row in found if row["probe"]):
        raise words.Exit(3)


def wait(
    context: words.Context,
    what: list[str] = words.Argument(
        ..., metavar="NAME... [running|healthy|stopped|ip]", help="The machines, and what they are to be: running."
    ),
) -> None:
    """Wait until machines run and are ready, are healthy, are stopped or have an address; see --timeout."""
    from machines.cli.running import interruptible, run
    from machines.operations.inspect import expand, require
    from machines.operations.lifecycle import wait_for_address
    from machines.operations.waiting import STATES, wait_until

    host, options = RealHost(), context.obj
    names, wanted = (what[:-1], what[-1]) if len(what) > 1 and what[-1] in STATES else (what, "running")
    if what == [what[0]] and what[0] in STATES:
        raise InvalidValue(f"wait for which machine to be {what[0]}?", hint=f"machctl wait NAME {what[0]}")
    chosen = expand(names, host)
    require(chosen, host)
    end = time.monotonic() + options.timeout if options.timeout else None
    for name in chosen:
        left = max(end - time.monotonic(), 0.001) if end else None
        with interruptible(f"wait {name}"):
            wait_until(name, "running" if wanted == "ip" else wanted, host, timeout=left)
        if wanted == "ip":
            run(wait_for_address(name, host), timeout=left, what=f"wait for an address of {name}")


def probe(
    context: words.Context,
    interval: str = words.Argument(..., metavar="SECONDS", help="Those that are to be probed that often."),
) -> None:
    """Probe all machines that run, once."""
    import sys

    if not interval.isdigit() or not int(interval):
        raise InvalidValue(f"{interval!r} is not a number of seconds", hint="as in machctl probe 10")

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    Round(int(interval), RealHost(), say).run()


def _probed(host: RealHost) -> list[str]:
    from machines.render import paths

    return sorted(path.rsplit("/", 1)[1] for path in host.files.read_files([f"{paths.PROBE_DIRECTORY}/*"]))


def _shown(row: Mapping[str, object]) -> dict[str, object]:
    from machines.cli.ago import ago

    return {**row, "since": ago(row["since"])}


def _block(values: Mapping[str, object]) -> None:
    from machines.cli.ago import ago, clock
    from machines.cli.output import say

    if not values["probe"]:
        raise MachctlError(
            f"machine {values['name']} has no probe", hint=f'[machines.{values["name"]}.health] with http = "80/"'
        )
    state = values["health"] or "not running"
    since = f" for {ago(values['since'])}" if values["since"] else ""
    lines = [f"{values['name']}: {state}{since}"]
    lines += [f"  {values['why']}"] if values["why"] else []
    lines.append(
        f"  probe: {values['probe']}, every {values['interval']} s within {values['timeout']} s; "
        f"unhealthy after {values['retries']} failures, then: {values['on_failure']}"
    )
    results = values["results"]
    for result in results if isinstance(results, list) else ():
        verdict = "ok" if result.get("ok") else "failed"
        said = f"  {result['said']}" if result.get("said") else ""
        lines.append(f"  {clock(result.get('at'))}  {verdict:<6}  {result.get('ms')} ms{said}")
    say("\n".join(lines))
