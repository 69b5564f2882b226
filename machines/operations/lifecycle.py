# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting and stopping one machine, waited for by events; the caller owns the time limit."""

from __future__ import annotations

from machines.errors import CommandFailed, NotFound, NotRunning
from machines.host.interfaces import Host
from machines.model.names import machine_unit


async def start_machine(name: str, host: Host) -> None:
    """Start a machine; this returns when it says it is ready (systemd.nspawn(5), NotifyReady=).

    Raises NotFound without a tree, CommandFailed with what nspawn said last.
    """
    if name not in host.pool.trees():
        raise NotFound(
            f"machine {name} has no tree in /var/lib/machines",
            hint=f"if it is declared, machctl apply {name} makes it anew; machctl rm {name} forgets it",
        )
    unit = machine_unit(name)
    try:
        await host.jobs.start(unit)
    except CommandFailed as error:
        raise CommandFailed(
            f"machine {name} did not start: {_last_words(unit, host) or error.message}",
            hint=f"all it said: journalctl -u {unit}",
        ) from error


async def stop_machine(name: str, host: Host, *, terminate: bool) -> None:
    """Power a machine off in order and wait until it is gone; ``terminate`` kills it instead.

    Raises NotRunning.
    """
    unit = host.running().get(name)
    if unit is None:
        raise NotRunning(f"machine {name} is not running", hint="machctl list shows what is")
    if terminate:
        await host.machines.kill(name)
    else:
        await host.machines.power_off(name)
    if unit == machine_unit(name):
        # The machine is gone before its unit is: only after that can it be started or removed.
        await host.jobs.stop(unit)
        host.units.reset_failed(unit)


def _last_words(unit: str, host: Host) -> str:
    done = host.tools.run(
        ["journalctl", "--unit", unit, "--lines=20", "--output=cat", "--no-pager", "--identifier=systemd-nspawn"],
        check=False,
    )
    return next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
