# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl run"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from typing import NoReturn

from machines.cli import words
from machines.cli.output import note, report_error
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.create import SOURCE_HELP, machine_of
from machines.cli.verbs.enter import OWN_FAILURE
from machines.cli.wire import RealHost
from machines.errors import MachctlError, TimedOut
from machines.host.run import attached
from machines.model.base import Payload
from machines.model.limits import PROPERTIES
from machines.model.machine import Machine
from machines.operations import fleet, lifecycle
from machines.operations.records import read_records
from machines.operations.remove import remove
from machines.operations.reporter import Reporter
from machines.plan.steps import Plan
from machines.render import paths


def run_(
    context: words.Context,
    source: str = words.Argument(..., metavar="SOURCE", help=SOURCE_HELP),
    command: list[str] = words.Argument(None, metavar="[-- COMMAND...]", help="The command; a shell if left out."),
    bridge: list[str] = words.Option([], "--bridge", metavar="BRIDGE", help="Put it on this bridge."),
    publish: list[str] = words.Option([], "--publish", "-p", metavar="[IP:]HOST:GUEST", help="Publish a TCP port."),
    bind: list[str] = words.Option([], "--bind", "-v", metavar="SRC:DST[:ro]", help="Show it a directory of the host."),
    package: list[str] = words.Option([], "--package", metavar="PACKAGE", help="Install this package too."),
    memory: str = words.Option(None, "--memory", metavar="SIZE", help="The most memory it may use."),
    cpus: str = words.Option(None, "--cpus", metavar="NUMBER", help="The most processors it may use."),
    name: str = words.Option(None, "--name", metavar="NAME", help="What it is called meanwhile."),
    user: str = words.Option(None, "--user", "-u", metavar="USER", help="Run the command as this user."),
    keep: bool = words.Option(False, "--keep", help="Keep the machine."),
) -> None:
    """Run a command in a machine that is gone when it ends; its exit status is machctl's, 125 machctl's own failure."""
    options = context.obj
    command = words.bare(command)
    called = name or f"run-{os.urandom(3).hex()}"
    machine = machine_of(
        source=source, name=called, links=[("bridge", text) for text in bridge], publish=publish, binds=bind,
        packages=package, memory=memory,
        cpus=cpus,
    )  # fmt: skip
    host = RealHost()
    # Whoever finds it without this process removes it.
    intent = "" if keep else f"throwaway {host.files.this_process()}"
    progress = Progress(options)
    making = _making(machine, host, progress, intent=intent, command=command, user=user, dry_run=options.dry_run)
    if options.dry_run:
        from machines.cli.plans import show_plan

        show_plan({called: run(making, timeout=None, what="run")}, options)
        return
    _catch(options.timeout)
    signal.setitimer(signal.ITIMER_REAL, options.timeout or 0)
    made = False
    try:
        try:
            run(making, timeout=options.timeout, what=f"run {source}", quick=True)
        finally:
            progress.clear()
        made = True
        _catch(options.timeout)
        if payload := read_records(host)[called].payload:
            status = _run_payload(called, payload, host)
        else:
            status = _run(machine, command, host, user=user, timeout=options.timeout)
    except MachctlError as error:
        if error.exit_code not in {2, 124, 126, 127}:
            error.exit_code = OWN_FAILURE
        raise
    finally:
        if made and not keep:
            _remove(called, host)
    if keep and not options.quiet:
        note(f"kept {called}")
    raise words.Exit(status)


async def _making(
    machine: Machine,
    host: RealHost,
    reporter: Reporter,
    *,
    intent: str,
    command: list[str],
    user: str | None,
    dry_run: bool,
) -> Plan:
    """Make the machine, of a base or as a copy of another."""
    if machine.source.kind != "machine":
        return await fleet.create(machine, host, reporter, intent=intent, command=command, user=user, dry_run=dry_run)
    from machines.operations.copies import clone

    plan, _ = await clone(
        machine.source.reference, machine.name, host, reporter,
        machine=machine, intent=intent or "new", command=command, user=user, dry_run=dry_run,
    )  # fmt: skip
    return plan


def _run(machine: Machine, command: list[str], host: RealHost, *, user: str | None, timeout: float | None) -> int:
    from machines.host.bus.guest import exec_in

    job = lifecycle.dispatch_start(machine.name, host)
    run(lifecycle.finish_start(machine.name, job, host), timeout=timeout, what=f"start {machine.name}")
    if machine.links:
        # A command that looks at the network at once should find it.
        with contextlib.suppress(MachctlError):
            run(lifecycle.wait_for_address(machine.name, host), timeout=10, what="wait")
    _catch(timeout)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    shell = ["/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l"]
    return exec_in(machine.name, command or shell, user=user, env={}, cwd=None, tty=terminal)


def _run_payload(name: str, payload: Payload, host: RealHost) -> int:
    """Run what an image without an init runs, to its end, with our own stdio.

    The machine's own unit would connect it to the journal: this one has the same settings and limits.
    """
    _check_command(name, payload, host)
    dropin = host.files.read_text(paths.dropin_file(name)) or ""
    kept = ("ExecStartPost=", *(f"{key}=" for key in PROPERTIES.values()))
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return attached(
        [
            "systemd-run", "--quiet", "--wait", "--collect", "--pty" if terminal else "--pipe",
            "--service-type=notify", "--slice=machine.slice", f"--unit=machctl-run-{name}",
            "--property=Delegate=yes", "--property=KillMode=mixed", "--property=DevicePolicy=closed",
            *(f"--property={line}" for line in dropin.splitlines() if line.startswith(kept)),
            "systemd-nspawn", "--quiet", "--keep-unit", "--network-veth", "-U", "--settings=override",
            f"--machine={name}", f"--console={'interactive' if terminal else 'pipe'}",
        ]
    )  # fmt: skip


def _check_command(name: str, payload: Payload, host: RealHost) -> None:
    """Raise what podman would exit with: 127 for a command that the image does not have."""
    command, tree = payload.command[0], paths.tree(name)
    search = (
        dict(each.partition("=")[::2] for each in payload.environment).get("PATH") or "/usr/bin:/bin:/usr/sbin:/sbin"
    )
    places = [command] if "/" in command else [f"{directory}/{command}" for directory in search.split(":")]
    if not any(host.guests.exists(tree, place) for place in places):
        raise MachctlError(f"there is no command {command!r} in the image", exit_code=127)


def _remove(name: str, host: RealHost) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        run(remove(name, host, Reporter(), force=True, dry_run=False), timeout=None, what=f"rm {name}")
    except MachctlError as error:
        report_error(error)
        note(f"  remove it by hand: machctl rm --force {name}")


def _catch(timeout: float | None) -> None:
    """Have what asks machctl to end end it in order; every event loop that has come and gone has forgotten that."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    signal.signal(signal.SIGALRM, partial(_too_long, timeout))


def _too_long(limit: float | None, number: int, frame: object) -> NoReturn:
    raise TimedOut(f"run took longer than {limit:g} seconds", hint="give it more with --timeout; the machine is gone")


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


run_.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
