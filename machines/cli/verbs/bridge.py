# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl bridge up|down: for units/machctl-bridge@.service, not for people."""

from __future__ import annotations

from machines.cli import words
from machines.cli.output import note
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.model.names import check_link_name
from machines.operations.bridge import bridge_down, bridge_up


def bridge(
    context: words.Context,
    action: str = words.Argument(..., metavar="up|down"),
    name: str = words.Argument(..., metavar="BRIDGE"),
) -> None:
    """See to it that a bridge is there, or take away one that was made so."""
    if action not in {"up", "down"}:
        raise InvalidValue(f"bridge takes up or down, not {action!r}")
    if action == "down":
        bridge_down(check_link_name(name), RealHost())
    elif warning := bridge_up(check_link_name(name), RealHost()):
        note(warning)  # for the journal
