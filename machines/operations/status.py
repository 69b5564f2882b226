# SPDX-License-Identifier: LGPL-2.1-or-later
"""One machine in full, and the files that make it one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.declare.write import declared_values
from machines.errors import NotFound
from machines.model.observed import Record
from machines.operations.declared import readable_machines
from machines.operations.inspect import MachineStatus
from machines.operations.observe import observe
from machines.operations.records import read_records
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def describe(machine: MachineStatus, host: Host) -> dict[str, object]:
    """Give all that is known of a machine: how it is, what it uses, what is declared."""
    found = machine.row()
    found["autostart"] = host.facts.enabled_machines().get(machine.name, False)
    usage = host.units.usage(machine.unit) if host.booted() else {}
    found["since"] = usage.get("since")
    found["memory"] = usage.get("memory")
    found["memory_max"] = usage.get("memory_max")
    found["cpu_seconds"] = usage.get("cpu_seconds")
    found["tasks"] = usage.get("tasks")
    found["result"] = usage.get("result")
    found["restarts"] = usage.get("restarts")
    found |= disk_of(machine, read_records(host).get(machine.name), host)
    declared = readable_machines(host).get(machine.name)
    group = {"group": declared.group} if declared and declared.group else {}
    found["declaration"] = {"file": declared.origin, **group, **declared_values(declared)} if declared else None
    return found


def disk_of(machine: MachineStatus, record: Record | None, host: Host) -> dict[str, object]:
    """Give how a machine's tree is kept: storage, base, disk and disk_max (bytes), snapshots; disk is its alone."""
    storage = record.storage if record else ""
    usage = None
    # Only root may look into the pool.
    if machine.tree and os.access(machine.tree, os.R_OK | os.X_OK):
        usage = host.storage.usage_of(f"{paths.layer(machine.name)}/upper" if storage == "overlay" else machine.tree)
    return {
        "storage": storage or None,
        "base": record.base or None if record else None,
        "disk": usage,
        "disk_max": record.disk if record else None,
        "snapshots": list(host.storage.snapshots_of(machine.name)),
    }


def files_of(name: str, host: Host) -> dict[str, str]:
    """Give the text of every file on the host that belongs to a machine, by path.

    Raises NotFound for a machine that has none.
    """
    declared = readable_machines(host).get(name)
    found = {
        path: text
        for path, text in observe(host).files.items()
        if paths.owner(path, text) == ("machine", name) or path == paths.settings_file(name)
    }
    if declared:
        found = {declared.origin: host.files.read_text(declared.origin) or "", **found}
    if not found:
        raise NotFound(
            f"machine {name} has no files of its own on this host: systemd-nspawn's defaults hold",
            hint=f"systemctl cat systemd-nspawn@{name}.service",
        )
    return found
