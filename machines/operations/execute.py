# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each kind of step to what it does on the host; the only place that knows both."""

from __future__ import annotations

import contextlib
import os
import shlex
from functools import partial
from typing import TYPE_CHECKING

from machines.errors import Canceled, Conflict, MachctlError
from machines.model.names import machine_unit
from machines.operations.lifecycle import dispatch_start, finish_start, restart_machine, resume, stop_machine
from machines.operations.names import keep_names, keep_resolver
from machines.operations.records import write_network, write_record
from machines.operations.reporter import Reporter
from machines.plan import steps
from machines.plan.check_host import FIREWALL_UNIT, NETWORK_MANAGER
from machines.plan.step import UpdateStep
from machines.plan.steps import Plan, Step
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def execute(plan: Plan, host: Host, *, reporter: Reporter) -> None:
    """Do the steps of a plan in order; ``reporter`` hears of each before it is done.

    The first that fails ends it with its error; what was done stays, and the next run goes on from there.
    """
    for step in plan:
        reporter.step(step)
        await _do(step, host, reporter)


async def _do(step: Step, host: Host, reporter: Reporter) -> None:
    match step:
        case steps.MakeBase():
            from machines.operations.bases import make_base

            await make_base(step.declared, host, partial(reporter.progress, step.machine), fresh=step.fresh)
        case steps.MakeTree() | steps.CopyTree() | steps.TakeSnapshot() | steps.RestoreTree():
            from machines.operations.tree import do_to_tree

            await do_to_tree(step, host, partial(reporter.progress, step.machine))
        case steps.MakePool():
            await _make_pool(step.size, host)
        case steps.KeepNames():
            await keep_names(host)
        case steps.KeepResolver():
            await keep_resolver(host)
        case steps.LoadNat():
            from machines.operations.nat import load_nat

            # Another may have changed the files since nft has read them: the last to read has to be the last to load.
            async with host.files.wait_lock("nat"):
                load_nat(host, reporter, drop=step.drop)
        case steps.StartUnit() if step.unit == FIREWALL_UNIT:
            # Of two restarts at once systemd cancels the first, which its waiter would take for a failure.
            async with host.files.wait_lock("firewall"):
                # A bridge that comes up restarts it as well, and without the lock: that does the work of this one.
                with contextlib.suppress(Canceled):
                    await host.jobs.restart(step.unit)
        case steps.ReloadNetworkManager():
            _reload_network_manager(host, reporter)
        case steps.StartUnit():
            await (host.jobs.restart(step.unit) if step.restart else host.jobs.start(step.unit))
        case steps.StopUnit():
            await host.jobs.stop(step.unit)
        case steps.StartMachine():
            await finish_start(step.name, dispatch_start(step.name, host), host)
        case steps.RestartMachine():
            await restart_machine(step.name, host)
        case steps.AwaitReady() | steps.Drain():
            from machines.operations.readiness import wait

            await wait(step, host)
        case steps.StopMachine():
            await stop_machine(step.name, host, terminate=step.terminate)
        case UpdateStep():
            from machines.operations.updating import do_update_step

            await do_update_step(step, host, reporter)
        case _:
            _do_at_once(step, host)


async def _make_pool(size: int, host: Host) -> None:
    # A run that was killed after it goes on with what it made.
    if not os.path.exists(paths.POOL_IMAGE):
        await host.storage.make_pool_image(size, log=f"{paths.LOG_DIRECTORY}/pool.log")


def _do_at_once(step: Step, host: Host) -> None:
    match step:
        case steps.Claim() | steps.Keep():
            host.files.write_file(paths.machine_record(step.record.name), write_record(step.record))
        case steps.ClaimNetwork():
            host.files.write_file(paths.network_record(step.network.bridge), write_network(step.network))
        case steps.PlaceTree():
            host.storage.place(step.name, step.storage)
        case steps.RemoveTree():
            _remove_tree(step, host)
        case steps.RemoveBase():
            host.storage.remove_base(step.base)
        case steps.RemoveSnapshot():
            host.storage.remove_snapshot(step.snapshot)
        case steps.RemoveSnapshots():
            host.storage.remove_snapshots(step.machine)
        case steps.RenameTree():
            _rename_tree(step, host)
        case steps.PauseMachine():
            host.freezer.pause(step.machine)
        case steps.ResumeMachine():
            resume(step.machine, host)
        case steps.ThawMachine():
            host.freezer.thaw(step.machine)
        case steps.RemoveLeftover():
            host.storage.remove_path(step.path)
        case steps.SetDisk():
            host.storage.set_limit(paths.tree(step.machine), step.size)
        case steps.WriteFile():
            _write(step, host)
        case steps.RemoveFile():
            host.files.remove_file(step.path)
        case steps.ReloadUnits():
            if not step.units or host.units.states(step.units):
                host.units.reload()
        case steps.ReloadNetworkd():
            host.units.reload_networkd()
        case steps.OpenPorts():
            host.units.run_jobs("restart" if step.restart else "start", step.units)
        case steps.ClosePorts():
            host.units.run_jobs("stop", step.units)
        case steps.StartProbing():
            host.units.run_jobs("start", [step.timer])
            host.units.dispatch("start", step.unit)
        case steps.SetLimits():
            host.units.set_limits(machine_unit(step.machine), step.limits, step.left)
        case steps.EnableUnit():
            # systemd 252's machinectl enable forgets the target, without which nothing pulls the machine in.
            host.units.enable(
                [step.unit, "machines.target"] if step.unit == machine_unit(step.machine) else [step.unit]
            )
            host.units.reload()
        case steps.DisableUnit():
            host.units.disable([step.unit])
            host.units.reload()
        case steps.SetLink():
            _set_link(step, host)
        case steps.SetSysctl():
            host.facts.set_sysctl(step.name, step.value)
        case steps.AttachLink() | steps.DetachLink():
            from machines.operations.links import change_link

            change_link(step, host)
        case steps.RemoveLink():
            host.links.remove_link(step.link)
        case _:
            raise NotImplementedError(type(step).__name__)


