# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may use and how it is held: one value each, checked and typed, and all of them together."""

from __future__ import annotations

import posixpath
import re

from machines.declare.reader import nearest
from machines.declare.values import format_memory, parse_size, parse_whole
from machines.errors import InvalidValue, MachctlError
from machines.model.machine import Machine
from machines.model.settings import Device, Tmpfs

# A boot of Debian has some thirty processes at once.
TASKS_MIN = 32
TMPFS_MIN = 64 * 1024
RESTARTS = ("no", "on-failure", "always")
VOLATILES = ("no", "yes", "state", "overlay")
# These are what nspawn mounts itself, or what a machine cannot do without.
_NOT_TMPFS = ("/", "/usr", "/etc", "/proc", "/sys", "/dev", "/run")

CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""Those of capabilities(7), without CAP_."""

CALL_GROUPS = tuple(
    f"@{name}"
    for name in (
        "aio", "basic-io", "chown", "clock", "cpu-emulation", "debug", "default", "file-system", "io-event", "ipc",
        "keyring", "known", "memlock", "module", "mount", "network-io", "obsolete", "pkey", "privileged", "process",
        "raw-io", "reboot", "resources", "sandbox", "setuid", "signal", "swap", "sync", "system-service", "timer",
    )
)  # fmt: skip
"""Groups of system calls (systemd.exec(5), SystemCallFilter=)."""

_DEVICE = r"/dev/[A-Za-z0-9/_.:+@,=~-]+"


def parse_swap(text: str) -> int:
    """Read an amount of swap such as ``1G``, or 0 for none. Raises InvalidValue."""
    return parse_size(text, "swap")


def parse_weight(text: str) -> int:
    """Read a weight from 1 to 10000 (CPUWeight= in systemd.resource-control(5)). Raises InvalidValue."""
    return parse_whole(text, 1, 10000, what="a weight", hint="weights go from 1 to 10000; 100 is what the others have")


def parse_tasks(text: str) -> int:
    """Read a number of tasks, threads counted (TasksMax=). Raises InvalidValue."""
    hint = f"a machine needs at least {TASKS_MIN} to boot; as in 512"
    return parse_whole(text, TASKS_MIN, 2**22, what="a number of tasks", hint=hint)


def parse_replicas(text: str) -> int:
    """Read how many replicas may be away at one time, one at least. Raises InvalidValue."""
    return parse_whole(text, 1, 9999, what="a number of replicas", hint="as in 1: one after the other")


def parse_restart(text: str) -> str:
    """Read when a machine that ended is started again (Restart= in systemd.service(5)). Raises InvalidValue."""
    if text not in RESTARTS:
        raise InvalidValue(f"{text!r} is not a restart policy", hint=f"use one of {', '.join(RESTARTS)}")
    return text


def parse_volatile(text: str) -> str:
    """Read what of the tree is forgotten at each stop (systemd-nspawn(1), --volatile=). Raises InvalidValue."""
    if text not in VOLATILES:
        raise InvalidValue(f"{text!r} is not a way to be volatile", hint=f"use one of {', '.join(VOLATILES)}")
    return "" if text == "no" else text


def parse_device(text: str) -> Device:
    """Read ``/dev/NODE[:ACCESS]``, the access being of r, w and m (DeviceAllow=). Raises InvalidValue."""
    path, colon, access = text.rpartition(":")
    # The names of nodes may have colons too: /dev/serial/by-path/pci-0000:00:14.0.
    if not colon or not access or not set(access) <= set("rwm"):
        path, access = text, "rw"
    if not re.fullmatch(_DEVICE, path) or path.endswith((":", "/")) or ".." in path.split("/"):
        raise InvalidValue(
            f"{text!r} is not a device", hint="write the node, as in /dev/fuse or /dev/dri/renderD128:rw"
        )
    return Device(posixpath.normpath(path), "".join(letter for letter in "rwm" if letter in access))


def parse_capability(text: str) -> str:
    """Read the name of a capability (capabilities(7)), or ``all``. Raises InvalidValue."""
    name = text.strip().lower().removeprefix("cap_")
    if name != "all" and name not in CAPABILITIES:
        raise InvalidValue(f"{text!r} is not a capability", hint=nearest(name, CAPABILITIES) or "as in net_admin")
    return name


def parse_call(text: str) -> str:
    """Read a system call or a group of them, forbidden by a ~ in front (SystemCallFilter=). Raises InvalidValue."""
    word = text.removeprefix("~")
    if word.startswith("@") and word not in CALL_GROUPS:
        hint = nearest(word, CALL_GROUPS) or "systemd-analyze syscall-filter lists them"
        raise InvalidValue(f"{text!r} is not a group of system calls", hint=hint)
    if not re.fullmatch(r"@?[a-z_][a-z0-9_-]*", word):
        raise InvalidValue(f"{text!r} is not a system call", hint="as in keyctl or @mount; ~bpf forbids that one")
    return text


def parse_tmpfs(text: str) -> Tmpfs:
    """Read ``PATH[:SIZE]`` of a file system in memory. Raises InvalidValue."""
    path, colon, size = text.partition(":")
    form = "write PATH or PATH:SIZE, as in /tmp:64M"
    if not path.startswith("/") or path != path.strip() or not path.isprintable() or ".." in path.split("/"):
        raise InvalidValue(f"tmpfs {text!r}: {path!r} is not an absolute path", hint=form)
    path = posixpath.normpath("/" + path.lstrip("/"))
    if path in _NOT_TMPFS:
        raise InvalidValue(f"tmpfs {text!r} would cover what the machine runs by", hint="one below it can be in memory")
    found = parse_size(size, "memory") if colon else None
    if found is not None and found < TMPFS_MIN:
        raise InvalidValue(f"tmpfs {text!r} has {found} bytes", hint="write the unit too: /tmp:64M")
    return Tmpfs(path, found)


def check_settings(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with a machine's settings taken together, each being right by itself."""
    errors: list[MachctlError] = []
    name = machine.name
    if machine.memory_high and machine.memory and machine.memory_high > machine.memory:
        errors.append(
            InvalidValue(
                f"memory-high of {name} is more than its memory", hint="it slows down before the limit is reached"
            )
        )
    if both := sorted({*machine.capabilities} & {*machine.drop_capabilities}):
        errors.append(InvalidValue(f"capability {both[0]} of {name} is both given and taken", hint="leave one out"))
    roots = {
        "ephemeral": machine.ephemeral,
        "read-only": machine.read_only,
        f"volatile ({machine.volatile})": machine.volatile,
    }
    if len(given := [word for word, value in roots.items() if value]) > 1:
        errors.append(
            InvalidValue(f"{name} cannot be {' and '.join(given)} at once", hint="keep the one that says what you want")
        )
    if machine.restart_delay is not None and machine.restart == "no":
        errors.append(
            InvalidValue(f"restart-delay of {name} says when, and restart says never", hint='restart = "on-failure"')
        )
    if machine.environment and machine.source.kind == "raw" and (machine.read_only or machine.volatile):
        errors.append(
            InvalidValue(
                f"{name} has an image that is not looked into, and in one that it cannot write to no environment",
                hint="leave out its environment, or read-only and volatile",
            )
        )
    return errors


def check_places(machine: Machine) -> list[tuple[str, MachctlError]]:
    """Give the places in the tree of which two things want to be seen, each with the key of the second."""
    given = {
        "binds": [bind.destination for bind in machine.binds],
        "tmpfs": [tmpfs.path for tmpfs in machine.tmpfs],
        "devices": [device.path for device in machine.devices],
    }
    first: dict[str, str] = {}
    found: dict[str, tuple[str, MachctlError]] = {}
    for key, places in given.items():
        for index, place in enumerate(places):
            if place not in first:
                first[place] = key
            elif place not in found:
                by = f"by {key}" if first[place] == key else f"by {first[place]} and {key}"
                said = f"{place} of {machine.name} is given twice, {by}"
                found[place] = (f"{key}[{index}]", InvalidValue(said, hint="leave one out"))
    return list(found.values())


def write_swap(size: int) -> int | str:
    """Give an amount of swap as a file has it."""
    return format_memory(size) if size else 0


def write_number(value: int) -> int:
    """Give a number as a file has it."""
    return value
