# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl start, stop, terminate, restart, enable, disable"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from machines.cli import words
from machines.cli.names import names as names_argument
from machines.cli.options import Options
from machines.cli.plans import show_plan
from machines.cli.running import interruptible
from machines.cli.several import AFTERWARDS, exit_status, say_done
from machines.cli.wire import RealHost
from machines.errors import Conflict, InvalidValue, MachctlError, NotRunning
from machines.model.frozen import replace
from machines.model.names import machine_lock
from machines.operations import lifecycle
from machines.operations.declared import readable_machines
from machines.operations.inspect import expand, lost_bridges, require
from machines.operations.ready import check_ready
from machines.plan.lifecycle import plan_enable, plan_pause, plan_resume, plan_start, plan_stop
from machines.plan.steps import Plan

# A first boot on a slow host takes its time; NotifyReady= has its own limit in the unit.
START_SECONDS = 330.0

_WAIT = words.Option(None, "--wait", metavar="ip|healthy", help="Wait until it has an address or is healthy, too.")


def start(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    wait: str = _WAIT,
) -> None:
    """Start machines and wait until they say they are ready."""
    raise words.Exit(start_all(names, wait=wait, options=context.obj))


def start_all(patterns: Sequence[str], *, wait: str | None, options: Options) -> int:
    """Start the machines that ``patterns`` name; give the exit status."""
    if wait not in {None, "ip", "healthy"}:
        raise InvalidValue(f"there is nothing to wait for called {wait!r}", hint="use --wait ip or healthy")
    host = RealHost()
    chosen = _chosen(patterns, host, verb="start")
    running = host.running()
    lost = lost_bridges(chosen, host)
    plans = {name: plan_start(name, running=name in running, lost_bridges=lost[name]) for name in chosen}
    if options.dry_run:
        show_plan(plans, options)
        return 0

    if len(chosen) == 1 and len(plans[chosen[0]]) == 1 and not wait:
        return _start_one(chosen[0], host, options)
    alone = [name for name in chosen if len(plans[name]) == 1]
    # It boots while what waits for it is imported.
    jobs, failed = _dispatch(alone if len(alone) == 1 else [], host)

    async def act(name: str) -> str | None:
        if name in failed:
            raise failed[name]
        if name in running:
            host.freezer.refuse_paused(name)
        if name in jobs:
            await lifecycle.finish_start(name, jobs[name], host)
        elif name in alone:
            # Not while somebody puts another tree in the place of this one.
            with host.files.lock(machine_lock(name), what=f"machine {name}"):
                job = await lifecycle.dispatch_together(name, host)
            await lifecycle.finish_start(name, job, host)
        elif plans[name]:
            from machines.cli.progress import Progress
            from machines.operations.execute import execute

            await execute(plans[name], host, reporter=Progress(options))
        if wait == "healthy":
            from machines.operations.waiting import await_healthy

            await await_healthy(name, host)
        elif wait:
            await lifecycle.wait_for_address(name, host)
        return None if plans[name] else f"{name} is running already"

    from machines.cli.several import on_each

    return on_each(chosen, act, options, verb="start", done="started", timeout=options.timeout or START_SECONDS)


def _start_one(name: str, host: RealHost, options: Options) -> int:
    began = time.monotonic()
    jobs, failed = _dispatch([name], host)
    with interruptible(f"start {name}", afterwards=AFTERWARDS):
        for job in jobs.values():
            lifecycle.wait_started(name, job, host, timeout=options.timeout or START_SECONDS)
            say_done("started", name, began, options)
    return exit_status(failed, 1)


def _dispatch(names: Sequence[str], host: RealHost) -> tuple[dict[str, str], dict[str, MachctlError]]:
    jobs: dict[str, str] = {}
    failed: dict[str, MachctlError] = {}
    for name in names:
        try:
            # Not while somebody puts another tree in the place of this one.
            with host.files.lock(machine_lock(name), what=f"machine {name}"):
                jobs[name] = lifecycle.dispatch_start(name, host)
        except MachctlError as error:
            failed[name] = error
    return jobs, failed


def stop(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    force: bool = words.Option(False, "--force", "-f", help="End them the hard way, as terminate does."),
) -> None:
    """Power machines off in order and wait until they are gone."""
    raise words.Exit(_stop_all(names, terminate=force, options=context.obj))


def terminate(
    context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")
) -> None:
    """End machines the hard way: everything in them is killed."""
    raise words.Exit(_stop_all(names, terminate=True, options=context.obj))


def restart(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    force: bool = words.Option(False, "--force", "-f", help="End them the hard way first."),
    wait: str = _WAIT,
) -> None:
    """Stop machines in order and start them again; those that do not run are started."""
    options = context.obj
    host = RealHost()
    chosen = _chosen(names, host, verb="restart")
    running = [name for name in chosen if name in host.running()]
    status = _stop_all(running, terminate=force, options=options) if running else 0
    if options.dry_run:
        show_plan({name: plan_start(name, running=False) for name in chosen}, options)
        raise words.Exit(0)
    still = host.running() if status else {}
    ready = [name for name in chosen if name not in still]
    raise words.Exit((start_all(ready, wait=wait, options=options) if ready else 0) or status)


