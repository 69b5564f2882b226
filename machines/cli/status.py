# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine in full, for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from machines.cli.options import Options
from machines.cli.output import colored, say, show_object, show_rows

_LIMITS = ("memory-high", "swap", "cpus", "cpu-weight", "io-weight", "tasks")
_SETTINGS = (
    "nesting", "read-only", "volatile", "tmpfs", "binds", "devices", "capabilities", "drop-capabilities",
    "system-call-filter",
)  # fmt: skip


def show_status(machines: Sequence[Mapping[str, object]], options: Options) -> None:
    """Print a block of lines for each machine, or the format that was asked for."""
    if options.output == "json" and len(machines) == 1:
        show_object(machines[0], options)
    elif options.output != "table":
        show_rows(machines, ("name", "state"), options)
    else:
        say("\n\n".join(_block(machine, options) for machine in machines) or "no machine runs; machctl list shows all")


def _block(machine: Mapping[str, object], options: Options) -> str:
    state = str(machine["state"])
    lines = [f"{colored('●', options, key=state)} {machine['name']}"]
    declaration = machine["declaration"]
    values = {
        "State": colored(state, options) + _since(machine.get("since")),
        "Health": colored(str(machine["health"]), options) if machine.get("health") else "",
        "OS": machine["os"],
        "Addresses": ", ".join(_list(machine["addresses"])),
        "Ports": ", ".join(_list(machine["ports"])),
        "Memory": _memory(machine.get("memory"), machine.get("memory_max")),
        "CPU": f"{machine['cpu_seconds']:.1f} s" if machine.get("cpu_seconds") else "",
        "Tasks": machine.get("tasks"),
        "Limits": _said(declaration, _LIMITS),
        "Restart": _said(declaration, ("restart", "restart-delay")).removeprefix("restart ")
        + _restarts(machine.get("restarts")),
        "Settings": _said(declaration, _SETTINGS),
        "Leader": machine["leader"],
        "Unit": machine["unit"],
        "Tree": machine["tree"],
        "Storage": _storage(machine),
        "Disk": _memory(machine.get("disk"), machine.get("disk_max")),
        "Snapshots": ", ".join(_list(machine.get("snapshots"))),
        "At boot": "started" if machine["autostart"] else "not started",
        "Declared": declaration["file"] if isinstance(declaration, dict) else "no",
    }
    lines += [f"  {key + ':':<11}{value}" for key, value in values.items() if value not in {None, "", 0}]
    return "\n".join(lines)


def _said(declaration: object, keys: Sequence[str]) -> str:
    """Give what a declaration says of some keys, in one line."""
    values = declaration if isinstance(declaration, dict) else {}
    return ", ".join(f"{key} {_word(values[key])}".rstrip() for key in keys if key in values)


def _word(value: object) -> str:
    return " ".join(_list(value)) if isinstance(value, list) else "" if value is True else str(value)


def _restarts(count: object) -> str:
    return f" (restarted {count} time{'' if count == 1 else 's'})" if count else ""


def _storage(machine: Mapping[str, object]) -> str:
    base = machine.get("base")
    return f"{machine.get('storage') or ''}" + (f", of base {base}" if base else "")


def _list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def _since(value: object) -> str:
    if not isinstance(value, str):
        return ""
    then = datetime.datetime.fromisoformat(value)
    seconds = int((datetime.datetime.now(datetime.UTC) - then).total_seconds())
    units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    size, unit = next((pair for pair in units if seconds >= pair[0]), units[-1])
    count = max(seconds // size, 0)
    return f" for {count} {unit}{'' if count == 1 else 's'} (since {then.astimezone():%Y-%m-%d %H:%M:%S})"


def _memory(used: object, limit: object) -> str:
    if not isinstance(used, int):
        return ""
    return f"{used / 2**20:.0f} MB" + (f" of {limit / 2**20:.0f} MB" if isinstance(limit, int) else "")
