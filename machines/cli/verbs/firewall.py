# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl firewall up: for units/machctl-firewall.service, not for people."""

from __future__ import annotations

from machines.cli import words
from machines.cli.wire import RealHost
from machines.errors import InvalidValue
from machines.operations.firewall import allow


def firewall(context: words.Context, action: str = words.Argument(..., metavar="up")) -> None:
    """Let packets of machines pass Docker and firewalld."""
    if action != "up":
        raise InvalidValue(f"firewall takes up, not {action!r}")
    allow(RealHost())
