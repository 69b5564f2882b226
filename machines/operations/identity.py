# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes a machine itself, and goes when its tree becomes another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# Made by one machine for itself: a second one with the same seed, lease or journal would be taken for it.
_FILES = (
    "/etc/hostname",
    "/etc/machine-info",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/NetworkManager/secret_key",
)
_DIRECTORIES = (
    "/var/lib/systemd/network",
    "/var/lib/systemd/netif",
    "/var/lib/dhcp",
    "/var/lib/dhcpcd",
    "/var/lib/NetworkManager",
)
_SSH = "/etc/ssh"

SSH_KEYS_UNIT = "machctl-ssh-keys.service"
_SSH_KEYS = """\
# Written by machctl: a tree that is copied has no ssh host keys; each machine makes its own.
[Unit]
Description=Make the ssh host keys of this machine
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
"""


def forget(tree: str, host: Host) -> None:
    """Take out of ``tree`` what made it one machine: the next boot makes it another.

    Machine ID, host name, ssh host keys, random seed, DHCP leases, journals; and machctl's own settings for its links.
    """
    guests = host.guests
    # Empty, not missing: without the file systemd takes it for a first boot, and enables all presets (machine-id(5)).
    guests.write_file(tree, "/etc/machine-id", "", mode=0o444)
    # Without a host name the machine is called what nspawn calls it, and follows when it is renamed.
    for path in _FILES:
        guests.remove_file(tree, path)
    for directory in _DIRECTORIES:
        for name in guests.list_directory(tree, directory):
            guests.remove_tree(tree, f"{directory}/{name}")
    for name in guests.list_directory(tree, "/var/log/journal"):
        guests.remove_tree(tree, f"/var/log/journal/{name}")
    for name in guests.list_directory(tree, "/etc/systemd/network"):
        if name.startswith("10-machctl-"):
            guests.remove_file(tree, f"/etc/systemd/network/{name}")
    _forget_ssh_keys(tree, host)


def _forget_ssh_keys(tree: str, host: Host) -> None:
    for name in host.guests.list_directory(tree, _SSH):
        if name.startswith("ssh_host_"):
            host.guests.remove_file(tree, f"{_SSH}/{name}")
    if not host.guests.exists(tree, "/usr/sbin/sshd"):
        return
    # Debian makes the keys when the package is installed, and nobody makes them again (openssh-server.postinst).
    units = "/etc/systemd/system"
    host.guests.write_file(tree, f"{units}/{SSH_KEYS_UNIT}", _SSH_KEYS)
    for server in ("ssh.service", "sshd.service"):
        host.guests.link(tree, f"{units}/{server}.wants/{SSH_KEYS_UNIT}", f"../{SSH_KEYS_UNIT}")
