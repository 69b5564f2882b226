# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl check, schema, fleet init"""

from __future__ import annotations

import os
import sys

from machines.cli import words
from machines.cli.output import note, report_error, say, show_object
from machines.cli.wire import RealHost
from machines.declare.fleet import FLEET_FILE
from machines.errors import Conflict, MachctlError, NotFound, Several

INVALID = 8


def check(
    context: words.Context,
    files: list[str] = words.Argument(
        None, metavar="[FILE]...", help="Files, read together as one fleet; - is stdin. What is declared if left out."
    ),
    file: str = words.Option(None, "--file", "-f", metavar="FILE", help="The same, as plan and apply have it."),
) -> None:
    """Check declaration files: every mistake at once, with its line. The exit status is 8 if there is one."""
    from machines.operations.checking import check_files

    host = RealHost()
    named = [*(files or []), *([file] if file else [])]
    texts = {_path(name): _text(name, host) for name in named} if named else host.files.read_files(host.declarations)
    found = check_files(texts)
    options = context.obj
    if options.output in {"json", "yaml"}:
        show_object(found.report(), options)
        raise words.Exit(INVALID if found.errors else 0)
    if found.errors:
        report_error(Several(found.errors))
        raise words.Exit(INVALID)
    if not options.quiet:
        say(found.summary())


def schema(context: words.Context) -> None:
    """Print the JSON Schema of declaration files: editors that know TOML complete and check them by it."""
    import json

    from machines.declare.schema import fleet_schema

    say(json.dumps(fleet_schema(), indent=2))


def init(
    context: words.Context,
    file: str = words.Argument(FLEET_FILE, metavar="[FILE]", help=f"{FLEET_FILE} if left out; - is stdout."),
) -> None:
    """Write a fleet file to begin with: one that works, and says in comments all that there is to say."""
    from machines.declare.example import fleet_example

    if file == "-":
        say(fleet_example().rstrip("\n"))
        return
    path = os.path.abspath(file)
    if os.path.lexists(path):
        raise Conflict(f"{path} is there already", hint="machctl fleet init - shows what it would be")
    options = context.obj
    if options.dry_run:
        say(f"write {path}")
        return
    RealHost().files.write_file(path, fleet_example())
    if not options.quiet:
        note(f"wrote {path}\n  edit it, then: machctl check; machctl plan; machctl apply")


def _path(name: str) -> str:
    return "-" if name == "-" else os.path.abspath(name)


def _text(name: str, host: RealHost) -> str:
    if name == "-":
        return sys.stdin.read()
    path = _path(name)
    text = host.files.read_text(path)
    if text is None:
        if os.path.exists(path):
            raise MachctlError(f"{path} cannot be read", hint="it has to be a file that you may read")
        raise NotFound(f"there is no file {path}", hint="machctl fleet init FILE writes one to begin with")
    return text


VERBS = {"init": init}
ALIASES: dict[str, str] = {}