def _refuse_running(name: str, host: Host) -> None:
    """Raise Conflict where somebody has started the machine in the meantime, be it by systemctl."""
    if name in host.running():
        raise Conflict(f"machine {name} was started in the meantime", hint=f"stop it first: machctl stop {name}")


def _remove_tree(step: steps.RemoveTree, host: Host) -> None:
    if step.machine and step.path == paths.tree(step.machine):
        _refuse_running(step.machine, host)
    if step.layer:
        host.storage.unmount(step.layer)
    try:
        _remove_unmounted(step, host)
    except Conflict:
        own = (paths.tree(step.layer), f"{paths.layer(step.layer)}/lower") if step.layer else ()
        if not any(host.pool.is_mounted(place) for place in own):
            raise
        # By a start of it, or for a copy of it.
        raise Conflict(
            f"machine {step.layer} was mounted again while it was removed",
            hint=f"machctl rm {step.layer} once more, or machctl gc, finishes it",
        ) from None


def _remove_unmounted(step: steps.RemoveTree, host: Host) -> None:
    if step.layer and step.path == paths.layer(step.layer):
        # All there can be of it in the pool is the directory that it was to be mounted on.
        with contextlib.suppress(OSError):
            os.rmdir(paths.tree(step.layer))
    elif os.path.lexists(step.path) or not step.layer:
        host.storage.forget_limit(step.path)
        host.pool.remove(step.path)
    if step.layer:
        host.storage.remove_layer(step.layer)


def _rename_tree(step: steps.RenameTree, host: Host) -> None:
    """Each half may have been done by a run that was killed after it."""
    _refuse_running(step.old, host)
    if step.storage == "overlay":
        host.storage.unmount(step.old)
        if step.old in host.storage.layers():
            host.storage.rename_layer(step.old, step.new)
    host.pool.rename(step.old, step.new)
    host.storage.rename_snapshots(step.old, step.new)


def _write(step: steps.WriteFile, host: Host) -> None:
    there = host.files.read_text(step.path)
    foreign = there is not None and paths.owner(step.path, step.text) and not paths.owner(step.path, there)
    if foreign and not step.over:
        raise Conflict(
            f"{step.path} has appeared in the meantime and machctl did not write it",
            hint="move it away, then run the same command again",
        )
    if paths.GUEST_MANAGER_FILE in step.text:
        from machines.operations.places import make_place, needs_place

        if needs_place(step.machine, step.path, step.text):
            make_place(step.machine, host)
    host.files.write_file(step.path, step.text, mode=step.mode & _mode(step, host))


def _mode(step: steps.WriteFile, host: Host) -> int:
    """Give what may be allowed of a file: what not all can read of a declaration they cannot read of its settings."""
    private = step.machine and step.path in paths.private_files(step.machine)
    origins = [step.like, paths.declared_in(step.text) if private else ""]
    return 0o777 if all(not origin or host.files.mode_of(origin) & 0o004 for origin in origins) else 0o700


def _reload_network_manager(host: Host, reporter: Reporter) -> None:
    """It may be on its way up or down: no reason for machines not to be made, and what comes up reads its files."""
    try:
        host.units.run_jobs("reload", [NETWORK_MANAGER])
    except MachctlError as error:
        reporter.warn(f"NetworkManager may manage links of machines: {error}; machctl doctor tells whether it does")


def _set_link(step: steps.SetLink, host: Host) -> None:
    link = ["ip", "link", "set", "dev", step.link]
    master = ["master", step.master] if step.master else []
    if step.port:
        # Until it is in its VLAN nothing of it is to get anywhere.
        host.tools.run([*link, *master, "down"])
        for command in step.port:
            host.tools.run(shlex.split(command.removeprefix("-")), check=not command.startswith("-"))
        master = []
    host.tools.run([*link, *master, "up"])
    for address in step.addresses:
        # A second time the kernel is not to look whether another host has it.
        host.tools.run(["ip", "address", "replace", address, "dev", step.link, *(["nodad"] if ":" in address else [])])
