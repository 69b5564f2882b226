# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines need of this host: each finding with its remedy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.operations.doctor.finding import Finding
from machines.operations.doctor.networks import examine_networking, examine_networks
from machines.plan.check import FREE_BYTES_MIN
from machines.plan.check_host import TOOLS

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Every booted machine holds about five inotify instances of root; the kernel's 128 are used up by 24 machines.
INOTIFY_INSTANCES = 1024
INOTIFY_WATCHES = 65536
# Each machine's services have a session keyring each (kernel.keys, Documentation/security/keys/core.rst).
MAX_KEYS = 2000


def examine(host: Host) -> list[Finding]:
    """Look at everything; nothing is changed."""
    return [
        _root(),
        _systemd(host),
        _machined(host),
        *_tools(host),
        *examine_networking(host),
        *_limits(host),
        _disk(host),
        _storage(host),
        *examine_networks(host),
    ]


def _root() -> Finding:
    if os.geteuid() == 0:
        return Finding("root", "ok", "running as root")
    return Finding("root", "warning", "not running as root: nothing can be changed, not all can be seen", "use sudo")


def _systemd(host: Host) -> Finding:
    if not host.booted():
        return Finding("systemd", "bad", "systemd is not PID 1", "boot this host with systemd")
    version = systemd_version(host)
    if version < 252:
        return Finding("systemd", "bad", f"systemd {version} is too old", "systemd 252 is needed (Debian 12)")
    return Finding("systemd", "ok", f"systemd {version}")


def systemd_version(host: Host) -> int:
    """Give the major version of the host's systemd, 0 where there is none."""
    if not host.tools.which("systemctl"):
        return 0
    words = host.tools.run(["systemctl", "--version"], check=False).stdout.split()
    digits = (
        "".join(character for character in words[1] if character.isdigit() or character == ".") if words[1:] else ""
    )
    return int(digits.split(".")[0] or 0)


def _machined(host: Host) -> Finding:
    state = host.facts.machined_state()
    if state == "masked":
        return Finding(
            "machined", "bad", "systemd-machined is masked", "systemctl unmask --now systemd-machined.service"
        )
    if state:
        return Finding("machined", "bad", "there is no systemd-machined", "apt install systemd-container")
    if not host.booted():
        return Finding("machined", "bad", "systemd-machined cannot run without systemd", "boot this host with systemd")
    if host.units.states(["systemd-machined.service"]).get("systemd-machined.service") == "failed":
        return Finding("machined", "bad", "systemd-machined failed", "systemctl status systemd-machined.service")
    return Finding("machined", "ok", "systemd-machined can be reached")


def _tools(host: Host) -> list[Finding]:
    found = [
        Finding("tools", "bad", f"{tool} is not installed", f"apt install {package}")
        for tool, package in TOOLS.items()
        if not host.tools.which(tool)
    ]
    makers = [tool for tool in ("mmdebstrap", "debootstrap") if host.tools.which(tool)]
    if not makers:
        found.append(Finding("tools", "bad", "no tool to make trees with", "apt install mmdebstrap"))
    elif "mmdebstrap" not in makers:
        found.append(Finding("tools", "warning", "only debootstrap is there: slow", "apt install mmdebstrap"))
    if host.pool.filesystem() == "btrfs" and not host.tools.which("btrfs"):
        found.append(Finding("tools", "bad", "the pool is btrfs and btrfs-progs is missing", "apt install btrfs-progs"))
    return found or [Finding("tools", "ok", f"all there; trees are made by {makers[0]}")]


def _limits(host: Host) -> list[Finding]:
    wanted = {
        "fs.inotify.max_user_instances": INOTIFY_INSTANCES,
        "fs.inotify.max_user_watches": INOTIFY_WATCHES,
        "kernel.keys.maxkeys": MAX_KEYS,
    }
    found = []
    for name, least in wanted.items():
        value = host.facts.sysctl(name)
        # Root's own keys count against another limit (keyrings(7)); inotify's count for everybody.
        if value is not None and value < least and not (name == "kernel.keys.maxkeys" and value >= 200):
            found.append(
                Finding(
                    "limits",
                    "warning",
                    f"{name} is {value}: with many machines the next one fails to boot",
                    f"sysctl -w {name}={least * 8 if 'instances' in name else least}, and in /etc/sysctl.d for good",
                )
            )
    return found or [Finding("limits", "ok", "inotify and keys suffice for many machines")]


def _disk(host: Host) -> Finding:
    free = host.pool.free_bytes()
    text = f"{free / 2**30:.1f} GB free in /var/lib/machines ({host.pool.filesystem()})"
    if free < FREE_BYTES_MIN:
        return Finding("disk", "bad", text, "make room: a new tree needs 600 MB")
    return Finding("disk", "ok", text)


def _storage(host: Host) -> Finding:
    drivers = host.storage.drivers()
    chosen = next(name for name, reason in drivers.items() if not reason)
    others = "; ".join(f"{name}: {reason}" for name, reason in drivers.items() if reason)
    text = f"machines are copied by {chosen}" + (f" ({others})" if others else "")
    if chosen in {"reflink", "copy"}:
        remedy = "machctl pool create --btrfs SIZE makes a pool that copies in no time"
        return Finding(
            "storage", "ok" if chosen == "reflink" else "warning", text, "" if chosen == "reflink" else remedy
        )
    return Finding("storage", "ok", text)
