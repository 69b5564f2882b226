# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl doctor, version, completion"""

from __future__ import annotations

import typer

from machines import __version__
from machines.cli.output import colored, say, show_object, show_rows
from machines.errors import InvalidValue


def doctor(context: typer.Context) -> None:
    """Check what machines need of this host. The exit status is 1 if something keeps them from running."""
    from machines.cli.wire import RealHost
    from machines.operations.doctor import examine

    options = context.obj
    findings = examine(RealHost())
    if options.output == "table":
        for finding in findings:
            if options.quiet and finding.level == "ok":
                continue
            say(f"{colored(f'{finding.level:<8}', options, key=finding.level)} {finding.message}")
            for line in finding.remedy.splitlines():
                say(f"{'':<9}-> {line}")
    else:
        show_rows([finding.row() for finding in findings], ("check", "level", "message", "remedy"), options)
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(1)


def version(context: typer.Context) -> None:
    """Show the version of machctl."""
    if context.obj.output in {"json", "yaml"}:
        show_object({"name": "machctl", "version": __version__}, context.obj)
    else:
        say(f"machctl {__version__}")


def completion(shell: str = typer.Argument(..., metavar="bash|zsh|fish", help="The shell to print it for.")) -> None:
    """Print the completion script of a shell: machctl completion bash > /etc/bash_completion.d/machctl"""
    from typer._completion_shared import get_completion_script

    if shell not in {"bash", "zsh", "fish"}:
        raise InvalidValue(f"there is no completion for {shell!r}", hint="use bash, zsh or fish")
    say(get_completion_script(prog_name="machctl", complete_var="_MACHCTL_COMPLETE", shell=shell))
