# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl create"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from machines.cli import links as flags
from machines.cli import settings as held
from machines.cli import words
from machines.cli.links import read_links
from machines.cli.options import Options
from machines.cli.output import note
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.settings import read_settings
from machines.cli.wire import RealHost
from machines.declare import values
from machines.declare.fleet import check_machine, own_file
from machines.errors import InvalidValue, MachctlError, raise_all
from machines.model.machine import Machine
from machines.model.names import check_new_name
from machines.model.source import REMOTE, Source, parse_source
from machines.operations.declared import stale_after
from machines.operations.fleet import create as create_machine
from machines.plan.steps import Plan

SOURCE_HELP = (
    "debian[:SUITE], ubuntu[:SUITE], arch, fedora:N, tar:PATH|URL, raw:PATH|URL, oci:PATH|REFERENCE, dir:PATH, "
    "image:NAME, machine:NAME."
)


def create(
    context: words.Context,
    source: str = words.Argument(..., metavar="SOURCE", help=SOURCE_HELP),
    name: str = words.Argument(None, metavar="[NAME]", help="The machine's name; the distribution's if left out."),
    bridge: list[str] = flags.BRIDGE,
    link: list[str] = flags.LINK,
    veth: bool = flags.VETH,
    zone: list[str] = flags.ZONE,
    macvlan: list[str] = flags.MACVLAN,
    ipvlan: list[str] = flags.IPVLAN,
    interface: list[str] = flags.INTERFACE,
    host_network: bool = flags.HOST_NETWORK,
    no_network: bool = flags.NO_NETWORK,
    ip: list[str] = flags.IP,
    publish: list[str] = words.Option(
        [], "--publish", "-p", metavar="[IP:]HOST:GUEST", help="Let a port of the machine answer on the host."
    ),
    isolated: bool = words.Option(False, "--isolated", help="Keep it from everything but its published ports."),
    egress: list[str] = words.Option(
        [], "--egress", metavar="PORT[/udp]|none", help="Let it reach these ports only, as in 443,53/udp."
    ),
    on_demand: bool = words.Option(False, "--on-demand", help="Start it at the first connection to one of its ports."),
    idle_stop: str = words.Option(
        None, "--idle-stop", metavar="TIME", help="With --on-demand: stop it that long after the last connection."
    ),
    bind: list[str] = words.Option([], "--bind", "-v", metavar="SRC:DST[:ro]", help="Show it a directory of the host."),
    tmpfs: list[str] = held.TMPFS,
    read_only: bool = held.READ_ONLY,
    volatile: str = held.VOLATILE,
    device: list[str] = held.DEVICE,
    capability: list[str] = held.CAPABILITY,
    drop_capability: list[str] = held.DROP_CAPABILITY,
    system_call_filter: list[str] = held.CALLS,
    nesting: bool = held.NESTING,
    health: str = held.HEALTH,
    env: list[str] = held.ENVIRONMENT,
    secret: list[str] = held.SECRET,
    package: list[str] = words.Option([], "--package", metavar="PACKAGE", help="Install this package too."),
    mirror: str = words.Option(None, "--mirror", metavar="URL", help="Fetch packages from here."),
    variant: str = words.Option(
        "minbase", "--variant", metavar="VARIANT", help="minbase, important, standard or buildd."
    ),
    bootstrapper: str = words.Option(
        "auto", "--bootstrapper", metavar="TOOL", help="auto, mmdebstrap, debootstrap, pacstrap or dnf."
    ),
    keyring: str = words.Option(None, "--keyring", metavar="FILE", help="Trust these keys, not the distribution's."),
    checksum: str = words.Option(None, "--checksum", metavar="SHA256", help="What a tar: or raw: has to be."),
    insecure: bool = words.Option(False, "--insecure", help="Take what comes, without checksum or signature."),
    fresh: bool = words.Option(False, "--fresh", help="Make its base anew, also if one is kept."),
    storage: str = words.Option(
        "auto", "--storage", metavar="DRIVER", help="How its tree is kept: auto, btrfs, overlay, reflink or copy."
    ),
    disk: str = words.Option(None, "--disk", metavar="SIZE", help="The most disk it may use, as in 10G."),
    ephemeral: bool = words.Option(False, "--ephemeral", help="Forget at each stop what was changed in it."),
    memory: str = words.Option(None, "--memory", metavar="SIZE", help="The most memory it may use, as in 512M."),
    cpus: str = words.Option(None, "--cpus", metavar="NUMBER", help="The most processors it may use, as in 1.5."),
    memory_high: str = held.MEMORY_HIGH,
    swap: str = held.SWAP,
    cpu_weight: str = held.CPU_WEIGHT,
    io_weight: str = held.IO_WEIGHT,
    tasks: str = held.TASKS,
    restart: str = held.RESTART,
    restart_delay: str = held.RESTART_DELAY,
    hostname: str = words.Option(None, "--hostname", metavar="NAME", help="Its host name, if not its name."),
    ssh_key: list[str] = words.Option(
        [], "--ssh-key", metavar="FILE", help="Let the owner of this public key in by ssh."
    ),
    autostart: bool = words.Option(False, "--autostart", help="Start it at boot."),
    start: bool = words.Option(False, "--start", help="Start it now."),
    wait: str = words.Option(None, "--wait", metavar="ip|healthy", help="With --start: wait for an address or health."),
) -> None:
    """Make a machine: bootstrap its tree, write its settings and units, and declare it."""
    options = context.obj
    machine = machine_of(
        source=source, name=name, host_network=host_network, no_network=no_network, addresses=ip,
        links=[
            *(("bridge", text) for text in bridge), *(("", text) for text in link), *([("", "veth")] if veth else []),
            *(("zone", text) for text in zone), *(("macvlan", text) for text in macvlan),
            *(("ipvlan", text) for text in ipvlan), *(("interface", text) for text in interface),
        ],
        isolated=isolated, egress=egress, on_demand=on_demand, idle_stop=idle_stop, publish=publish,
        binds=bind, packages=package, mirror=mirror,
        variant=variant, bootstrapper=bootstrapper, keyring=keyring, checksum=checksum, insecure=insecure,
        storage=storage, disk=disk, ephemeral=ephemeral, memory=memory, cpus=cpus, hostname=hostname, ssh_keys=ssh_key,
        autostart=autostart, wait=wait,
        settings={
            "memory_high": memory_high, "swap": swap, "cpu_weight": cpu_weight, "io_weight": io_weight, "tasks": tasks,
            "restart": restart, "restart_delay": restart_delay, "devices": device, "capabilities": capability,
            "drop_capabilities": drop_capability, "system_call_filter": system_call_filter, "nesting": nesting,
            "read_only": read_only, "volatile": volatile, "tmpfs": tmpfs, "environment": env, "secrets": secret,
            "health": health,
        },
    )  # fmt: skip
    host = RealHost()
    progress = Progress(options)
    if machine.source.kind == "machine":
        raise words.Exit(_clone(machine, progress, start=start, wait=wait, options=options))
    try:
        plan = run(
            create_machine(machine, host, progress, dry_run=options.dry_run, fresh=fresh),
            timeout=options.timeout,
            what=f"create {machine.name}",
            quick=True,
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
        _say_if_stale(plan, host)
    if start or wait:
        raise words.Exit(_start(machine.name, wait=wait, options=options))


def _clone(machine: Machine, progress: Progress, *, start: bool, wait: str | None, options: Options) -> int:
    from machines.operations.copies import clone

    given = {
        "--ssh-key": machine.ssh_keys, "--package": machine.packages, "--storage": machine.storage != "auto",
        "--bootstrapper": machine.bootstrapper != "auto", "--variant": machine.variant != "minbase",
    }  # fmt: skip
    if wrong := [flag for flag, value in given.items() if value]:
        raise InvalidValue(f"{machine.source} takes no {wrong[0]}: it is copied as it is", hint="leave that out")
    source = machine.source.reference
    plan, _ = run(
        clone(source, machine.name, RealHost(), progress, machine=machine, dry_run=options.dry_run),
        timeout=options.timeout,
        what=f"create {machine.name}",
        quick=True,
        afterwards="what was half done has been taken back",
    )
    progress.clear()
    if options.dry_run:
        show_plan({machine.name: plan}, options)
        return 0
    if not options.quiet:
        note(f"created {machine.name} ({machine.source})")
    return _start(machine.name, wait=wait, options=options) if start or wait else 0


def _start(name: str, *, wait: str | None, options: Options) -> int:
    from machines.cli.verbs.life import start_all

    return start_all([name], wait=wait, options=options)


def _say_if_stale(plan: Plan, host: RealHost) -> None:
    """A machine made today of packages of last year has last year's holes."""
    import time

    from machines.plan.steps import MakeTree

    bases = host.storage.bases()
    for step in plan:
        if isinstance(step, MakeTree) and step.base in bases:
            days = (time.time() - bases[step.base].created) / 86400
            if days > stale_after(host):
                name = bases[step.base].short
                note(f"  its base is {days:.0f} days old; make it anew for the next: machctl image refresh {name}")


def machine_of(
    *,
    source: str,
    name: str | None,
    links: Iterable[tuple[str, str]] = (),
    host_network: bool = False,
    no_network: bool = False,
    addresses: Iterable[str] = (),
    isolated: bool = False,
    egress: Iterable[str] = (),
    on_demand: bool = False,
    idle_stop: str | None = None,
    publish: Iterable[str] = (),
    binds: Iterable[str] = (),
    packages: Iterable[str] = (),
    mirror: str | None = None,
    variant: str = "minbase",
    bootstrapper: str = "auto",
    keyring: str | None = None,
    checksum: str | None = None,
    insecure: bool = False,
    storage: str = "auto",
    disk: str | None = None,
    ephemeral: bool = False,
    memory: str | None = None,
    cpus: str | None = None,
    hostname: str | None = None,
    ssh_keys: Iterable[str] = (),
    autostart: bool = False,
    wait: str | None = None,
    settings: Mapping[str, object] | None = None,
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

    if wait not in {None, "ip", "healthy"}:
        errors.append(InvalidValue(f"there is nothing to wait for called {wait!r}", hint="use --wait ip or healthy"))
    if wait == "healthy" and not (settings or {}).get("health") and not source.startswith("machine:"):
        errors.append(InvalidValue("nothing would say that it is healthy", hint="give it a probe: --health http=80/"))
    url = read(values.parse_mirror, mirror)
    origin = read(
        lambda text: parse_source(_absolute_source(text), any_suite=mirror is not None),
        source,
        Source("debian", "trixie"),
    )
    chosen = read(check_new_name, name if name is not None else _default_name(origin), "debian")
    mode, linked = read_links(links, addresses, host=host_network, none=no_network, errors=errors)
    reached = [word for text in egress for word in text.split(",")]
    machine = Machine(
        name=chosen,
        source=origin,
        origin=own_file(chosen),
        network=mode,
        links=linked,
        publish=read_all(values.parse_publish, publish),
        isolated=isolated,
        egress=() if reached == ["none"] else read_all(values.parse_egress, reached) if reached else None,
        on_demand=on_demand,
        idle_stop=read(values.parse_duration, idle_stop),
        binds=read_all(values.parse_bind, [_absolute(bind) for bind in binds]),
        packages=tuple(
            dict.fromkeys(read_all(values.parse_package, [word for text in packages for word in text.split(",")]))
        ),
        mirror=url,
        variant=read(values.parse_variant, variant, "minbase"),
        bootstrapper=read(values.parse_bootstrapper, bootstrapper, "auto"),
        keyring=read(values.parse_keyring, os.path.abspath(os.path.expanduser(keyring)) if keyring else None),
        checksum=read(values.parse_checksum, checksum),
        insecure=insecure,
        storage=read(values.parse_storage, storage, "auto"),
        disk=read(values.parse_disk, disk),
        ephemeral=ephemeral,
        memory=read(values.parse_memory, memory),
        cpus=read(values.parse_cpus, cpus),
        hostname=read(values.parse_hostname, hostname),
        ssh_keys=tuple(key for keys in read_all(_read_keys, ssh_keys) for key in keys),
        autostart=autostart,
        **read_settings(settings or {}, errors),
    )
    errors += check_machine(machine)
    raise_all(errors)
    return machine


def _default_name(source: Source) -> str:
    name = source.machine_name()
    if name is None:
        raise InvalidValue(f"a machine made of {source} needs a name", hint=f"machctl create {source} NAME")
    return name


def _absolute_source(text: str) -> str:
    """Give a source with the home and the working directory of whoever typed it filled in."""
    kind, _, reference = text.partition(":")
    plain = kind in {"tar", "raw", "dir"} and not reference.startswith(REMOTE)
    if reference and (plain or (kind == "oci" and reference.startswith((".", "~", "/")))):
        return f"{kind}:{os.path.abspath(os.path.expanduser(reference))}"
    return text


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
