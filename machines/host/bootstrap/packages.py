# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a tree needs to be a machine, in the words of its distribution; pure.

That is: to boot, to be entered over D-Bus (OpenMachineShell needs dbus and a PAM session), to have names and
addresses.
"""

from __future__ import annotations

_DEBIAN = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "systemd-resolved",
    # Without it resolved takes no host's name for its own, and all machines on a LAN are "linux" (LLMNR).
    "libidn2-0",
    "libnss-resolve",
    "libnss-myhostname",
    "iproute2",
    "ca-certificates",
)

# resolved is in the package systemd of these.
_WITH_RESOLVED = {"debian": {"buster", "bullseye"}, "ubuntu": {"bionic", "focal", "jammy", "kinetic"}}

_FEDORA = (
    "fedora-release",
    # glibc wants one language pack; without weak dependencies dnf takes any, and they are large.
    "glibc-minimal-langpack",
    "systemd",
    "systemd-networkd",
    "systemd-resolved",
    "dbus-broker",
    "util-linux",
    "passwd",
    "iproute",
    "dnf",
)

SSH = {"arch": "openssh"}


def base_packages(distribution: str, suite: str) -> tuple[str, ...]:
    """Give what is installed into every tree of ``distribution``."""
    if distribution == "arch":
        return ("base",)
    if distribution == "fedora":
        return _FEDORA
    without = {"systemd-resolved"} if suite in _WITH_RESOLVED.get(distribution, ()) else set()
    return tuple(name for name in _DEBIAN if name not in without)


def ssh_package(distribution: str) -> str:
    """Give the package with sshd(8)."""
    return SSH.get(distribution, "openssh-server")
