# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of D-Bus errors as the errors of machctl: the one translator, for both libraries."""

from __future__ import annotations

import os
import re

from machines.errors import (
    Canceled,
    CommandFailed,
    Conflict,
    InvalidValue,
    MachctlError,
    NotFound,
    NotPermitted,
    NotRunning,
    StartedTooOften,
    TimedOut,
    Unsupported,
)

DBUS = "org.freedesktop.DBus.Error."
SYSTEMD = "org.freedesktop.systemd1."
MACHINED = "org.freedesktop.machine1."

_KINDS: dict[str, type[MachctlError]] = {
    DBUS + "AccessDenied": NotPermitted,
    DBUS + "AuthFailed": NotPermitted,
    DBUS + "InteractiveAuthorizationRequired": NotPermitted,
    DBUS + "InvalidArgs": InvalidValue,
    DBUS + "LimitsExceeded": Conflict,
    DBUS + "NoReply": TimedOut,
    DBUS + "Timeout": TimedOut,
    DBUS + "TimedOut": TimedOut,
    DBUS + "NotSupported": Unsupported,
    DBUS + "UnknownMethod": Unsupported,
    DBUS + "UnknownProperty": Unsupported,
    DBUS + "UnknownInterface": Unsupported,
    DBUS + "PropertyReadOnly": Unsupported,
    DBUS + "FileExists": Conflict,
    DBUS + "FileNotFound": NotFound,
    SYSTEMD + "NoSuchUnit": NotFound,
    SYSTEMD + "LoadFailed": NotFound,
    SYSTEMD + "UnitExists": Conflict,
    SYSTEMD + "UnitMasked": Conflict,
    SYSTEMD + "TransactionIsDestructive": Conflict,
    SYSTEMD + "ShuttingDown": Conflict,
    MACHINED + "NoSuchMachine": NotRunning,
    MACHINED + "NoSuchImage": NotFound,
    MACHINED + "MachineExists": Conflict,
    "System.Error.EACCES": NotPermitted,
    "System.Error.EPERM": NotPermitted,
    "System.Error.EBUSY": Conflict,
    "System.Error.EEXIST": Conflict,
    "System.Error.ENOENT": NotFound,
    "System.Error.ETIMEDOUT": TimedOut,
    "System.Error.EHOSTDOWN": NotRunning,
}

_SERVICES = {
    "org.freedesktop.machine1": ("systemd-machined", "systemd-machined.service", "systemd-container"),
    "org.freedesktop.network1": ("systemd-networkd", "systemd-networkd.service", "systemd"),
    "org.freedesktop.import1": ("systemd-importd", "systemd-importd.service", "systemd-container"),
    "org.freedesktop.systemd1": ("systemd", "", "systemd-sysv"),
    "org.freedesktop.DBus": ("the system bus", "dbus.socket", "dbus"),
}

_ABSENT = {
    DBUS + "ServiceUnknown",
    DBUS + "NameHasNoOwner",
    DBUS + "Spawn.ServiceNotFound",
    DBUS + "Spawn.ExecFailed",
    DBUS + "Spawn.Failed",
}


def translate(name: str, message: str, *, doing: str, service: str = "") -> MachctlError:
    """Give the error that stands for the D-Bus error ``name``; it is not raised here.

    ``doing`` says what was wanted ("start x.service"), ``service`` is the well-known bus name that was called:
    its absence and its being masked become Unsupported with the remedy.
    """
    text = f"cannot {doing}: {_sentence(message) or name}"
    known = _SERVICES.get(service)
    if known is not None and service not in {"org.freedesktop.DBus", "org.freedesktop.systemd1"}:
        # A masked unit is refused by systemd on behalf of dbus-daemon, with the unit's name in the text only; of
        # the alias dbus-org.freedesktop.machine1.service 262 says that it fails to load (EEXIST).
        if "dbus-org." in message and "failed to load" in message:
            return Unsupported(
                f"cannot {doing}: {known[0]} is masked or its unit file is broken",
                hint=f"systemctl unmask {known[1]}; systemctl daemon-reload",
            )
        if name == SYSTEMD + "UnitMasked" or (name in _ABSENT | {DBUS + "NoSuchUnit"} and "masked" in message):
            return Unsupported(f"cannot {doing}: {known[0]} is masked", hint=f"systemctl unmask {known[1]}")
        if name in _ABSENT or (name == SYSTEMD + "NoSuchUnit" and "dbus-org" in message):
            return Unsupported(
                f"cannot {doing}: {known[0]} is not there",
                hint=f"apt install {known[2]}, or see systemctl status {known[1]}",
            )
    kind = _KINDS.get(name)
    if kind is None:
        return Unsupported(text) if name in _ABSENT else CommandFailed(text)
    if kind is NotPermitted:
        return NotPermitted(text, hint="" if os.geteuid() == 0 else "run it as root: sudo machctl ...")
    if kind is TimedOut:
        return TimedOut(text, hint="see systemctl list-jobs, and journalctl -b -p err")
    return kind(text)


def no_bus(message: str) -> Unsupported:
    """Give the error for a host without a system bus, saying whether it is systemd or only the bus that lacks."""
    # sd_booted(3): this directory exists exactly where systemd is PID 1.
    if not os.path.isdir("/run/systemd/system") and "DBUS_SYSTEM_BUS_ADDRESS" not in os.environ:
        return Unsupported(
            "this host was not booted with systemd, but machines are services of systemd",
            hint="use a host whose PID 1 is systemd",
        )
    return Unsupported(
        f"cannot reach the system bus: {_sentence(message)}", hint="systemctl start dbus.socket (apt install dbus)"
    )


def _sentence(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip().rstrip(".")


def job_failed(doing: str, unit: str, result: str) -> MachctlError:
    """Give the error for a job that did not end with "done": its result, or that of its unit, says why."""
    hint = f"journalctl -u {unit} says why"
    if result == "assert":
        # systemd.unit(5), AssertPathIsSymbolicLink=: which one stands in the status alone.
        return CommandFailed(f"cannot {doing}: what {unit} asserts does not hold", hint=f"systemctl status {unit}")
    if result == "timeout":
        return TimedOut(f"cannot {doing}: systemd's own time limit ran out", hint=hint)
    reason = {
        "failed": "it failed",
        "success": "it failed",
        "exit-code": "its main process ended with an error",
        "dependency": "a unit that it needs failed",
        "canceled": "another job came in its way",
        "start-limit-hit": "it was started too often within a short time",
    }.get(result, result)
    kinds: dict[str, type[CommandFailed]] = {"canceled": Canceled, "start-limit-hit": StartedTooOften}
    return kinds.get(result, CommandFailed)(f"cannot {doing}: {reason}", hint=hint)
