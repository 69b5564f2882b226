# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that can be known to go wrong before the first change, found at once."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.fleet import own_file
from machines.declare.values import parse_publish
from machines.errors import Conflict, MachctlError, NotFound, NotPermitted, Unsupported
from machines.model.base import Base
from machines.model.machine import Machine, Publish
from machines.model.observed import Host
from machines.plan.storage import storage_of
from machines.render import paths

# A minbase tree with what a machine needs takes 250 MB; the tools keep the packages beside it while they work.
FREE_BYTES_MIN = 600 * 1024 * 1024
# What a machine writes while it boots for the first time.
FREE_BYTES_COPY = 32 * 1024 * 1024
BOOTSTRAPPERS: dict[str, tuple[str, ...]] = {
    "debian": ("mmdebstrap", "debootstrap"),
    "ubuntu": ("mmdebstrap", "debootstrap"),
    "arch": ("pacstrap",),
    "fedora": ("dnf", "dnf5"),
}
PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "debootstrap": "debootstrap",
    "pacstrap": "arch-install-scripts pacman-package-manager makepkg archlinux-keyring",
    "dnf": "dnf",
}
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


def check_host(host: Host, *, verb: str) -> list[MachctlError]:
    """Give what keeps machctl from changing anything on this host."""
    if host.euid != 0:
        return [NotPermitted(f"{verb} needs root", hint=f"run it again with sudo: sudo machctl {verb} ...")]
    if not host.booted:
        return [
            Unsupported(
                "systemd is not PID 1 on this host, and machines are its units",
                hint="run machctl on a host that was booted with systemd",
            )
        ]
    if host.machined:
        return [_machined(host.machined)]
    return []


def _machined(state: str) -> MachctlError:
    if state == "masked":
        return Unsupported("systemd-machined is masked", hint="systemctl unmask --now systemd-machined.service")
    if state == "not-found":
        return Unsupported("this host has no systemd-machined", hint="apt install systemd-container")
    return Unsupported(f"systemd-machined is {state}", hint="systemctl status systemd-machined.service says why")


def check_new(machine: Machine, host: Host, declared: Mapping[str, Machine], base: Base | None) -> list[MachctlError]:
    """Give what stands in the way of making ``machine``, that is not there yet, of ``base`` or else of its source."""
    errors = check_host(host, verb="create")
    if errors:
        return errors
    errors += check_taken(machine.name, host, declared)
    errors += check_machine(machine, host, declared)
    errors += check_tree(machine, host, base)
    return errors


