# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of an update of a machine's packages, done."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from machines.errors import CommandFailed, MachctlError, NotRunning, TimedOut
from machines.model.health import Health, Outcome
from machines.model.update import write_update
from machines.operations.lifecycle import STOP_SECONDS, stop_in_time, stop_machine
from machines.operations.packages import CHANGE_SECONDS, run_script, upgrade
from machines.operations.reporter import Reporter
from machines.operations.tree import held_still
from machines.operations.waiting import watched
from machines.plan import updatesteps
from machines.plan.step import UpdateStep
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# What falls over when it has started does so within this time.
_STEADY_SECONDS = 2.0
_PAUSE_SECONDS = 1.0
_LINES = 4


async def do_update_step(step: UpdateStep, host: Host, reporter: Reporter) -> None:
    """Do a step of an update. Raises MachctlError."""
    name = step.machine

    def progress(stage: str, done: int, total: int | None) -> None:
        reporter.progress(name, stage, done, total)

    match step:
        case updatesteps.NoteUpdate():
            host.files.write_file(paths.update_record(name), write_update(step.update))
        case updatesteps.ForgetUpdate():
            host.files.remove_file(paths.update_record(name))
        case updatesteps.SaveAll():
            log = paths.bootstrap_log(name)
            with held_still(step.held, host):
                await host.storage.take_snapshot(step.snapshot, step.origin, log=log, progress=progress)
                for volume in step.volumes:
                    await host.upkeep.save_volume(volume, log=log, progress=progress)
        case updatesteps.UpgradePackages():
            for path in await upgrade(name, host, lambda done: progress("upgrading", done, None)):
                reporter.warn(f"{name}: to be merged by hand with what was changed there: {path}")
        case updatesteps.RestartServices():
            await restart_services(name, step.units, host)
        case updatesteps.ProveWell():
            progress("looking whether it does its work", 0, None)
            await prove_well(step, host)
        case updatesteps.RestoreVolume():
            await host.upkeep.restore_volume(step.volume, log=paths.bootstrap_log(name), progress=progress)
        case updatesteps.DropVolume():
            host.upkeep.drop_volume(step.volume)
        case updatesteps.EndMachine():
            await _end(name, host)
        case _:
            raise NotImplementedError(type(step).__name__)


async def _end(name: str, host: Host) -> None:
    try:
        await stop_in_time(name, host, terminate=False, timeout=STOP_SECONDS)
    except TimedOut:
        await stop_machine(name, host, terminate=True)
    except NotRunning:
        return


async def restart_services(name: str, units: tuple[str, ...], host: Host) -> None:
    """Restart services in a machine. Raises CommandFailed with what the first that fails said last."""
    # Names are words of the guest, and systemd's own (stale_units): none has a quote in it.
    words = " ".join(f"'{unit}'" for unit in units)
    script = f"systemctl daemon-reload && systemctl try-restart -- {words}"
    try:
        await run_script(name, script, host, what=f"restart {', '.join(units)}", limit=CHANGE_SECONDS)
    except CommandFailed as error:
        failed = sorted(await bad_units(name, host) & set(units))
        if failed:
            raise await _unit_failed(name, failed[0], host) from error
        raise


async def bad_units(name: str, host: Host) -> frozenset[str]:
    """Give the units of a machine that have failed, or that its systemd starts again and again."""
    lines = await run_script(
        name, "systemctl list-units --all --plain --no-legend --full --no-pager", host, what="list its units"
    )
    fields = [line.split(None, 4) for line in lines]
    return frozenset(
        each[0] for each in fields if len(each) >= 4 and (each[2] == "failed" or "auto-restart" in each[3])
    )


async def _unit_failed(name: str, unit: str, host: Host) -> MachctlError:
    try:
        script = f"journalctl --no-pager --output=cat --lines={_LINES} --unit='{unit}' 2>/dev/null"
        lines = (await run_script(name, script, host, what="read its journal"))[-_LINES:]
    except MachctlError:
        lines = []
    return CommandFailed(
        f"{unit} of machine {name} has failed", hint="\n".join(lines) or f"machctl logs {name} -u {unit}"
    )


async def prove_well(step: updatesteps.ProveWell, host: Host) -> None:
    """See whether a machine does its work, and still does a moment later. Raises CommandFailed with why it does not."""
    name = step.machine
    for again in (False, True):
        if again:
            await _while_it_runs(name, host, _STEADY_SECONDS)
        units = sorted(await bad_units(name, host) - set(step.failed))
        if units and "'" not in units[0]:
            raise await _unit_failed(name, units[0], host)
        if step.health is not None:
            limit = step.limit if not again else step.health.retries * _PAUSE_SECONDS
            await probe_well(step, step.health, host, limit=limit)
    if step.command:
        await run_script(name, step.command, host, what=f"pass --probe {step.command!r}", limit=CHANGE_SECONDS)


async def _while_it_runs(name: str, host: Host, seconds: float) -> None:
    """Let a machine go on for so long, or until it ends."""
    import asyncio

    async with watched(name, host) as event:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while name in host.registered():
                    await event()


async def probe_well(step: updatesteps.ProveWell, health: Health, host: Host, *, limit: float | None = None) -> None:
    """Probe a machine until that finds it healthy. Raises CommandFailed where it does not within its ``limit``."""
    import asyncio

    name, end = step.machine, time.monotonic() + (step.limit if limit is None else limit)
    prober = host.prober()
    try:
        while True:
            entry = host.registered().get(name)
            if entry is None:
                raise NotRunning(f"machine {name} does not run any more", hint=f"machctl logs {name}")
            prober.begin(name, health, entry.leader, payload=step.payload)
            found: list[tuple[str, Outcome]] = []
            while not found:
                found = await asyncio.to_thread(prober.wait, health.timeout)
            outcome = found[0][1]
            if outcome.ok:
                return
            if time.monotonic() >= end:
                why = outcome.said or "its probe failed"
                lines = await _last_words(name, health, host)
                raise CommandFailed(f"machine {name} is not healthy ({health}): {why}", hint=lines)
            await _while_it_runs(name, host, min(_PAUSE_SECONDS, max(end - time.monotonic(), 0)))
    finally:
        prober.close()


async def _last_words(name: str, health: Health, host: Host) -> str:
    """Give what a machine says of why it is not healthy: of the unit that is probed, else its last warnings."""
    unit = (
        f"--unit='{health.target[0]}'"
        if health.kind == "unit" and "'" not in health.target[0]
        else "--priority=warning"
    )
    try:
        script = f"journalctl --no-pager --output=short-iso --lines={_LINES} {unit} 2>/dev/null"
        lines = await run_script(name, script, host, what="read its journal")
    except MachctlError:
        lines = []
    return "\n".join(lines[-_LINES:]) or f"machctl health {name}"
