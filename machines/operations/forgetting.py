# SPDX-License-Identifier: LGPL-2.1-or-later
"""What running machines write nowhere, by their settings: a copy of their tree does not have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.render.paths import settings_file, started

if TYPE_CHECKING:
    from machines.host.interfaces import Host

_CHANGED = "what it changed since it was started"
# systemd-nspawn(1), --volatile=: with "state" only /var is in memory.
_FORGOTTEN = {
    "Ephemeral=yes": _CHANGED,
    "Volatile=yes": _CHANGED,
    "Volatile=overlay": _CHANGED,
    "Volatile=state": "what it changed in /var since it was started",
}


def not_kept(name: str, host: Host) -> str:
    """Say what of a machine that runs is not in its tree; "" where all is, or it does not run.

    Its settings may have changed since: what counts is what it was started with.
    """
    if name not in host.running():
        return ""
    path = settings_file(name)
    text = host.files.read_text(started(name, path))
    if text is None:
        text = host.files.read_text(path) or ""
    return next((words for line, words in _FORGOTTEN.items() if line in text.splitlines()), "")


def as_it_was(name: str, host: Host) -> str:
    """Say how a copy of a machine compares to the machine now, as it follows the name; "" where that does not run."""
    if missing := not_kept(name, host):
        return f", without {missing}"
    return ", as it was while running" if name in host.running() else ""
