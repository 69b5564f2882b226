# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a machine that nothing can be written to is shown its environment: nspawn cannot make that place there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.render.paths import GUEST_MANAGER_FILE, settings_file

if TYPE_CHECKING:
    from machines.host.interfaces import Host

PLACE = "# machctl shows a machine its environment here.\n"


def needs_place(name: str, path: str, text: str) -> bool:
    """Tell whether a file that is written is the settings of a machine that is shown something in such a tree."""
    lines = text.splitlines()
    fixed = any(line == "ReadOnly=yes" or line.startswith("Volatile=") for line in lines)
    return fixed and path == settings_file(name) and any(line.endswith(f":{GUEST_MANAGER_FILE}") for line in lines)


def make_place(name: str, host: Host) -> None:
    """Make the place in a tree that lacks it: one from before, or that came as it is. Raises MachctlError."""
    tree = host.pool.trees().get(name)
    if tree is None or tree.kind in {"raw", "lost"}:
        return
    if tree.kind == "overlay":
        host.storage.mount(name)
    if not host.guests.exists(tree.path, GUEST_MANAGER_FILE):
        host.guests.write_file(tree.path, GUEST_MANAGER_FILE, PLACE)
