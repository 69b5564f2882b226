# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl create"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import typer

from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.verbs.life import start_all
from machines.cli.wire import RealHost
from machines.declare import values
from machines.declare.fleet import check_machine, own_file
from machines.errors import InvalidValue, MachctlError, raise_all
from machines.model.machine import DEFAULT_BRIDGE, Machine
from machines.model.names import check_link_name, check_new_name
from machines.model.source import Source, parse_source
from machines.operations.fleet import create as create_machine


def create(
    context: typer.Context,
    source: str = typer.Argument(..., metavar="SOURCE", help="debian or debian:SUITE, as in debian:trixie."),
    name: str = typer.Argument(None, metavar="[NAME]", help="The machine's name; the distribution's if left out."),
    bridge: list[str] = typer.Option(
        [], "--bridge", metavar="BRIDGE", help="Put it on this bridge; made if it is not there."
    ),
    publish: list[str] = typer.Option(
        [], "--publish", "-p", metavar="[IP:]HOST:GUEST", help="Let a TCP port of the machine answer on the host."
    ),
    bind: list[str] = typer.Option([], "--bind", "-v", metavar="SRC:DST[:ro]", help="Show it a directory of the host."),
    package: list[str] = typer.Option([], "--package", metavar="PACKAGE", help="Install this package too."),
    mirror: str = typer.Option(None, "--mirror", metavar="URL", help="Fetch packages from here."),
    variant: str = typer.Option(
        "minbase", "--variant", metavar="VARIANT", help="minbase, important, standard or buildd."
    ),
    bootstrapper: str = typer.Option("auto", "--bootstrapper", metavar="TOOL", help="auto, mmdebstrap or debootstrap."),
    memory: str = typer.Option(None, "--memory", metavar="SIZE", help="The most memory it may use, as in 512M."),
    cpus: str = typer.Option(None, "--cpus", metavar="NUMBER", help="The most processors it may use, as in 1.5."),
    hostname: str = typer.Option(None, "--hostname", metavar="NAME", help="Its host name, if not its name."),
    ssh_key: list[str] = typer.Option(
        [], "--ssh-key", metavar="FILE", help="Let the owner of this public key in by ssh."
    ),
    autostart: bool = typer.Option(False, "--autostart", help="Start it at boot."),
    start: bool = typer.Option(False, "--start", help="Start it now."),
    wait: str = typer.Option(None, "--wait", metavar="ip", help="With --start: wait until it has an address."),
) -> None:
    """Make a machine: bootstrap its tree, write its settings and units, and declare it."""
    options = context.obj
    machine = _machine(
        source=source, name=name, bridges=bridge, publish=publish, binds=bind, packages=package, mirror=mirror,
        variant=variant, bootstrapper=bootstrapper, memory=memory, cpus=cpus, hostname=hostname, ssh_keys=ssh_key,
        autostart=autostart, wait=wait,
    )  # fmt: skip
    host = RealHost()
    progress = Progress(options)
    try:
        plan = run(
            create_machine(machine, host, progress, dry_run=options.dry_run),
            timeout=options.timeout,
            what=f"create {machine.name}",
            afterwards="what was half done has been taken back",
        )
    finally:
        progress.clear()
    if options.dry_run:
        show_plan({machine.name: plan}, options)
        return
    if not options.quiet:
        note(
            f"created {machine.name} ({machine.source})"
            + ("" if start else f"; start it: machctl start {machine.name}")
        )
    if start or wait:
        raise typer.Exit(start_all([machine.name], wait=wait, options=options))


def _machine(
    *,
    source: str,
    name: str | None,
    bridges: list[str],
    publish: list[str],
    binds: list[str],
    packages: list[str],
    mirror: str | None,
    variant: str,
    bootstrapper: str,
    memory: str | None,
    cpus: str | None,
    hostname: str | None,
    ssh_keys: list[str],
    autostart: bool,
    wait: str | None,
) -> Machine:
    """Read the words of the command line into a machine. Raises all that is wrong with them at once."""
    errors: list[MachctlError] = []

    def read(parse: Callable[[str], object], text: str | None, default: object = None) -> Any:
        if text is None:
            return default
        try:
            return parse(text)
        except MachctlError as error:
            errors.append(error)
            return default

    def read_all(parse: Callable[[str], object], texts: Iterable[str]) -> tuple[Any, ...]:
        return tuple(value for value in (read(parse, text) for text in texts) if value is not None)

    if wait not in {None, "ip"}:
        errors.append(InvalidValue(f"there is nothing to wait for called {wait!r}", hint="use --wait ip"))
    url = read(values.parse_mirror, mirror)
    origin = read(lambda text: parse_source(text, any_suite=mirror is not None), source, Source("debian", "trixie"))
    chosen = read(check_new_name, name if name is not None else origin.distribution, "debian")
    machine = Machine(
        name=chosen,
        source=origin,
        origin=own_file(chosen),
        bridges=read_all(check_link_name, bridges) or (DEFAULT_BRIDGE,),
        publish=read_all(values.parse_publish, publish),
        binds=read_all(values.parse_bind, [_absolute(bind) for bind in binds]),
        packages=tuple(
            dict.fromkeys(read_all(values.parse_package, [word for text in packages for word in text.split(",")]))
        ),
        mirror=url,
        variant=read(values.parse_variant, variant, "minbase"),
        bootstrapper=read(values.parse_bootstrapper, bootstrapper, "auto"),
        memory=read(values.parse_memory, memory),
        cpus=read(values.parse_cpus, cpus),
        hostname=read(values.parse_hostname, hostname),
        ssh_keys=tuple(key for keys in read_all(_read_keys, ssh_keys) for key in keys),
        autostart=autostart,
    )
    errors += check_machine(machine)
    raise_all(errors)
    return machine


def _absolute(bind: str) -> str:
    """Give a bind with the home and the working directory of whoever typed it filled in."""
    source, colon, rest = bind.partition(":")
    if source.startswith(("./", "../", "~")) or source in {".", ".."}:
        source = os.path.abspath(os.path.expanduser(source))
    return source + colon + rest


def _read_keys(path: str) -> tuple[str, ...]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            lines = [line for line in file.read().splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidValue(
            f"ssh key {path} cannot be read: {reason}", hint="give the .pub file, or make a key: ssh-keygen -t ed25519"
        ) from None
    if not lines:
        raise InvalidValue(f"ssh key {path} is empty", hint="give the .pub file: --ssh-key ~/.ssh/id_ed25519.pub")
    return tuple(values.parse_ssh_key(line) for line in lines)
