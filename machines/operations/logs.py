# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a machine's journal is."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from machines.errors import InvalidFile, NotFound, NotPermitted
from machines.model.names import machine_unit
from machines.operations.inspect import require
from machines.operations.records import read_records

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def without_init(host: Host) -> frozenset[str]:
    """Name the machines that run a command in place of an init: what it prints is in the journal of the host."""
    try:
        return frozenset(name for name, record in read_records(host).items() if record.payload)
    except InvalidFile:
        # It is logs that tell more where things are broken; doctor and others name the file.
        return frozenset()


def journal_command(name: str, host: Host, arguments: Sequence[str], *, alone: Collection[str] = ()) -> list[str]:
    """Give the journalctl command that reads the journal of machine ``name``; ``alone`` are those without an init.

    Raises NotFound where there is no such machine, or no journal as it never ran, NotPermitted without root.
    """
    require([name], host)
    # Neither does journalctl(1) take --machine= from others, nor may they look at trees.
    if os.geteuid() != 0:
        raise NotPermitted(f"the journal of machine {name} needs root", hint="run it again with sudo")
    if name in alone:
        if any(word.startswith("--unit=") for word in arguments):
            raise NotFound(f"machine {name} has no units, as it runs no systemd", hint=f"machctl logs {name}")
        # Not by --unit=, which has what systemd says of the unit as well.
        return ["journalctl", f"_SYSTEMD_UNIT={machine_unit(name)}", *arguments]
    if name in host.running():
        return ["journalctl", f"--machine={name}", *arguments]
    tree = host.pool.trees().get(name)
    if tree is None or tree.kind == "raw":
        raise NotFound(f"machine {name} does not run, and its tree cannot be read", hint=f"machctl start {name}")
    try:
        # Opened with the tree as "/", so that a symlink in it leads nowhere else; it stays open for journalctl.
        fd = host.guests.open_in_root(tree.path, "/var/log/journal", flags=os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise NotFound(f"machine {name} has no journal yet", hint=f"machctl start {name}") from None
    os.set_inheritable(fd, True)  # noqa: FBT003
    # journalctl may be what we become or a child of ours.
    return ["journalctl", f"--directory=/proc/{os.getpid()}/fd/{fd}", *arguments]
