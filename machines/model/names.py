# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which names systemd and the kernel accept, and the names machctl derives from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from machines.errors import InvalidValue
from machines.model.ids import spread

if TYPE_CHECKING:
    from machines.model.link import Attachment

HOST_NAME_MAX = 64
LABEL_MAX = 63
KEPT_NAME_MAX = 64
IFNAMSIZ = 15

_MACHINE = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
_LINK = r"[A-Za-z0-9_.][A-Za-z0-9_.-]*"
_KEPT = r"[A-Za-z0-9][A-Za-z0-9._-]*"

REMEDY = "use lower-case letters, digits, '-' and '.', 63 characters at most, a letter or digit at both ends"


def is_pattern(word: str) -> bool:
    """Tell whether a word stands for all that match it (glob(7)), and for no name."""
    return any(character in word for character in "*?[")


def is_machine_name(name: str) -> bool:
    """Tell whether machined would accept ``name``: a host name of 64 characters at most (machinectl(1))."""
    return len(name) <= HOST_NAME_MAX and ".." not in name and re.fullmatch(_MACHINE, name) is not None


def check_new_name(name: str) -> str:
    """Give ``name`` back if a machine may be called that from now on: one that others can look up as well.

    Those that were made before may have a longer one (check_declared_name). Raises InvalidValue.
    """
    check_declared_name(name)
    check_label(name)
    return name


def check_label(name: str) -> None:
    """Raise InvalidValue for a name that nobody could look up: a label of DNS has 63 at most (RFC 1035, 2.3.4)."""
    for label in name.split("."):
        if len(label) > LABEL_MAX:
            raise InvalidValue(
                f"{_shown(name)} has {len(label)} characters without a dot; DNS takes {LABEL_MAX}, "
                "and machines know each other by name",
                hint=f"shorten it, for example to {label[:LABEL_MAX].rstrip('-')}",
            )


def check_declared_name(name: str) -> str:
    """Give ``name`` back if a machine may be declared under it.

    Host names are not told apart by case (RFC 4343), so that of a new machine has to be lower case; machines that
    others made may be called as machined lets them. Raises InvalidValue.
    """
    if not is_machine_name(name):
        raise InvalidValue(f"{_shown(name)} is not a machine name", hint=REMEDY)
    if name != name.lower():
        raise InvalidValue(
            f"{_shown(name)} is not a machine name: host names know no upper case",
            hint=f"call it {name.lower()}",
        )
    return name


def check_known_name(name: str) -> str:
    """Give ``name`` back if a machine can have it at all. Raises InvalidValue."""
    if not is_machine_name(name):
        raise InvalidValue(f"{_shown(name)} is not a machine name", hint=REMEDY)
    return name


def check_link_name(name: str, what: str = "bridge") -> str:
    """Give ``name`` back if the kernel and systemd accept it for a link (IFNAMSIZ, net/core/dev.c dev_valid_name)."""
    if len(name) > IFNAMSIZ:
        raise InvalidValue(
            f"{what} name {_shown(name)} has {len(name)} characters; the kernel takes {IFNAMSIZ}",
            hint=f"shorten it, for example to {name[:IFNAMSIZ]}",
        )
    if not re.fullmatch(_LINK, name) or name in {".", "..", "all", "default"} or name.isdigit():
        raise InvalidValue(
            f"{_shown(name)} is not a {what} name",
            hint=f"use letters, digits, '_', '-' and '.', {IFNAMSIZ} characters at most, as in br0",
        )
    return name


def check_kept_name(name: str, *, what: str) -> str:
    """Give ``name`` back if an image or a snapshot (``what``) may be called that. Raises InvalidValue."""
    if not re.fullmatch(_KEPT, name):
        raise InvalidValue(
            f"{_shown(name)} is not the name of {what}",
            hint=f"use letters, digits, '-', '_' and '.', {KEPT_NAME_MAX} characters at most, a letter or digit first",
        )
    if len(name) > KEPT_NAME_MAX:
        raise InvalidValue(
            f"{_shown(name)} has {len(name)} characters; the name of {what} may have {KEPT_NAME_MAX}",
            hint=f"shorten it, for example to {name[:KEPT_NAME_MAX]}",
        )
    return name


def machine_lock(name: str) -> str:
    """Give the name of the lock of one machine."""
    return f"machine-{name}"


def waiting_lock(name: str) -> str:
    """Give the name of the lock of one machine that is to be probed though somebody has its other one."""
    return f"waiting-{name}"


def machine_unit(name: str) -> str:
    """Give the unit of a machine; a machine name needs no escaping in an instance name."""
    return f"systemd-nspawn@{name}.service"


def bridge_unit(bridge: str) -> str:
    """Give the unit of units/ that sees to it that ``bridge`` is there."""
    return f"machctl-bridge@{bridge}.service"


def health_timer(interval: int) -> str:
    """Give the timer of units/ by which machines are probed every ``interval`` seconds."""
    return f"machctl-health@{interval}.timer"


def health_unit(interval: int) -> str:
    """Give the unit of units/ that probes all machines that run and are to be probed every ``interval`` seconds."""
    return f"machctl-health@{interval}.service"


def update_timer(name: str) -> str:
    """Give the timer of units/ by which the packages of a machine are upgraded."""
    return f"machctl-update@{name}.timer"


def mount_unit(path: str) -> str:
    """Give the unit of a mount point, as ``systemd-escape --path --suffix=mount`` does (systemd.unit(5))."""
    words = path.strip("/")
    escaped = "".join(
        "-"
        if character == "/"
        else character
        if character.isalnum() or character in ":_."
        else f"\\x{ord(character):02x}"
        for character in words
    )
    return f"{escaped}.mount"


def extra_link(name: str, index: int) -> str:
    """Give the host's end of a machine's veth number ``index`` (1 and up), which VirtualEthernetExtra= lets us name."""
    plain = f"vb{index}-{name}"
    if len(plain) <= IFNAMSIZ:
        return plain
    return f"vb{index}-{spread(name):08x}"


def own_link(name: str) -> str:
    """Give the host's end of a machine's veth to the host: as nspawn calls it where that is short enough."""
    plain = f"ve-{name}"
    if len(plain) <= IFNAMSIZ:
        return plain
    return f"ve-{spread(name):08x}"


def link_network(link: Attachment, name: str) -> str | None:
    """Give the network that a link of machine ``name`` is in: its bridge, or the veth itself; None for those outside.

    A zone is a bridge that systemd-nspawn(1) calls vz-ZONE.
    """
    match link.kind:
        case "bridge":
            return link.target
        case "zone":
            return f"vz-{link.target}"
        case "veth":
            return own_link(name)
        case _:
            return None


def _shown(name: str) -> str:
    if not name:
        return "the empty name"
    return repr(name if len(name) <= 80 else name[:77] + "...")
