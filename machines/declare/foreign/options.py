# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of systemd-nspawn(1) in the words of systemd.nspawn(5)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from machines.declare.foreign.found import Found
from machines.declare.foreign.ini import Assignment

_SETTINGS = {
    "--bind": ("Files", "Bind"),
    "--bind-ro": ("Files", "BindReadOnly"),
    "--tmpfs": ("Files", "TemporaryFileSystem"),
    "--overlay": ("Files", "Overlay"),
    "--overlay-ro": ("Files", "OverlayReadOnly"),
    "--inaccessible": ("Files", "Inaccessible"),
    "--read-only": ("Files", "ReadOnly"),
    "--volatile": ("Files", "Volatile"),
    "--private-users-chown": ("Files", "PrivateUsersChown"),
    "--private-users-ownership": ("Files", "PrivateUsersOwnership"),
    "--setenv": ("Exec", "Environment"),
    "--user": ("Exec", "User"),
    "--chdir": ("Exec", "WorkingDirectory"),
    "--capability": ("Exec", "Capability"),
    "--drop-capability": ("Exec", "DropCapability"),
    "--system-call-filter": ("Exec", "SystemCallFilter"),
    "--hostname": ("Exec", "Hostname"),
    "--resolv-conf": ("Exec", "ResolvConf"),
    "--timezone": ("Exec", "Timezone"),
    "--link-journal": ("Exec", "LinkJournal"),
    "--notify-ready": ("Exec", "NotifyReady"),
    "--private-users": ("Exec", "PrivateUsers"),
    "--no-new-privileges": ("Exec", "NoNewPrivileges"),
    "--boot": ("Exec", "Boot"),
    "--ephemeral": ("Exec", "Ephemeral"),
    "--private-network": ("Network", "Private"),
    "--network-veth": ("Network", "VirtualEthernet"),
    "--network-veth-extra": ("Network", "VirtualEthernetExtra"),
    "--network-bridge": ("Network", "Bridge"),
    "--network-zone": ("Network", "Zone"),
    "--network-macvlan": ("Network", "MACVLAN"),
    "--network-ipvlan": ("Network", "IPVLAN"),
    "--network-interface": ("Network", "Interface"),
    "--port": ("Network", "Port"),
}
_SHORT = {"-n": "--network-veth", "-b": "--boot", "-x": "--ephemeral", "-p": "--port", "-E": "--setenv", "-u": "--user"}
# Those that take a value only behind a "=".
_OPTIONAL = {
    "--boot", "--ephemeral", "--private-network", "--network-veth", "--read-only", "--volatile", "--private-users",
    "--private-users-chown",
}  # fmt: skip
# What the template unit says as well, or only counts for who starts it by hand.
_UNIT = {"--quiet", "-q", "--keep-unit", "--settings", "--machine", "-M", "--directory", "-D", "--register"}


def read_options(words: Sequence[str], found: Found) -> list[Assignment]:
    """Give what options of nspawn say as its settings do; what settings cannot say is noted in ``found``."""
    settings: list[Assignment] = []
    left = list(words)
    while left:
        option, equals, value = left.pop(0).partition("=")
        option = _SHORT.get(option, option)
        if option in _UNIT:
            if option in {"-M", "-D"} and left and not equals:
                left.pop(0)
            continue
        if option == "-U":
            option, value = "--private-users", "pick"
        if option not in _SETTINGS:
            found.leave(f"{option}{equals}{value}", "machctl has no word for it")
            continue
        if not equals and option not in _OPTIONAL and left:
            value = left.pop(0)
        if option == "--setenv":
            # As a setting it is split at blanks, which the shell's words are no more.
            value = shlex.quote(value)
        for each in value.split(",") if option in {"--capability", "--drop-capability"} else [value or "yes"]:
            settings.append(Assignment(*_SETTINGS[option], each))
    return settings
