# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may use and how it is held, as lines of its settings and of the drop-in of its unit.

Loaded for machines that say something of it only (Machine.has_settings).
"""

from __future__ import annotations

from collections.abc import Iterator

from machines.model.machine import Bind, Machine
from machines.model.settings import FUSE, Device, Tmpfs
from machines.render.environment import escape_setting
from machines.render.paths import device_copy, device_directory
from machines.render.placement import Placement

# Whoever makes containers keeps their keys apart (keyrings(7)), which nspawn lets a machine do since 258 only. Not bpf:
# to load such programs takes rights on the host.
NESTING_CALLS = ("add_key", "keyctl", "request_key")
# Where everybody may write, as on any system's (systemd's tmp.mount).
_FOR_ALL = ("/tmp", "/var/tmp")

# What systemd's own services cannot do without in a tree that nobody may write to.
_WRITTEN = ("/var/lib/systemd", "/var/tmp")

_RESTART_SECONDS = 1


def exec_lines(machine: Machine, placement: Placement) -> list[str]:
    """Give what belongs into the section [Exec] of a machine's settings (systemd.nspawn(5))."""
    lines = []
    if machine.volatile == "yes" and not placement.payload:
        # Each boot is its first one, and there is nobody to answer its questions (systemd-firstboot(1)).
        lines.append("Parameters=systemd.firstboot=no")
    if machine.capabilities:
        lines.append(f"Capability={_capabilities(machine.capabilities)}")
    if machine.drop_capabilities:
        lines.append(f"DropCapability={_capabilities(machine.drop_capabilities)}")
    calls = [call for call in machine.system_call_filter if not call.startswith("~")]
    forbidden = [call[1:] for call in machine.system_call_filter if call.startswith("~")]
    if machine.nesting:
        calls += [call for call in NESTING_CALLS if call not in [*calls, *forbidden]]
    if calls:
        lines.append(f"SystemCallFilter={' '.join(calls)}")
    if forbidden:
        # The sign is that of the whole line.
        lines.append(f"SystemCallFilter=~{' '.join(forbidden)}")
    return lines


def file_lines(machine: Machine, placement: Placement) -> list[str]:
    """Give what belongs into the section [Files] of a machine's settings (systemd.nspawn(5))."""
    lines = ["ReadOnly=yes"] if machine.read_only else []
    if machine.volatile:
        lines.append(f"Volatile={machine.volatile}")
    lines += [f"TemporaryFileSystem={escape_setting(tmpfs.path)}{_options(tmpfs)}" for tmpfs in machine.tmpfs]
    if machine.read_only and not placement.payload:
        taken = {*(tmpfs.path for tmpfs in machine.tmpfs), *(bind.destination for bind in machine.binds)}
        places = (Tmpfs(path) for path in _WRITTEN if path not in taken)
        lines += [f"TemporaryFileSystem={tmpfs.path}{_options(tmpfs)}" for tmpfs in places]
    for device in devices_of(machine, placement):
        place = escape_setting(device.path)
        if is_copied(device, placement):
            # Inside, a node that root owns outside belongs to nobody, whom not even root there can help.
            lines.append(f"Bind={escape_setting(device_copy(machine.name, device.path))}:{place}:idmap")
        else:
            lines.append(f"Bind={place}")
    return lines


def unit_lines(machine: Machine, placement: Placement) -> list[str]:
    """Give what belongs into the section [Service] of a machine's drop-in (systemd.service(5))."""
    lines = [*_limits(machine), *_restart(machine), *_devices(machine, placement)]
    layered = machine.ephemeral or machine.volatile == "overlay"
    if placement.uid is not None and layered and not any(_is_unmapped(bind, placement) for bind in machine.binds):
        # nspawn makes the layer over the tree, and so /, the host's root's, where it does not map the owners itself.
        leader = f"leader=$$(sed -n s/^LEADER=//p /run/systemd/machines/{machine.name})"
        owner = f"{placement.uid}:{placement.uid}"
        # By then its first process may have another root: what it is given is the one looked at, and nothing else's.
        root = 'cd -P /proc/$$leader/root/.; if test "$$(stat -fc %%T .)" = overlayfs'
        lines.append(f"ExecStartPost=/bin/sh -ec '{leader}; {root}; then chown {owner} .; fi'")
    return lines


def _is_unmapped(bind: Bind, placement: Placement) -> bool:
    """Tell whether a machine sees a directory of the host as it is, and where it may write."""
    mapping = bind.mapping or ("idmap" if bind.source in placement.idmap_paths else "noidmap")
    return not bind.read_only and mapping == "noidmap"


def devices_of(machine: Machine, placement: Placement) -> list[Device]:
    """Give the devices of a machine, with those that its other settings need and the host has."""
    found = list(machine.devices)
    if machine.nesting and FUSE in placement.devices and all(device.path != FUSE for device in found):
        found.append(Device(FUSE, "rwm"))
    return found


def is_copied(device: Device, placement: Placement) -> bool:
    """Tell whether a machine gets a node of its own: that of the host is not for everybody."""
    node = placement.devices.get(device.path)
    return node is not None and not node.open


def _limits(machine: Machine) -> Iterator[str]:
    """Resource limits beside those that the template has (systemd.resource-control(5))."""
    values = {
        "MemoryHigh": machine.memory_high, "MemorySwapMax": machine.swap, "CPUWeight": machine.cpu_weight,
        "IOWeight": machine.io_weight, "TasksMax": machine.tasks,
    }  # fmt: skip
    return (f"{key}={value}" for key, value in values.items() if value is not None)


def _restart(machine: Machine) -> list[str]:
    if machine.restart == "no":
        return []
    return [f"Restart={machine.restart}", f"RestartSec={machine.restart_delay or _RESTART_SECONDS}"]


def _devices(machine: Machine, placement: Placement) -> Iterator[str]:
    devices = devices_of(machine, placement)
    copied = [device for device in devices if is_copied(device, placement)]
    for device in devices:
        # Making the node takes an m, too; the kernel lets nobody in a user namespace make any.
        access = f"{device.access.removesuffix('m')}m" if device in copied else device.access
        yield f"DeviceAllow={device.path} {access}"
    if copied:
        directory = device_directory(machine.name)
        copies = "".join(f" && cp -aL {device.path} {device_copy(machine.name, device.path)}" for device in copied)
        # A node may have another number after each boot of the host.
        yield f"ExecStartPre=/bin/sh -ec 'rm -rf {directory} && mkdir -pm 700 {directory}{copies}'"
        yield f"ExecStopPost=-/bin/rm -rf {directory}"


def _capabilities(names: tuple[str, ...]) -> str:
    return " ".join(name if name == "all" else f"CAP_{name.upper()}" for name in names)


def _options(tmpfs: Tmpfs) -> str:
    size = [] if tmpfs.size is None else [f"size={tmpfs.size}"]
    options = [*size, *(["mode=1777"] if tmpfs.path in _FOR_ALL else [])]
    return f":{','.join(options)}" if options else ""
