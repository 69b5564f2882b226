# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forwarding in the kernel, turned on without taking the host its routes (Documentation/networking/ip-sysctl.rst)."""

from __future__ import annotations

import contextlib
import os

from machines.host.files import read_text

_IPV6 = "/proc/sys/net/ipv6/conf"


def sysctl(name: str) -> int | None:
    """Give a number from /proc/sys, None where the kernel has no such key.

    Slashes and dots change places where an interface has a dot in its name (sysctl.d(5)).
    """
    text = read_text(_path(name))
    return int(text.split()[0]) if text and text.split() else None


def set_sysctl(name: str, value: int) -> None:
    """Set a number in /proc/sys where it is another; a read-only one is left (doctor names it)."""
    if sysctl(name) == value:
        return
    with contextlib.suppress(OSError), open(_path(name), "w", encoding="ascii") as file:
        file.write(str(value))


def forward_ipv6() -> None:
    """Turn on forwarding of IPv6, and have the host go on taking its routes from its routers.

    A host that forwards drops what routers advertised to its links, and takes no more of it, unless accept_ra is 2
    (addrconf_fixup_forwarding() and ipv6_accept_ra() in the kernel's net/ipv6). Where it forwards already, that has
    been decided by somebody else. networkd, where it takes the advertisements itself, goes by its own settings and not
    by these (systemd#37029). Links that come later get what "default" says.
    """
    if sysctl("net/ipv6/conf/all/forwarding") != 0:
        return
    with contextlib.suppress(OSError):
        for link in sorted(os.listdir(_IPV6)):
            here = f"net/ipv6/conf/{link}"
            if link != "all" and sysctl(f"{here}/accept_ra") == 1 and sysctl(f"{here}/forwarding") == 0:
                set_sysctl(f"{here}/accept_ra", 2)
    set_sysctl("net/ipv6/conf/all/forwarding", 1)


def ipv6_enabled() -> bool:
    """Tell whether links of this host can have IPv6 addresses: it can be off in the kernel and by sysctl."""
    return sysctl("net/ipv6/conf/default/disable_ipv6") == 0


def _path(name: str) -> str:
    return f"/proc/sys/{name if '/' in name else name.replace('.', '/')}"
