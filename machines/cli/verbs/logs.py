# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl logs"""

from __future__ import annotations

import sys

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.errors import InvalidValue, MachctlError, NotFound


def logs(
    context: words.Context,
    names: list[str] = names_argument(
        "The machines, or patterns such as 'web*'; all that run if left out.", optional=True
    ),
    follow: bool = words.Option(False, "--follow", "-f", help="Go on printing what comes."),
    lines: str = words.Option("all", "--lines", "-n", metavar="N", help="Only the last lines."),
    unit: list[str] = words.Option([], "--unit", "-u", metavar="UNIT", help="Only this unit of the machines."),
    since: str = words.Option(None, "--since", "-S", metavar="TIME", help="Not older than that (systemd.time(7))."),
) -> int:
    """Show the machines' own journals, whether they run or not; those of several are merged by time.

    Of a machine without an init it is what its command printed.
    """
    from machines.cli.several import exit_status
    from machines.cli.wire import RealHost
    from machines.model.names import is_pattern
    from machines.operations.inspect import expand, require
    from machines.operations.logs import journal_command, without_init

    if lines != "all" and not lines.isdigit():
        raise InvalidValue(f"{lines!r} is not a number of lines", hint="use -n 100")
    host, options = RealHost(), context.obj
    patterns = [name for name in names or () if is_pattern(name)]
    # Of a name that no machine can have, there is none: as for one that none has.
    require([name for name in names or () if name not in patterns], host)
    chosen = expand(names, host) if names else sorted(host.running())
    if not chosen:
        raise NotFound("no machine runs, so none is meant", hint="machctl logs NAME")
    alone = without_init(host)
    argv = [f"--unit={word}" for word in unit]
    argv += [f"--since={since}"] if since else []
    if len(chosen) == 1 and not follow:
        argv += [f"--lines={lines}"]
        argv += ["--output=json"] if options.output == "json" else []
        argv += [] if sys.stdout.isatty() else ["--no-pager"]
        host.tools.replace(journal_command(chosen[0], host, argv, alone=alone))
    commands, failed = dict[str, list[str]](), dict[str, MachctlError]()
    for name in chosen:
        try:
            commands[name] = journal_command(name, host, argv, alone=alone)
        except NotFound as error:
            failed[name] = error
    status = 0
    if commands:
        from machines.cli.merging import Merged

        # Of one that starts meanwhile, the journal is where it runs.
        merged = Merged(commands, options, lambda name: journal_command(name, host, argv), lasting=alone)
        merged.past(None if lines == "all" else int(lines))
        status = merged.follow() if follow else 0
    return status or exit_status(failed, len(chosen))
