# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl run"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import NoReturn

import typer

from machines.cli.output import note, report_error
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.create import SOURCE_HELP, machine_of
from machines.cli.verbs.enter import OWN_FAILURE
from machines.cli.wire import RealHost
from machines.errors import MachctlError
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.operations import fleet, lifecycle
from machines.operations.observe import read_records


def run_(
    context: typer.Context,
    source: str = typer.Argument(..., metavar="SOURCE", help=SOURCE_HELP),
    command: list[str] = typer.Argument(None, metavar="[-- COMMAND...]", help="The command; a shell if left out."),
    bridge: list[str] = typer.Option([], "--bridge", metavar="BRIDGE", help="Put it on this bridge."),
    publish: list[str] = typer.Option([], "--publish", "-p", metavar="[IP:]HOST:GUEST", help="Publish a TCP port."),
    bind: list[str] = typer.Option([], "--bind", "-v", metavar="SRC:DST[:ro]", help="Show it a directory of the host."),
    package: list[str] = typer.Option([], "--package", metavar="PACKAGE", help="Install this package too."),
    memory: str = typer.Option(None, "--memory", metavar="SIZE", help="The most memory it may use."),
    cpus: str = typer.Option(None, "--cpus", metavar="NUMBER", help="The most processors it may use."),
    name: str = typer.Option(None, "--name", metavar="NAME", help="What it is called meanwhile."),
    user: str = typer.Option(None, "--user", "-u", metavar="USER", help="Run the command as this user."),
    keep: bool = typer.Option(False, "--keep", help="Keep the machine."),
) -> None:
    """Run a command in a machine that is gone when it ends; its exit status is machctl's, 125 machctl's own failure."""
    options = context.obj
    words = [*(command or [])]
    if words[:1] == ["--"]:
        del words[0]
    called = name or f"run-{os.urandom(3).hex()}"
    machine = machine_of(
        source=source, name=called, bridges=bridge, publish=publish, binds=bind, packages=package, memory=memory,
        cpus=cpus,
    )  # fmt: skip
    host = RealHost()
    # Whoever finds it without this process removes it.
    intent = "" if keep else f"throwaway {host.files.this_process()}"
    progress = Progress(options)
    if options.dry_run:
        from machines.cli.plans import show_plan

        show_plan({called: run(fleet.create(machine, host, progress, dry_run=True), timeout=None, what="run")}, options)
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    made = False
    try:
        try:
            making = fleet.create(machine, host, progress, intent=intent, command=words)
            run(making, timeout=options.timeout, what=f"run {source}")
        finally:
            progress.clear()
        made = True
        if read_records(host)[called].payload:
            status = _run_payload(called, host)
        else:
            status = _run(machine, words, host, user=user)
    except MachctlError as error:
        if error.exit_code not in {2, 126, 127}:
            error.exit_code = OWN_FAILURE
        raise
    finally:
        if made and not keep:
            _remove(called, host)
    if keep and not options.quiet:
        note(f"kept {called}")
    raise typer.Exit(status)


def _run(machine: Machine, words: list[str], host: RealHost, *, user: str | None) -> int:
    from machines.host.bus.guest import exec_in

    job = lifecycle.dispatch_start(machine.name, host)
    run(lifecycle.finish_start(machine.name, job, host), timeout=None, what=f"start {machine.name}")
    if machine.bridges:
        # A command that looks at the network at once should find it.
        with contextlib.suppress(MachctlError):
            run(lifecycle.wait_for_address(machine.name, host), timeout=10, what="wait")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    shell = ["/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l"]
    return exec_in(machine.name, words or shell, user=user, env={}, cwd=None, tty=terminal)


def _run_payload(name: str, host: RealHost) -> int:
    """Run what an image without an init runs, to its end; what it printed is in the journal of its unit."""
    unit = machine_unit(name)
    since = f"--since=@{time.time():.0f}"
    done = host.tools.run(["systemctl", "start", "--wait", unit], check=False)
    shown = host.tools.run(["systemctl", "show", "--property=ExecMainStatus", "--value", unit], check=False).stdout
    said = host.tools.run(
        ["journalctl", f"--unit={unit}", "--identifier=systemd-nspawn", "--output=cat", "--no-pager", since],
        check=False,
    )
    sys.stdout.write(said.stdout)
    host.units.reset_failed(unit)
    return int(shown.strip() or 0) or done.returncode


def _remove(name: str, host: RealHost) -> None:
    from machines.operations.reporter import Reporter

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        run(fleet.remove(name, host, Reporter(), force=True, dry_run=False), timeout=None, what=f"rm {name}")
    except MachctlError as error:
        report_error(error)
        note(f"  remove it by hand: machctl rm --force {name}")


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


run_.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
