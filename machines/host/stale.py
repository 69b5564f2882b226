# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a running machine still runs code that was replaced on disk, by its units. Nothing in the guest is asked."""

from __future__ import annotations

import os
import re

from machines.host.meters.cgroup import group_of

# Where packages have programs and libraries; a deleted file elsewhere (of memfd_create(2), say) says nothing.
_PACKAGED = ("/usr/", "/lib", "/bin/", "/sbin/", "/opt/")
_DELETED = " (deleted)"
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.(?:service|scope)")


def stale_units(leader: int, unit: str) -> dict[str, tuple[str, ...]]:
    """Give the units of a machine, by name, with processes that run what was deleted from under them; and the files.

    ``leader`` is its first process and ``unit`` its unit on the host. Names are the guest's own words.
    See proc_pid_maps(5), cgroups(7).
    """
    group = group_of(leader, unit)
    found: dict[str, set[str]] = {}
    for directory, _, files in os.walk(group) if group else ():
        name = _unit_of(directory[len(group or "") :])
        if not name or "cgroup.procs" not in files:
            continue
        for pid in _pids(f"{directory}/cgroup.procs"):
            if deleted := _deleted(pid):
                found.setdefault(name, set()).update(deleted)
    return {name: tuple(sorted(paths)) for name, paths in sorted(found.items())}


def _unit_of(group: str) -> str:
    """Give the unit of the machine's systemd that a control group below the machine's is of, "" for none."""
    return next((part for part in group.split("/") if _UNIT.fullmatch(part)), "")


def _pids(path: str) -> list[int]:
    try:
        with open(path, encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        # It has gone, or it is of threads (cgroup.type).
        return []


def _deleted(pid: int) -> set[str]:
    found = set()
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.rstrip("\n").split(None, 5)
                if len(fields) == 6 and "x" in fields[1] and fields[5].endswith(_DELETED):
                    path = fields[5].removesuffix(_DELETED)
                    if path.startswith(_PACKAGED):
                        found.add(path)
    except OSError:
        return set()
    return found
