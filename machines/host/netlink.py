# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of pyroute2: making and removing bridges, and waiting for links and addresses."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from machines.errors import MachctlError, NotRunning, TimedOut
from machines.host.netns import in_namespace
from machines.host.sysctl import set_sysctl

# rtnetlink(7)
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
# in6_addr_gen_mode of if_link.h: what link-local address a link gives itself.
_EUI64, _NONE = 0, 1
_IFA_F_NODAD = 0x02
_RT_SCOPE_UNIVERSE = 0


def make_bridge(name: str, addresses: Sequence[str], *, mtu: int | None = None) -> None:
    """Make a bridge, give it ``addresses`` and no others, and set it up; what is there already stays (rtnetlink(7)).

    ``addresses`` have their prefixes. Raises MachctlError with the kernel's reason.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            if not route.link_lookup(ifname=name):
                route.link("add", ifname=name, kind="bridge")
            index = route.link_lookup(ifname=name)[0]
            # Before it is up: a machine must not be able to give the host a default route.
            set_sysctl(f"net/ipv6/conf/{name}/accept_ra", 0)
            # The kernel looks for a machine that a packet is passed on to with its link-local address, and at once.
            with_ipv6 = any(":" in address for address in addresses)
            set_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", _EUI64 if with_ipv6 else _NONE)
            set_sysctl(f"net/ipv6/conf/{name}/accept_dad", 0)
            if mtu is not None:
                route.link("set", index=index, mtu=mtu)
            route.link("set", index=index, state="up")
            _set_addresses(route, index, addresses)
        except NetlinkError as error:
            raise MachctlError(
                f"bridge {name} could not be made: {os.strerror(error.code)}", hint="ip link shows what is there"
            ) from error


def _set_addresses(route: Any, index: int, addresses: Sequence[str]) -> None:
    for address in addresses:
        own, _, length = address.partition("/")
        # Nobody else can have it, and without a machine on the bridge looking for that would never end.
        flags = {"flags": _IFA_F_NODAD, "family": socket.AF_INET6} if ":" in own else {}
        route.addr("replace", index=index, address=own, prefixlen=int(length), **flags)
    for found in route.get_addr(index=index):
        own = f"{found.get_attr('IFA_ADDRESS')}/{found['prefixlen']}"
        if found["scope"] == _RT_SCOPE_UNIVERSE and own not in addresses:
            route.addr("del", index=index, address=found.get_attr("IFA_ADDRESS"), prefixlen=found["prefixlen"])


def remove_link(name: str) -> None:
    """Remove a link; none is fine. Raises MachctlError with the kernel's reason."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            for index in route.link_lookup(ifname=name):
                route.link("del", index=index)
        except NetlinkError as error:
            raise MachctlError(
                f"link {name} could not be removed: {os.strerror(error.code)}", hint=f"ip link del {name}"
            ) from error


def wait_until(found: Callable[[], bool], *, timeout: float, what: str) -> None:
    """Wait for ``found`` to hold, asking again at every change of a link or an address of the host.

    Raises TimedOut after ``timeout`` seconds.
    """
    if found():
        return
    with notifications(None) as changes:
        deadline = time.monotonic() + timeout
        # Asked again now that changes are being listened to: one may have come in between.
        while not found():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([changes], [], [], left)[0]:
                raise TimedOut(f"{what} did not come within {timeout:g} seconds")
            # ENOBUFS: notifications were lost, which is one more reason to ask again (netlink(7)).
            with contextlib.suppress(OSError):
                changes.recv(65536)


def notifications(namespace: str | None) -> socket.socket:
    """Give a socket that becomes readable when a link or address of a namespace changes.

    What changed is not read, so it needs none of pyroute2, which takes longer to import than most machines take to
    get their address.
    """

    def open_socket() -> socket.socket:
        changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        changes.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        return changes

    try:
        # The socket stays in the namespace it was opened in.
        return in_namespace(namespace, open_socket)
    except OSError as error:
        raise NotRunning(f"network namespace {namespace} is gone", hint="machctl list") from error
