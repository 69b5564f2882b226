# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl version, completion"""

from __future__ import annotations

from machines import __version__
from machines.cli import words
from machines.cli.output import say, show_object
from machines.errors import InvalidValue


def version(context: words.Context) -> None:
    """Show the version of machctl."""
    if context.obj.output in {"json", "yaml"}:
        show_object({"name": "machctl", "version": __version__}, context.obj)
    else:
        say(f"machctl {__version__}")


def completion(shell: str = words.Argument(..., metavar="bash|zsh|fish", help="The shell to print it for.")) -> None:
    """Print the completion script of a shell: machctl completion bash > /etc/bash_completion.d/machctl"""
    from typer._completion_shared import get_completion_script

    if shell not in {"bash", "zsh", "fish"}:
        raise InvalidValue(f"there is no completion for {shell!r}", hint="use bash, zsh or fish")
    say(get_completion_script(prog_name="machctl", complete_var="_MACHCTL_COMPLETE", shell=shell))
