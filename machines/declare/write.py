# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine back to the text of its declaration file; comments and order of a file that people edited are kept."""

from __future__ import annotations

import json

from machines.declare.links import link_values
from machines.declare.values import format_cpus, format_duration, format_memory
from machines.model.machine import Machine

_KEYS = (
    "source", "checksum", "insecure", "mirror", "keyring", "variant", "bootstrapper", "packages", "storage", "disk",
    "ephemeral", "hostname", "network", "bridges", "links", "isolated", "egress", "publish", "on-demand", "idle-stop",
    "binds", "memory", "cpus", "ssh-keys", "autostart",
)  # fmt: skip

# What a key of TOML may be made of without quotation marks.
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def declared_values(machine: Machine) -> dict[str, object]:
    """Give what a declaration has to say of ``machine``; what is left at its default is left out."""
    found: dict[str, object] = {"source": str(machine.source)}
    if machine.checksum:
        found["checksum"] = machine.checksum
    if machine.insecure:
        found["insecure"] = True
    if machine.mirror:
        found["mirror"] = machine.mirror
    if machine.keyring:
        found["keyring"] = machine.keyring
    if machine.variant != "minbase":
        found["variant"] = machine.variant
    if machine.bootstrapper != "auto":
        found["bootstrapper"] = machine.bootstrapper
    if machine.packages:
        found["packages"] = list(machine.packages)
    if machine.storage != "auto":
        found["storage"] = machine.storage
    if machine.disk is not None:
        found["disk"] = format_memory(machine.disk)
    if machine.ephemeral:
        found["ephemeral"] = True
    if machine.hostname:
        found["hostname"] = machine.hostname
    found |= link_values(machine)
    if machine.isolated:
        found["isolated"] = True
    if machine.egress is not None:
        found["egress"] = [str(ports) for ports in machine.egress]
    if machine.on_demand:
        found["on-demand"] = True
    if machine.idle_stop is not None:
        found["idle-stop"] = format_duration(machine.idle_stop)
    if machine.publish:
        found["publish"] = [str(port) for port in machine.publish]
    if machine.binds:
        found["binds"] = [str(bind) for bind in machine.binds]
    if machine.memory is not None:
        found["memory"] = format_memory(machine.memory)
    if machine.cpus is not None:
        cpus = format_cpus(machine.cpus)
        found["cpus"] = int(cpus) if cpus.isdigit() else float(cpus)
    if machine.ssh_keys:
        found["ssh-keys"] = list(machine.ssh_keys)
    if machine.autostart:
        found["autostart"] = True
    return found


def write_machine(machine: Machine, text: str = "", *, before: Machine | None = None) -> str:
    """Give the declaration file ``text`` with ``machine`` in it as it is now; without ``text``, a new file.

    With what the machine was ``before``, only what has changed since is written.
    """
    if not text:
        return _new_file(machine)
    if before is not None and text == _new_file(before):
        return _new_file(machine)
    import tomlkit

    document = tomlkit.parse(text)
    machines = document.setdefault("machines", tomlkit.table(True))  # noqa: FBT003 (is_super_table has no other form)
    table = machines.setdefault(machine.name, tomlkit.table())
    wanted = declared_values(machine)
    was = declared_values(before) if before else None
    for key in _KEYS:
        if was is not None and was.get(key) == wanted.get(key):
            continue
        if key not in wanted:
            table.pop(key, None)
        elif key not in table or table[key] != wanted[key]:
            table[key] = wanted[key]
    return tomlkit.dumps(document)


def _new_file(machine: Machine) -> str:
    """Give a file that declares one machine. There is nothing to keep in it, so nobody has to load tomlkit for it."""
    wanted = declared_values(machine)
    return (
        "# Written by machctl create. Edit it as you like, then run: machctl apply\n\n"
        f"[machines.{machine.name if _BARE.issuperset(machine.name) else _toml(machine.name)}]\n"
        + "".join(f"{key} = {_toml(wanted[key])}\n" for key in _KEYS if key in wanted)
    )


def _toml(value: object) -> str:
    """Give strings, numbers, booleans and lists of them as TOML: as in JSON, but for DEL (toml.io, 1.0.0)."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