def check_machine(machine: Machine, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what of ``machine``'s declaration this host cannot fulfil."""
    errors: list[MachctlError] = [
        Unsupported(f"{tool} is not installed", hint=f"apt install {package}")
        for tool, package in TOOLS.items()
        if tool not in host.tools
    ]
    for bridge in machine.bridges:
        link = host.links.get(bridge)
        if link and link.kind != "bridge":
            errors.append(
                Conflict(f"{bridge} is not a bridge, it is {_article(link.kind)}", hint="give --bridge another name")
            )
    for bind in machine.binds:
        if bind.source in host.missing_binds:
            errors.append(
                NotFound(f"bind {bind}: the host has no {bind.source}", hint=f"make it first: mkdir -p {bind.source}")
            )
        elif not (bind.read_only or bind.source in host.idmap_paths or bind.source.startswith("/dev/")):
            errors.append(
                Unsupported(
                    f"bind {bind}: the file system of {bind.source} cannot show the machine its files as its own",
                    hint="bind it read-only with :ro, or from a directory on ext4, btrfs, xfs or tmpfs",
                )
            )
    for port in machine.publish:
        problem = _port_taken(machine.name, port, host, declared)
        if problem:
            errors.append(problem)
    return errors


def check_taken(name: str, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what there is already of the name that a new machine is to have."""
    suggestion = next(
        f"{name[:60]}{number}"
        for number in range(2, 10000)
        if f"{name[:60]}{number}" not in {*host.trees, *declared, *host.running}
    )
    hint = f"choose another name, such as {suggestion}, or remove it first: machctl rm {name}"
    if name in declared:
        if name not in host.trees:
            return [
                Conflict(
                    f"machine {name} is declared in {declared[name].origin} already, without a tree",
                    hint=f"make it with: machctl apply {name}; or forget it: machctl rm {name}",
                )
            ]
        return [Conflict(f"machine {name} exists already (declared in {declared[name].origin})", hint=hint)]
    if name in host.trees:
        return [Conflict(f"machine {name} exists already: {host.trees[name].path}", hint=hint)]
    if name in host.running:
        return [Conflict(f"a machine {name} is running already", hint=f"choose another name, such as {suggestion}")]
    if name in host.snapshots:
        return [Conflict(f"there are snapshots of an earlier {name}", hint="machctl gc removes them")]
    settings = paths.settings_file(name)
    text = host.files.get(settings)
    if text is not None and paths.owner(settings, text) is None:
        return [
            Conflict(
                f"{settings} is there already and machctl did not write it",
                hint=f"move it away, or choose another name, such as {suggestion}",
            )
        ]
    if own_file(name) in host.files:
        return [Conflict(f"{own_file(name)} is there already", hint="correct or remove that file")]
    return []


def _port_taken(name: str, port: Publish, host: Host, declared: Mapping[str, Machine]) -> MachctlError | None:
    free = f"publish another port of the host: --publish {{}}:{port.guest}"
    for other in declared.values():
        if other.name != name and any(port.collides(theirs) for theirs in other.publish):
            return Conflict(
                f"port {port.host} belongs to machine {other.name}",
                hint=free.format(_free_port(port.host, host, declared)),
            )
    for record in host.records.values():
        claimed = [parse_publish(text) for text in record.ports]
        if record.name not in {name, *declared} and any(port.collides(theirs) for theirs in claimed):
            return Conflict(
                f"port {port.host} belongs to machine {record.name}, which is being made",
                hint=free.format(_free_port(port.host, host, declared)),
            )
    if _is_machines_own(port, host, declared):
        # Whose it is by declaration has been looked at above; one that lost it gives it up first.
        return None
    # A socket on :: takes IPv4 connections as well, unless it says it does not (ipv6(7), IPV6_V6ONLY).
    every = {"::"} if port.address and ":" in port.address else {"::", "0.0.0.0"}
    for listener in host.listeners:
        if listener.port == port.host and (port.address is None or listener.address in {*every, port.address}):
            return Conflict(
                f"port {port.host} is taken: a process of this host listens on it",
                hint=f"ss -ltnp 'sport = {port.host}' names it; or "
                + free.format(_free_port(port.host, host, declared)),
            )
    return None


def _is_machines_own(port: Publish, host: Host, declared: Mapping[str, Machine]) -> bool:
    """Tell whether what listens on a port is an active socket unit of a machine, by declaration or by record."""
    ports = [(name, theirs) for name, machine in declared.items() for theirs in machine.publish]
    ports += [(name, parse_publish(text)) for name, record in host.records.items() for text in record.ports]
    return any(
        theirs.host == port.host and paths.port_unit(name, theirs, "socket") in host.active for name, theirs in ports
    )


def _free_port(near: int, host: Host, declared: Mapping[str, Machine]) -> int:
    taken = {listener.port for listener in host.listeners}
    taken |= {port.host for machine in declared.values() for port in machine.publish}
    return next((port for port in range(near + 1, 65536) if port not in taken), 1024)


def check_disk(machine: Machine, host: Host) -> list[MachctlError]:
    """Give why the disk of ``machine`` cannot be limited, if it is to be."""
    driver = storage_of(machine, host)
    if machine.disk is None or driver == "btrfs":
        return []
    why = "a raw image has the size it has" if driver == "raw" else f"{driver or 'its'} storage knows no limits"
    return [
        Unsupported(
            f"disk limit of {machine.name}: {why}",
            hint="machctl pool create --btrfs SIZE makes a pool that does, or leave it out",
        )
    ]


def check_tree(machine: Machine, host: Host, base: Base | None, *, trees: int = 1) -> list[MachctlError]:
    """Give what keeps the tree of ``machine`` from being made, of ``base`` or of its source, as one of ``trees``."""
    errors = check_disk(machine, host)
    driver = storage_of(machine, host)
    needed = 0
    if base is None:
        tools = BOOTSTRAPPERS.get(machine.source.kind, ())
        if machine.bootstrapper != "auto":
            tools = (machine.bootstrapper,)
        if tools and not any(tool in host.tools for tool in tools):
            errors.append(
                Unsupported(f"{' or '.join(tools)} is not installed", hint=f"apt install {PACKAGES[tools[0]]}")
            )
        needed = FREE_BYTES_MIN if machine.source.bootstrapped else FREE_BYTES_COPY
    if driver not in {"btrfs", "overlay", "reflink"}:
        needed += (base.size if base else FREE_BYTES_MIN) * trees
    needed = max(needed, FREE_BYTES_COPY)
    if host.free_bytes < needed:
        what = "a new tree needs" if trees == 1 else f"{trees} new trees need"
        errors.append(
            MachctlError(
                f"{host.pool} has {host.free_bytes // 2**20} MB free; {what} {needed // 2**20} MB",
                hint="make room there, for example with: machctl rm, machctl image prune",
            )
        )
    return errors


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind or 'physical'} link"
