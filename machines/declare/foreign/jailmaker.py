# SPDX-License-Identifier: LGPL-2.1-or-later
"""The config of a jail of jailmaker (jlmkr.py, 2.1.1) to keys of a declaration."""

from __future__ import annotations

from machines.declare.foreign.found import Found
from machines.declare.foreign.ini import is_yes, number, words
from machines.declare.foreign.nspawn import read_assignments
from machines.declare.foreign.options import read_options

_RESTARTS = {"no", "on-failure", "always"}
_LIMITS = {"MemoryMax", "CPUQuota", "TasksMax", "Restart"}
_HOOKS = ("pre_start_hook", "post_start_hook", "post_stop_hook")


def is_jail(text: str) -> bool:
    """Tell whether a file is the config of a jail."""
    return any(line.startswith("systemd_nspawn_user_args=") for line in text.splitlines())


def read_jail(text: str, *, where: str, rootfs: str | None) -> Found:
    """Read the config of a jail, whose tree is the directory ``rootfs`` where there is one."""
    found, values = Found(where), _values(text)
    found.set("source", f"dir:{rootfs}" if rootfs else _source(values))
    for key, value in values.items():
        _read(key, value, found)
    settings = read_options(words(values.get("systemd_nspawn_user_args", "")), found)
    read_assignments(settings, found)
    if not any(each.section == "Network" for each in settings):
        # The template unit has -n; jailmaker has not.
        found.values.pop("links", None)
        found.set("network", "host")
    if not any(each.key == "PrivateUsers" for each in settings):
        # Its jails have the host's user ids, and so see files of the host as their own.
        binds = found.values.get("binds")
        if isinstance(binds, list):
            found.values["binds"] = [_as_own(bind) for bind in binds]
        found.leave("no --private-users", "machctl gives every machine user ids of its own")
    return found


def _source(values: dict[str, str]) -> str:
    """What images.linuxcontainers.org calls a distribution, which jailmaker 1 had in one word."""
    distribution, _, release = values.get("initial_rootfs_image", "").partition(" ")
    distribution, release = values.get("distro", distribution), values.get("release", release)
    if distribution in {"arch", "archlinux"}:
        return "arch"
    return f"{distribution or 'debian'}:{release}" if release else distribution or "debian"


def _as_own(bind: str) -> str:
    return bind.removesuffix(",noidmap").removesuffix(":noidmap")


def _read(key: str, value: str, found: Found) -> None:
    if key == "startup":
        found.set("autostart", is_yes(value) is True)
    elif key == "gpu_passthrough_intel" and is_yes(value):
        found.add("devices", "/dev/dri")
    elif key == "gpu_passthrough_nvidia" and is_yes(value):
        found.leave(f"{key}={value}", "machctl does not look for the driver's files; name them in devices and binds")
    elif key == "docker_compatible" and is_yes(value):
        found.set("nesting", value=True)
    elif key == "seccomp" and is_yes(value) is False:
        found.leave(f"{key}={value}", "the filter of system calls stays; name those it needs in system-call-filter")
    elif key == "systemd_run_default_args":
        _unit(words(value), found)
    elif key in _HOOKS and value.strip():
        found.leave(f"{key}={value.splitlines()[0]}...", "ExecStartPre= and the like in a drop-in of its unit do that")
    elif key == "initial_setup" and value.strip():
        found.leave(f"{key}={value.splitlines()[0]}...", "its tree is as it was after that")


def _unit(options: list[str], found: Found) -> None:
    """Properties of the unit: those that a machine's has anyway say nothing."""
    for option in options:
        _, _, word = option.partition("--property=")
        key, _, value = word.partition("=")
        percents, count = number(value.removesuffix("%")), number(value)
        if key not in _LIMITS or value in {"", "infinity"}:
            continue
        if key == "MemoryMax":
            found.set("memory", value)
        elif key == "CPUQuota" and percents is not None:
            found.set("cpus", percents / 100)
        elif key == "TasksMax" and count is not None:
            found.set("tasks", count)
        elif key == "Restart" and value in _RESTARTS:
            found.set("restart", value)
        else:
            found.leave(word, "machctl has no word for it")


def _values(text: str) -> dict[str, str]:
    """Read KEY=VALUE; a line that is indented goes on with the value before it (Python's configparser)."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")) or line.startswith("["):
            continue
        if line[:1].isspace() and key:
            found[key] += "\n" + line.strip()
        elif "=" in line:
            key, _, value = line.partition("=")
            key = key.strip()
            found[key] = value.strip()
    return found
