# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting and stopping one machine, waited for by events; the caller owns the time limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from machines.errors import (
    Canceled,
    CommandFailed,
    Conflict,
    MachctlError,
    NotFound,
    NotRunning,
    StartedTooOften,
    TimedOut,
)  # fmt: skip
from machines.model.names import machine_lock, machine_unit
from machines.render.paths import layer, mount_units, tree

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Twice what systemd's limit on looking at mounts makes it wait.
SETTLE_SECONDS = 2.0

# A machine's own systemd gives each unit 90 (systemd-system.conf(5), DefaultTimeoutStopSec=), and goes on without it.
STOP_SECONDS = 100.0

# What machctl itself says that waits for others before a machine starts.
_OURS = "machctl: "


def dispatch_start(name: str, host: Host) -> str:
    """Tell systemd to start a machine and give the job.

    What then waits for it takes longer to import than this whole call; the machine boots meanwhile.
    Raises NotFound without a tree.
    """
    _check_tree(name, host)
    return host.units.start(machine_unit(name))


async def dispatch_together(name: str, host: Host) -> str:
    """Do as dispatch_start() does, for one of several machines that are started at once.

    systemd takes all of their jobs before it begins with any, so that what all of them want, modprobe@.service above
    all, is started once and not again for each. The caller owns the time limit.
    """
    _check_tree(name, host)
    return await host.jobs.dispatch(machine_unit(name))


def _check_tree(name: str, host: Host) -> None:
    found = host.pool.trees().get(name)
    if found is None:
        if gone := _gone(name, host, declared=True):
            raise gone
        raise NotFound(
            f"machine {name} has no tree in /var/lib/machines",
            hint=f"if it is declared, machctl apply {name} makes it anew; machctl rm {name} forgets it",
        )
    if found.kind == "overlay" and name not in host.running():
        host.storage.check_layer(name)
        _settle_mounts(name, host)


def _settle_mounts(name: str, host: Host) -> None:
    """Let systemd see the mounts of a tree as they are.

    It looks a few times a second at most. What it has not seen come it would mount a second time, and what it has not
    seen go it would take for being there.
    """
    points = (f"{layer(name)}/lower", tree(name))
    mounted = {unit: host.pool.is_mounted(point) for unit, point in zip(mount_units(name), points, strict=True)}
    if not host.units.wait_active(mounted, timeout=SETTLE_SECONDS):
        host.storage.unmount(name)


async def finish_start(name: str, job: str, host: Host) -> None:
    """Wait until a machine says it is ready (systemd.nspawn(5), NotifyReady=).

    Raises CommandFailed with what nspawn said last; the caller owns the time limit.
    """
    await _started(name, host, lambda: host.jobs.wait_started(machine_unit(name), job))


def wait_started(name: str, job: str, host: Host, *, timeout: float) -> None:
    """Do as finish_start() does, within ``timeout`` seconds, for one machine and without asyncio. Raises TimedOut."""
    unit = machine_unit(name)
    try:
        try:
            started = host.units.wait_started(unit, job, timeout=timeout)
        except StartedTooOften:
            host.units.reset_failed(unit)
            started = host.units.wait_started(unit, host.units.start(unit), timeout=timeout)
    except CommandFailed as error:
        raise _not_started(name, error, host) from error
    if not started:
        raise TimedOut(f"start {name} took longer than {timeout:g} seconds", hint="give it more with --timeout")


async def _started(name: str, host: Host, start: Callable[[], Awaitable[None]]) -> None:
    """Have a machine started, by a job that is refused where a few others came just before it as well.

    systemd counts all starts of a unit, asked for or not (systemd.unit(5), StartLimitBurst=): the limit is there for
    machines that end as soon as they start. Of a restart it refuses the second half, and the machine would stay down.
    """
    try:
        try:
            await start()
        except StartedTooOften:
            host.units.reset_failed(machine_unit(name))
            await host.jobs.start(machine_unit(name))
    except CommandFailed as error:
        raise _not_started(name, error, host) from error


def _gone(name: str, host: Host, *, declared: bool = False) -> NotFound | None:
    """Say that a machine that is to start has been removed since, or is just now; None where that is not so.

    With ``declared`` one that is, and not made, has not been removed.
    """
    from machines.operations.declared import readable_machines
    from machines.operations.records import read_records

    record = read_records(host).get(name)
    if record is not None and record.intent == "remove":
        return NotFound(f"machine {name} is being removed", hint=f"if nobody is at it: machctl rm {name} finishes it")
    if record is not None or name in host.pool.trees() or (declared and name in readable_machines(host, name=name)):
        return None
    return NotFound(f"machine {name} was removed meanwhile", hint="machctl list shows the machines there are")


