# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a machine's journal is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from machines.errors import NotFound, NotPermitted
from machines.operations.inspect import require

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def journal_command(name: str, host: Host, arguments: Sequence[str]) -> list[str]:
    """Give the journalctl command that reads the journal of machine ``name``.

    Raises NotFound where there is no such machine, or no journal as it never ran, NotPermitted without root.
    """
    require([name], host)
    # Neither does journalctl(1) take --machine= from others, nor may they look at trees.
    if os.geteuid() != 0:
        raise NotPermitted(f"the journal of machine {name} needs root", hint="run it again with sudo")
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
