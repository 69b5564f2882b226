# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl bridge up|down: for units/machctl-bridge@.service, not for people."""

from __future__ import annotations

import typer

from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.model.names import check_link_name
from machines.operations.bridge import bridge_down, bridge_up


def bridge(
    action: str = typer.Argument(..., metavar="up|down"), name: str = typer.Argument(..., metavar="BRIDGE")
) -> None:
    """See to it that a bridge is there, or take away one that was made so."""
    actions = {"up": bridge_up, "down": bridge_down}
    if action not in actions:
        raise InvalidValue(f"bridge takes up or down, not {action!r}")
    actions[action](check_link_name(name), RealHost())
