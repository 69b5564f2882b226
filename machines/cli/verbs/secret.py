# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl secret set, ls, rm"""

from __future__ import annotations

import sys

from machines.cli import words
from machines.cli.output import note, show_rows
from machines.cli.wire import RealHost
from machines.declare.environment import check_credential
from machines.errors import InvalidValue, MachctlError, NotFound
from machines.operations import secrets

COLUMNS = ("name", "state", "machines")


def set_(
    context: words.Context,
    name: str = words.Argument(..., metavar="NAME", help='The secret: secrets = { token = "credential:NAME" }.'),
    source: str = words.Option(
        None, "--from", metavar="FILE", help="Read it from this file, as it is, not from stdin."
    ),
    plain: bool = words.Option(
        False, "--plain", help="Readable by root alone where it cannot be sealed, even if it was sealed before."
    ),
) -> None:
    """Keep a secret, sealed with the key of this host or its TPM where systemd can: typed, from stdin or from a file.

    It never is a word of a command, which ps shows.
    """
    check_credential(name)
    content = _from_file(source) if source else _typed(name) if sys.stdin.isatty() else sys.stdin.buffer.read()
    if not content:
        raise InvalidValue(f"secret {name} would be empty", hint=f"machctl secret set {name} --from FILE")
    if context.obj.dry_run:
        note(f"keep secret {name}, {len(content)} bytes")
        return
    why, running, moved = secrets.set_secret(name, content, RealHost(), plain=plain)
    if context.obj.quiet:
        return
    note(f"keeps secret {name}, {f'not sealed, but readable by root alone: {why}' if why else 'sealed'}")
    if moved:
        note(f"  machines look for it where it was before until: machctl apply {' '.join(moved)}")
    if running:
        note(f"  machines have it from their next start on: machctl restart {' '.join(running)}")


def ls(context: words.Context) -> None:
    """List secrets, and the machines that are given them; never what they are."""
    rows = secrets.list_secrets(RealHost())
    show_rows(rows, COLUMNS, context.obj, empty="no secrets; keep one: machctl secret set NAME")


def rm(
    context: words.Context,
    names: list[str] = words.Argument(..., metavar="NAME...", help="The secrets."),
    force: bool = words.Option(False, "--force", "-f", help="Those that machines need, too."),
) -> None:
    """Forget secrets."""
    secrets.remove_secrets(names, RealHost(), force=force, dry_run=context.obj.dry_run)
    if not context.obj.quiet:
        note(f"{'would forget' if context.obj.dry_run else 'forgot'} {' '.join(names)}")


def _from_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise MachctlError(f"{path} cannot be read: {error.strerror}") from error


def _typed(name: str) -> bytes:
    import getpass

    try:
        first, again = getpass.getpass(f"secret {name}: "), getpass.getpass("again: ")
    except EOFError:
        raise InvalidValue(f"secret {name} was not typed") from None
    if first != again:
        raise InvalidValue("these are not the same", hint="type it twice")
    return first.encode()


VERBS = {"set": set_, "ls": ls, "rm": rm}
ALIASES = {"list": "ls", "remove": "rm", "create": "set"}
