# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl publish, unpublish, port"""

from __future__ import annotations

from collections.abc import Callable

from machines.cli import words
from machines.cli.editing import edit_machine, note_restart
from machines.cli.names import complete, one
from machines.cli.names import name as name_argument
from machines.cli.output import show_rows
from machines.cli.wire import RealHost
from machines.declare import values
from machines.errors import InvalidValue, MachctlError, raise_all
from machines.model.machine import Machine
from machines.operations.ports import list_ports, published, unpublished

COLUMNS = ("name", "address", "port", "to", "state", "kernel", "proxy", "not")
FORM = "[IP:]HOST[-HOST][:GUEST[-GUEST]][/tcp|udp]"


def publish(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    ports: list[str] = words.Argument(None, metavar="PORT...", help=f"{FORM}, as in 8080:80, 53/udp, 127.0.0.1:80:80."),
    on_demand: bool = words.Option(False, "--on-demand", help="Start it at the first connection to a TCP port."),
    idle_stop: str = words.Option(
        None, "--idle-stop", metavar="TIME", help="Stop it that long after the last one, as in 10m."
    ),
) -> None:
    """Let ports of a machine answer on the host, at once and for good."""
    errors: list[MachctlError] = []
    wanted = []
    for text in ports or ():
        try:
            wanted.append(values.parse_publish(text))
        except MachctlError as error:
            errors.append(error)
    raise_all(errors)
    if not (ports or on_demand or idle_stop):
        raise InvalidValue("publish needs a port", hint=f"machctl publish {name} 8080:80")
    name = one(name)
    seconds = values.parse_duration(idle_stop) if idle_stop else None
    edit = published(wanted, on_demand=on_demand, idle_stop=seconds)
    done = f"published {' '.join(map(str, wanted))} of {name}" if wanted else f"{name} starts on demand"
    _change(context, name, edit, verb="publish", done=done)


def unpublish(
    context: words.Context,
    name: str = name_argument("The machine, running or not."),
    ports: list[str] = words.Argument(..., metavar="PORT...", help="As they were published, or the host's port alone."),
) -> None:
    """Let ports of a machine answer no more; connections that are open through the kernel stay."""
    name = one(name)
    _change(context, name, unpublished(ports), verb="unpublish", done=f"unpublished {' '.join(ports)} of {name}")


def port(
    context: words.Context,
    name: str = words.Argument(
        None, metavar="[NAME]", help="Of this machine; of all if left out.", autocompletion=complete
    ),
) -> None:
    """List who answers where: each published port, what passes it on, and from where it is not reached."""
    rows = list_ports(RealHost(), name)
    for row in rows if context.obj.output in {"table", "wide"} else ():
        first, count = int(str(row["guest"])), int(str(row["count"]))
        row["to"] = str(first) if count == 1 else f"{first}-{first + count - 1}"
        row["not"] = "; ".join(row["not"]) if isinstance(row["not"], list) else row["not"]
    empty = "no ports are published; publish one: machctl publish NAME 8080:80"
    show_rows(rows, COLUMNS, context.obj, empty=empty)


def _change(context: words.Context, name: str, edit: Callable[[Machine], Machine], *, verb: str, done: str) -> None:
    plan = edit_machine(name, edit, context.obj, verb=verb, done=done, nothing=f"{name} has it so already")
    note_restart(name, plan, context.obj)
