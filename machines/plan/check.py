# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that can be known to go wrong before the first change, found at once."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.fleet import own_file
from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, Unsupported
from machines.model.base import Base
from machines.model.machine import Machine
from machines.model.names import check_label
from machines.model.observed import Host
from machines.model.secret import Secret
from machines.plan.check_host import PACKAGES, TOOLS, check_host
from machines.plan.check_links import check_links
from machines.plan.place import place
from machines.plan.ports import check_ports
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
    errors += check_links(machine, host, declared)
    if machine.binds or machine.has_settings:
        from machines.plan.check_settings import check_binds, check_settings

        errors += [*check_binds(machine, host), *check_settings(machine, host)]
    errors += [
        NotFound(f"secret {secret.name} of {machine.name}: {_where(secret)}", hint=_keep(secret))
        for secret in machine.secrets
        if str(secret) not in host.secrets
    ]
    return errors + _check_place(machine, host, declared)


def _where(secret: Secret) -> str:
    if secret.kind == "file":
        return f"{secret.reference} is no file of this host"
    return f"nothing is kept as {secret.reference}"


def _keep(secret: Secret) -> str:
    return f"keep it: machctl secret set {secret.reference}" if secret.kind == "credential" else "write that file"


def _check_place(machine: Machine, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """What of its chosen addresses and its ports it cannot have."""
    # Whether there are free ones planning says.
    if not machine.publish and not any(link.addresses for link in machine.links):
        return []
    try:
        placement = place(machine, host)
    except Conflict as error:
        return [error]
    return check_ports(machine, host, declared, placement)


def check_made_name(name: str, host: Host) -> list[MachctlError]:
    """Give why a machine that is declared is not made under its name; one that is there keeps it."""
    if name in host.trees or name in host.records:
        return []
    try:
        check_label(name)
    except InvalidValue as error:
        return [error]
    return []


def check_taken(name: str, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what there is already of the name that a new machine is to have."""
    suggestion = next(
        f"{name[:59]}{number}"
        for number in range(2, 10000)
        if f"{name[:59]}{number}" not in {*host.trees, *declared, *host.running}
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
        forget = f"machctl rm {name} removes them" if name in host.records else "machctl gc removes them"
        if name in host.records:
            from machines.plan.prune import PRUNED, had_back

            forget = (f"{had_back(name, 'SNAPSHOT')}\n" if host.records[name].intent == PRUNED else "") + forget
        return [Conflict(f"there are snapshots of an earlier {name}", hint=forget)]
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
