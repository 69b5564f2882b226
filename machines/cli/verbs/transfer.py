# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl export, import"""

from __future__ import annotations

import os
import sys

from machines.cli import words
from machines.cli.names import name as name_argument
from machines.cli.names import one
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.copies import TAKEN_BACK
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.operations import transfer
from machines.operations.forgetting import as_it_was
from machines.operations.inspect import require


def export(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    file: str = words.Argument(..., metavar="FILE", help="The archive, as in web.tar.zst; - is stdout."),
    form: str = words.Option("tar", "--format", metavar="tar|oci", help="A tar of the tree, or an OCI image."),
) -> None:
    """Write a machine into an archive: its tree with the owners it has inside, and how it is declared."""
    options, name = context.obj, one(name)
    if form not in transfer.FORMATS:
        raise InvalidValue(f"{form!r} is no format of an archive", hint="use --format tar or oci")
    if file == "-" and sys.stdout.isatty():
        raise InvalidValue("an archive would garble the terminal", hint=f"machctl export {name} - >{name}.tar.zst")
    host, progress = RealHost(), Progress(options)
    if options.dry_run:
        require([name], host)
        note(f"would write {name} to {file}")
        return
    how = as_it_was(name, host)
    try:
        path = file if file == "-" else os.path.abspath(os.path.expanduser(file))
        run(
            transfer.export(name, path, host, lambda *stage: progress.progress(name, *stage), form=form),
            timeout=options.timeout,
            what=f"export {name}",
            afterwards=f"{file} was not written",
        )
    finally:
        progress.clear()
    if not options.quiet and file != "-":
        note(f"exported {name} to {file}{how}")


def import_(
    context: words.Context,
    file: str = words.Argument(..., metavar="FILE", help="What machctl export wrote, a root tree's tar, an OCI image."),
    name: str = words.Argument(
        None, metavar="[NAME]", help="What the machine is called; as the archive says if left out."
    ),
    identity: str = words.Option(
        "keep", "--identity", metavar="keep|new", help="Machine ID, host name and ssh host keys: the same, or new ones."
    ),
    form: str = words.Option(None, "--format", metavar="tar|oci", help="What it is, if that cannot be told."),
    trust: bool = words.Option(
        False, "--trust", help="Let it have what the archive says of this host: directories, devices, links."
    ),
    start: bool = words.Option(False, "--start", help="Start it now."),
    wait: str = words.Option(None, "--wait", metavar="ip", help="With --start: wait until it has an address."),
) -> None:
    """Make a machine of an archive, declared as it was where that was written."""
    options = context.obj
    if identity not in {"new", "keep"}:
        raise InvalidValue(f"{identity!r} is no identity", hint="use --identity new or keep")
    if form not in {None, *transfer.FORMATS}:
        raise InvalidValue(f"{form!r} is no format of an archive", hint="use --format tar or oci")
    host, progress = RealHost(), Progress(options)
    try:
        machine, plan, left_out, withheld = run(
            transfer.bring(
                os.path.abspath(os.path.expanduser(file)), name, host, progress,
                forget=identity == "new", form=form, trust=trust, dry_run=options.dry_run,
            ),
            timeout=options.timeout,
            what=f"import {file}",
            afterwards=TAKEN_BACK,
        )  # fmt: skip
    finally:
        progress.clear()
    if options.dry_run:
        show_plan({machine.name: plan}, options)
        return
    if not options.quiet:
        note(f"imported {machine.name} from {file}" + ("" if start else f"; start it: machctl start {machine.name}"))
        if left_out:
            note(f"  without {', '.join(left_out)}")
        if withheld:
            note(f"  without {', '.join(withheld)}; --trust takes {'it' if len(withheld) == 1 else 'them'} over")
        for other in transfer.same_identity(machine.name, host) if identity == "keep" else ():
            note(f"  it has the machine ID of {other}; with --identity new it would have its own")
    if start or wait:
        from machines.cli.verbs.life import start_all

        raise words.Exit(start_all([machine.name], wait=wait, options=options))
