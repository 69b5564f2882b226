# SPDX-License-Identifier: LGPL-2.1-or-later
"""What keeps machctl from changing anything on a host."""

from __future__ import annotations

from machines.errors import MachctlError, NotPermitted, Unsupported
from machines.model.observed import Host

NETWORK_MANAGER = "NetworkManager.service"
FIREWALL_UNIT = "machctl-firewall.service"
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
