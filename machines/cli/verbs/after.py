# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl after: for the drop-in of a machine that waits for more than that others are ready, not for people."""

from __future__ import annotations

import time

from machines.cli import words
from machines.cli.output import note
from machines.cli.running import interruptible
from machines.cli.wire import RealHost
from machines.declare.after import parse_after
from machines.errors import MachctlError, NotRunning

# A little less than the unit is given to start: whoever reads its log finds what was waited for.
SECONDS = 280.0


def after(
    context: words.Context,
    what: list[str] = words.Argument(..., metavar="MACHINE/UNIT|MACHINE:healthy...", help="What is waited for."),
) -> None:
    """Wait until units in other machines are active, or machines healthy."""
    end = time.monotonic() + (context.obj.timeout or SECONDS)
    host = RealHost()
    try:
        _wait(host, what, end)
    except MachctlError as error:
        # Whoever started the machine is told the last line of this.
        note(f"machctl: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        raise words.Exit(error.exit_code) from None


def _wait(host: RealHost, what: list[str], end: float) -> None:
    with interruptible("waiting"):
        for each in map(parse_after, what):
            entry = host.registered().get(each.machine)
            if entry is None:
                raise NotRunning(f"machine {each.machine} is not running", hint=f"machctl start {each.machine}")
            left = max(end - time.monotonic(), 0.0)
            if each.unit:
                from machines.host.bus.inner import wait_unit

                wait_unit(each.machine, each.unit, leader=entry.leader, timeout=left)
            elif each.healthy:
                from machines.operations.waiting import wait_until

                wait_until(each.machine, "healthy", host, timeout=left, give_up=True)
