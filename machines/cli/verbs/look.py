# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl list, status, show, cat"""

from __future__ import annotations

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.output import say, show_object, show_rows
from machines.cli.wire import RealHost
from machines.operations.inspect import expand, list_machines, require

WIDE = ("name", "state", "class", "os", "addresses", "ports", "source", "storage", "base", "disk", "snapshots")
COLUMNS = ("name", "state", "class", "os", "addresses", "ports")


def list_(
    context: words.Context,
    names: list[str] = names_argument("Only these machines, or patterns such as 'web*'.", optional=True),
) -> None:
    """List machines: those that run, those that have a tree and those that are declared."""
    host = RealHost()
    found = list_machines(host, _chosen(names or [], host))
    rows = [machine.row() for machine in found]
    columns: tuple[str, ...] = COLUMNS
    if context.obj.output == "wide":
        from machines.cli.verbs.image import size
        from machines.operations.records import read_records
        from machines.operations.status import disk_of

        columns, records = WIDE, read_records(host)
        for row, machine in zip(rows, found, strict=True):
            row |= disk_of(machine, records.get(machine.name), host)
            row["disk"] = size(int(str(row["disk"]))) if row["disk"] is not None else None
    if any(machine.health for machine in found):
        columns = (*columns, "health")
    show_rows(rows, columns, context.obj, empty="no machines; make one: machctl create debian")


def status(
    context: words.Context,
    names: list[str] = names_argument("The machines; all that run if left out.", optional=True),
) -> None:
    """Show how machines are doing. The exit status is 3 if one of them does not run."""
    from machines.cli.status import show_status
    from machines.operations.status import describe

    host = RealHost()
    chosen = _chosen(names, host) if names else sorted(host.running())
    found = [describe(machine, host) for machine in list_machines(host, chosen)] if chosen else []
    show_status(found, context.obj)
    if any(machine["state"] != "running" for machine in found):
        raise words.Exit(3)


def show(
    context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")
) -> None:
    """Show all that is known of machines, one object each."""
    from machines.operations.status import describe

    host = RealHost()
    found = [describe(machine, host) for machine in list_machines(host, _chosen(names, host))]
    if len(found) == 1:
        show_object(found[0], context.obj)
    else:
        show_rows(found, COLUMNS, context.obj)


def cat(context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")) -> None:
    """Show the files that were rendered for machines, and their declarations."""
    from machines.operations.status import files_of

    host = RealHost()
    chosen = _chosen(names, host)
    files = {path: text for name in chosen for path, text in files_of(name, host).items()}
    if context.obj.output == "json":
        show_object(files, context.obj)
        return
    say("\n".join(f"# {path}\n{text}" for path, text in files.items()).rstrip("\n"))


def _chosen(patterns: list[str], host: RealHost) -> list[str]:
    chosen = expand(patterns, host)
    require(chosen, host)
    return chosen