def _not_started(name: str, error: CommandFailed, host: Host) -> MachctlError:
    if gone := _gone(name, host):
        return gone
    unit = machine_unit(name)
    # Where its job was not done at all, what it said last is of the time before.
    undone = isinstance(error, (Canceled, StartedTooOften))
    return CommandFailed(
        f"machine {name} did not start: {('' if undone else _last_words(unit, host)) or error.message}",
        hint=f"all it said: journalctl -u {unit}",
    )


async def restart_machine(name: str, host: Host) -> None:
    """Stop a machine in order, start it again and wait until it says it is ready; the caller owns the time limit.

    To systemd it is one job: it is not left half done where nobody waits for it any more.
    """
    resume(name, host)
    await _started(name, host, lambda: host.jobs.restart(machine_unit(name)))


def resume(name: str, host: Host) -> None:
    """Let a machine go on that is paused, or that a killed run held still; another one is fine."""
    if unit := host.freezer.resume(name):
        host.units.thaw(unit)


def refuse_copied(name: str, host: Host) -> None:
    """Raise Conflict for a machine that somebody holds still while its files are copied: it hears of nothing."""
    if host.freezer.is_held(name) and host.files.is_locked(machine_lock(name)):
        raise Conflict(
            f"machine {name} is held still while it is copied",
            hint=f"wait for that to end; or: machctl terminate {name}",
        )


async def stop_machine(name: str, host: Host, *, terminate: bool) -> None:
    """Power a machine off in order and wait until it is gone; ``terminate`` kills it instead.

    Raises NotRunning.
    """
    unit = host.running().get(name)
    if unit is None:
        raise NotRunning(f"machine {name} is not running", hint="machctl list shows what is")
    # Who is held still neither hears nor is gone once killed.
    resume(name, host)
    if terminate:
        await host.machines.kill(name)
    else:
        await host.machines.power_off(name)
    if unit == machine_unit(name):
        # The machine is gone before its unit is: only after that can it be started or removed.
        await host.jobs.stop(unit)
        host.units.reset_failed(unit)


def _last_words(unit: str, host: Host) -> str:
    """What nspawn said last, or what the command said that was to be run for the machine and failed."""
    import json

    argv = ["journalctl", "--unit", unit, "--lines=200", "--output=json", "--no-pager"]
    done = host.tools.run([*argv, "--output-fields=SYSLOG_IDENTIFIER,MESSAGE"], check=False)
    found = ""
    for line in reversed(done.stdout.splitlines()):
        entry = json.loads(line)
        who, what = str(entry.get("SYSLOG_IDENTIFIER", "")), entry.get("MESSAGE")
        if not isinstance(what, str) or not what.strip():
            continue
        if who == "systemd" and what.startswith(("Starting ", "Stopped ")):
            break
        if who == "systemd-nspawn":
            # What its inner process says of the end of the outer one may come last.
            found = what if found in {"", "Parent died too early"} else found
        elif who != "systemd":
            return what.removeprefix(_OURS) if what.startswith(_OURS) else f"{who}: {what}"
    return found


async def stop_in_time(name: str, host: Host, *, terminate: bool, timeout: float) -> None:
    """Stop a machine within ``timeout`` seconds. Raises TimedOut for one that does not listen, and lets it run."""
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            await stop_machine(name, host, terminate=terminate)
    except TimeoutError:
        raise TimedOut(
            f"machine {name} was told to power off and is still running after {timeout:g} seconds",
            hint=f"machctl logs {name} says what it is doing; machctl stop --force {name} ends it the hard way",
        ) from None


async def wait_for_address(name: str, host: Host) -> None:
    """Wait until a running machine has a global address. Raises NotRunning; the caller owns the time limit."""
    import asyncio
    import contextlib

    entry = host.registered().get(name)
    if entry is None:
        raise NotRunning(f"machine {name} is not running", hint=f"machctl start {name}")
    if host.addresses(entry.leader):
        return
    with host.links.notifications(f"/proc/{entry.leader}/ns/net") as notifications:
        changed = asyncio.Event()

        def drain() -> None:
            with contextlib.suppress(OSError):
                notifications.recv(65536)
            changed.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(notifications, drain)
        try:
            while not host.addresses(entry.leader):
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_reader(notifications)
