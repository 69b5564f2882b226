# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl run"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from functools import partial
from typing import NoReturn

from machines.cli import words
from machines.cli.output import note, report_error
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.create import SOURCE_HELP, machine_of
from machines.cli.verbs.enter import OWN_FAILURE
from machines.cli.wire import RealHost
from machines.errors import CommandFailed, MachctlError, NotFound, TimedOut
from machines.host.run import attached
from machines.model.base import Payload
from machines.model.limits import PROPERTIES
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.operations import fleet, lifecycle
from machines.operations.records import read_records
from machines.operations.remove import remove
from machines.operations.reporter import Reporter
from machines.plan.steps import Plan
from machines.render import paths

# What names a run in the entries of the journal that its nspawn writes.
_MARK = "MACHCTL_RUN"


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
    """Run a command in a machine that is gone when it ends. Its exit status is machctl's.

    125 says that machctl itself failed, 126 and 127 that there is no such command; 2 and 4 are as of other verbs: wrong
    words, and nothing there to make it of.
    """
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
        # What it is made of is not there: 4, as of a machine that exec is to run a command in.
        if error.exit_code not in {2, 124, 126, 127} and (made or error.exit_code != NotFound.exit_code):
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
    lines = (host.files.read_text(paths.dropin_file(name)) or "").splitlines()
    limits = tuple(f"{key}=" for key in PROPERTIES.values())
    after = [line.partition("=")[2].removeprefix("-") for line in lines if line.startswith("ExecStartPost=")]
    mark, began = os.urandom(8).hex(), time.time()
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    # nspawn makes nodes of devices that the template has it use, and more of them with each version.
    devices = host.units.allowed_devices(machine_unit(name))
    status = attached(
        [
            "systemd-run", "--quiet", "--wait", "--collect", "--pty" if terminal else "--pipe",
            "--service-type=notify", "--slice=machine.slice", f"--unit=machctl-run-{name}",
            "--property=Delegate=yes", "--property=KillMode=mixed", "--property=DevicePolicy=closed",
            *(f"--property=DeviceAllow={device} {access}" for device, access in devices),
            *(f"--property={line}" for line in lines if line.startswith(limits)),
            # A short command has ended before these, which then find no machine: that is no failure of the command, and
            # nothing to write where it writes. A specifier is one in files only (systemd.unit(5)).
            *(f"--property=ExecStartPost=-/usr/bin/systemd-cat {each.replace('%%', '%')}" for each in after),
            f"--property=LogExtraFields={_MARK}={mark}", "--setenv=SYSTEMD_LOG_TARGET=journal",
            "systemd-nspawn", "--quiet", "--keep-unit", "--network-veth", "-U", "--settings=override",
            f"--machine={name}", f"--console={'interactive' if terminal else 'pipe'}",
        ]
    )  # fmt: skip
    # What nspawn cannot do ends with 1 as well, but of that it says something.
    if status == 1 and (said := _said(mark, began, host)):
        raise CommandFailed(f"the command was not run in {name}: {said}", exit_code=OWN_FAILURE)
    return status


def _said(mark: str, began: float, host: RealHost) -> str:
    """Give the error that nspawn wrote into the journal, "" where it did not fail itself."""
    import json

    host.tools.run(["journalctl", "--sync"], check=False)
    selection = ["--priority=err", f"--since=@{began:.6f}", "SYSLOG_IDENTIFIER=systemd-nspawn", "_TRANSPORT=journal"]
    done = host.tools.run(["journalctl", "--quiet", "--no-pager", "--output=json", *selection], check=False)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    mine = [entry for entry in entries if entry.get(_MARK) == mark]
    # Of a process that has ended before journald looks at it, journald does not know whose it was.
    unknown = [entry for entry in entries if "_SYSTEMD_UNIT" not in entry and _MARK not in entry]
    # What follows the first one comes of it.
    return next((str(entry.get("MESSAGE")).partition("\n")[0] for entry in [*mine, *unknown]), "")


def _check_command(name: str, payload: Payload, host: RealHost) -> None:
    """Raise what podman would exit with: 127 for a command that the image does not have, 126 for one that is none."""
    command, tree = payload.command[0], paths.tree(name)
    search = (
        dict(each.partition("=")[::2] for each in payload.environment).get("PATH") or "/usr/bin:/bin:/usr/sbin:/sbin"
    )
    places = [command] if "/" in command else [f"{directory}/{command}" for directory in search.split(":")]
    # nspawn changes to its directory before it executes the command.
    places = [os.path.join("/", payload.directory, place) for place in places]
    found = [place for place in places if host.guests.exists(tree, place)]
    if not found:
        raise MachctlError(f"there is no command {command!r} in the image", exit_code=127)
    if not any(host.guests.is_executable(tree, place) for place in found):
        raise MachctlError(f"{found[0]} in the image cannot be executed", hint="chmod +x it there", exit_code=126)


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
