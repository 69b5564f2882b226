# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl doctor"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from machines.cli import words
from machines.cli.names import complete
from machines.cli.options import Options
from machines.cli.output import colored, say, show_rows

if TYPE_CHECKING:
    from machines.cli.wire import RealHost
    from machines.operations.doctor import Finding


def doctor(
    context: words.Context,
    name: str = words.Argument(
        "", metavar="[NAME]", help="The machine whose network is looked at, hop by hop.", autocompletion=complete
    ),
    fix: bool = words.Option(False, "--fix", help="Mend what can be mended without harm, and look again."),
) -> None:
    """Check what machines need of this host, or the whole way to and from one machine.

    The exit status is 1 if something keeps them from running, or packets from getting through.
    """
    from machines.cli.plans import show_plan
    from machines.cli.wire import RealHost
    from machines.operations.doctor import examine, examine_machine, mending
    from machines.operations.ready import check_ready

    options = context.obj
    host = RealHost()
    if name:
        check_ready(host, verb=f"doctor {name}")

    def look() -> list[Finding]:
        return examine_machine(name, host) if name else examine(host)

    findings = look()
    if fix and options.dry_run:
        show_plan({name or "this host": mending(findings)}, options)
        return
    if fix and mending(findings):
        findings = _mend(look, name, host, options)
    _show(findings, options)
    if any(finding.level == "bad" for finding in findings):
        raise words.Exit(1)


def _mend(look: Callable[[], list[Finding]], name: str, host: RealHost, options: Options) -> list[Finding]:
    from machines.cli.progress import Progress
    from machines.cli.running import run
    from machines.operations.doctor import mend
    from machines.operations.ready import check_ready

    check_ready(host, verb="doctor --fix")
    work = mend(look, name, host, Progress(options))
    return run(work, timeout=options.timeout, what=f"doctor {name}".strip())


def _show(findings: Sequence[Finding], options: Options) -> None:
    if options.output != "table":
        columns = ("check", "level", "message", "remedy")
        show_rows([finding.row() for finding in findings], columns, options, named="check")
        return
    for finding in findings:
        if options.quiet and finding.level == "ok":
            continue
        say(f"{colored(f'{finding.level:<8}', options, key=finding.level)} {finding.message}")
        for line in finding.remedy.splitlines():
            say(f"{'':<9}-> {line}")