def pause(
    context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")
) -> None:
    """Hold machines still: what runs in them stays in memory and stops where it is. They go on by resume."""
    raise words.Exit(_hold(names, "pause", plan_pause, options=context.obj))


def resume(
    context: words.Context, names: list[str] = names_argument("The machines, or patterns such as 'web*'.")
) -> None:
    """Let machines go on that are paused."""
    raise words.Exit(_hold(names, "resume", plan_resume, options=context.obj))


def enable(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    now: bool = words.Option(False, "--now", help="Start them now as well."),
) -> None:
    """Start machines at boot from now on."""
    status = _autostart(names, on=True, options=context.obj)
    raise words.Exit(status or (start_all(names, wait=None, options=context.obj) if now else 0))


def disable(
    context: words.Context,
    names: list[str] = names_argument("The machines, or patterns such as 'web*'."),
    now: bool = words.Option(False, "--now", help="Stop them now as well."),
) -> None:
    """No longer start machines at boot."""
    status = _autostart(names, on=False, options=context.obj)
    running = [name for name in expand(names, RealHost()) if name in RealHost().running()] if now else []
    raise words.Exit(status or (_stop_all(running, terminate=False, options=context.obj) if running else 0))


def _stop_all(patterns: Sequence[str], *, terminate: bool, options: Options) -> int:
    host = RealHost()
    verb = "terminate" if terminate else "stop"
    chosen = _chosen(patterns, host, verb=verb)
    if options.dry_run:
        show_plan({name: plan_stop(name, terminate=terminate) for name in chosen}, options)
        return 0
    limit = options.timeout or lifecycle.STOP_SECONDS
    from machines.cli.several import on_each

    async def act(name: str) -> None:
        if not terminate:
            lifecycle.refuse_copied(name, host)
        await lifecycle.stop_in_time(name, host, terminate=terminate, timeout=limit)

    return on_each(chosen, act, options, verb=verb, done="terminated" if terminate else "stopped", timeout=limit + 30)


def _hold(patterns: Sequence[str], verb: str, planned: Callable[..., Plan], *, options: Options) -> int:
    host = RealHost()
    chosen = _chosen(patterns, host, verb=verb)
    paused, running = host.freezer.paused_machines(), host.running()
    plans = {name: planned(name, paused=name in paused) for name in chosen if name in running}
    if options.dry_run:
        show_plan(plans, options)
        return 0
    from machines.cli.progress import Progress
    from machines.cli.several import on_each
    from machines.operations.execute import execute

    declared = readable_machines(host) if verb == "pause" else {}

    async def act(name: str) -> str | None:
        if name not in plans:
            raise NotRunning(f"machine {name} is not running", hint=f"machctl start {name}")
        if name in declared and declared[name].idle_stop is not None:
            raise Conflict(
                f"machine {name} stops once nobody is connected to it, paused or not",
                hint=f"machctl stop {name}: a connection starts it again; or take idle-stop out of its declaration",
            )
        # While its files are copied it is held still anyway, and goes on afterwards.
        with host.files.lock(machine_lock(name), what=f"machine {name}"):
            await execute(plans[name], host, reporter=Progress(options))
        return None if plans[name] else f"{name} is {'paused already' if verb == 'pause' else 'not paused'}"

    return on_each(chosen, act, options, verb=verb, done=f"{verb}d")


def _autostart(patterns: Sequence[str], *, on: bool, options: Options) -> int:
    host = RealHost()
    from machines.cli.progress import Progress
    from machines.cli.several import on_each
    from machines.operations import fleet
    from machines.operations.execute import execute

    verb = "enable" if on else "disable"
    chosen = _chosen(patterns, host, verb=verb)
    declared = readable_machines(host)

    async def act(name: str) -> str | None:
        if name in declared:
            plan = await fleet.change(
                name,
                lambda machine: replace(machine, autostart=on),
                host,
                Progress(options),
                dry_run=options.dry_run,
            )
        else:
            plan = plan_enable(name, on=on, enabled=host.facts.enabled_machines().get(name, False))
            if not options.dry_run:
                await execute(plan, host, reporter=Progress(options))
        if options.dry_run:
            show_plan({name: plan}, options)
        return f"{verb}d {name}" if plan else f"{name} is {verb}d already"

    status = 0
    for name in chosen:
        status = on_each([name], act, options, verb=verb, done=f"{verb}d") or status
    return status


def _chosen(patterns: Sequence[str], host: RealHost, *, verb: str) -> list[str]:
    check_ready(host, verb=verb)
    chosen = expand(patterns, host)
    require(chosen, host)
    return chosen
