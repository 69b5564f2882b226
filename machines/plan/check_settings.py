# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a machine's binds, devices and kind of root this host cannot fulfil."""

from __future__ import annotations

from machines.errors import InvalidValue, MachctlError, NotFound, Unsupported
from machines.model.machine import Bind, Machine
from machines.model.observed import Host
from machines.model.settings import Device
from machines.plan.storage import storage_of
from machines.render import paths

# The first nspawn that both maps the owners of a tree and makes parts of it volatile.
_VOLATILE_SINCE = 257

# Without these systemd-networkd gives up a link (it sends and takes LLDP, among others).
_NETWORKD = ("net_admin", "net_raw")


def check_binds(machine: Machine, host: Host) -> list[MachctlError]:
    """Give the binds whose source is not there, or is not to be had with the owners that are asked for."""
    found = (_bind(bind, machine, host) for bind in machine.binds)
    return [error for error in found if error is not None]


def check_settings(machine: Machine, host: Host) -> list[MachctlError]:
    """Give what else cannot be fulfilled."""
    errors = [error for error in (_device(device, machine, host) for device in machine.devices) if error is not None]
    record = host.records.get(machine.name)
    alone = machine.source.kind == "oci" or (record is not None and record.payload is not None)
    needed = sorted({*machine.drop_capabilities} & {*_NETWORKD})
    if needed and machine.links and not alone:
        errors.append(
            InvalidValue(
                f"drop-capabilities of {machine.name}: without {needed[0]} its systemd-networkd sets up no link",
                hint=f"leave {' and '.join(needed)} out, or give it no network",
            )
        )
    # Owners that are fixed in the layer of a tree need no map (systemd#34254).
    mapped = storage_of(machine, host) != "overlay"
    if machine.volatile in {"yes", "state"} and mapped and 0 < host.systemd < _VOLATILE_SINCE:
        errors.append(
            Unsupported(
                f"volatile {machine.volatile!r} of {machine.name} needs systemd {_VOLATILE_SINCE}; this host has "
                f"{host.systemd}, which cannot mount such a tree with the machine's ids",
                hint='volatile = "overlay" works here: all changes are forgotten, those in /usr too',
            )
        )
    return errors


def _bind(bind: Bind, machine: Machine, host: Host) -> MachctlError | None:
    what = f"bind {bind} of {machine.name}"
    if bind.source in host.missing_binds:
        return NotFound(f"{what}: the host has no {bind.source}", hint=f"make it first: mkdir -p {bind.source}")
    if bind.mapping == "noidmap" or bind.source in host.idmap_paths:
        return None
    if not bind.mapping and (bind.read_only or bind.source.startswith("/dev/")):
        return None
    why = host.unmapped.get(bind.source, "the owners of its files cannot be mapped")
    plain = f"{bind.source}:{bind.destination}"
    return Unsupported(
        f"{what}: {bind.source} cannot show the machine its files as its own: {why}",
        hint=f"bind it read-only, {plain}:ro, or as nobody's, {plain}:noidmap; or one that is on ext4, btrfs or xfs",
    )


def _device(device: Device, machine: Machine, host: Host) -> MachctlError | None:
    what = f"device {device} of {machine.name}"
    node = host.devices.get(device.path)
    if node is None:
        return NotFound(f"{what}: the host has no {device.path}", hint=f"ls -l {_directory(device.path)}")
    if node.kind == "directory":
        names = ", ".join(f'"{path}"' for path in node.inside)
        return InvalidValue(
            f"{what} is a directory; each node has to be named",
            hint=f"devices = [{names}]" if names else f"there is none in {device.path}",
        )
    if node.kind == "other":
        return InvalidValue(f"{what} is not a device", hint="show it a file of the host with binds")
    why = host.unmapped.get(paths.DEVICE_PLACE)
    if node.open or why is None:
        return None
    return Unsupported(
        f"{what} is not for everybody, and {paths.STATE_DIRECTORY} cannot hold a node for the machine: {why}",
        hint=f"let everybody use it, by a rule of udev or with chmod a+rw {device.path}",
    )


def _directory(path: str) -> str:
    return path.rpartition("/")[0]
