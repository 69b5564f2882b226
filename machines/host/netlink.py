# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of pyroute2: making and removing bridges, waiting for links and addresses, and ending flows."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from machines.errors import MachctlError, NotRunning, TimedOut
from machines.host.netns import in_namespace
from machines.host.sysctl import set_sysctl
from machines.model.flow import Flow

# rtnetlink(7)
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
# in6_addr_gen_mode of if_link.h: what link-local address a link gives itself.
_EUI64, _NONE = 0, 1
_IFA_F_NODAD = 0x02
_RT_SCOPE_UNIVERSE = 0
_RTN_LOCAL = 2

_FAMILIES = {"ip": socket.AF_INET, "ip6": socket.AF_INET6}
# A dump of nfnetlink_conntrack.h, and what it is to be of: CTA_FILTER and the flags of its kernel side are in
# net/netfilter/nf_conntrack_netlink.c.
_NETLINK_NETFILTER = 12
_CT_GET = 1 << 8 | 1
_REQUEST_DUMP = 0x301
_NLMSG_DONE = 3
_NESTED = 0x8000
_TUPLE_ORIG, _FILTER = 1, 25
_TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 2, 1, 3
_ORIG_FLAGS, _BY_PROTO, _BY_DST_PORT = 1, 1 << 3, 1 << 5
# For more ports at once the kernel is asked for all flows of UDP, once: each time it goes through all of its table,
# which takes it 10 ms.
_SINGLE_PORTS = 4


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
            # Once it is said it stays. Else it is the lowest of the ports', and changes with machines that come and go:
            # those that know the gateway by the last one would send to nobody (net/bridge/br_stp_if.c).
            route.link("set", index=index, address=route.get_links(index)[0].get_attr("IFLA_ADDRESS"))
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
    if not os.path.exists(f"/sys/class/net/{name}"):
        return
    # pyroute2 takes longer to import than all else that removes a machine.
    from machines.host.run import run

    done = run(["ip", "link", "delete", "dev", name], check=False)
    if done.returncode and os.path.exists(f"/sys/class/net/{name}"):
        why = done.stderr.strip().removeprefix("RTNETLINK answers: ") or "ip said nothing"
        raise MachctlError(f"link {name} could not be removed: {why}", hint=f"ip link del {name}")


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


def drop_flows(ports: Mapping[str, Collection[int]], stale: Callable[[Flow], bool]) -> None:
    """Have the kernel forget the flows of UDP that are ``stale`` among those that ask ``ports``, by family (ip, ip6).

    The next packet of one begins a new flow. Raises MachctlError with the kernel's reason.
    """
    asked = {_FAMILIES[name]: wanted for name, wanted in ports.items() if _is_asked(_FAMILIES[name], wanted)}
    if not asked:
        return
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        for family, wanted in asked.items():
            _drop_flows(family, wanted, stale)
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        raise MachctlError(
            f"flows of UDP were not ended: {os.strerror(code or 0)}", hint="conntrack -D -p udp ends all of them"
        ) from error


def _is_asked(family: int, ports: Collection[int]) -> bool:
    """Tell whether there is a flow of UDP that asks one of these ports; or any port, where they are many.

    Mostly there is none, and that is known before pyroute2 is imported.
    """
    # Where it cannot be known, pyroute2 says why.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as tracked,
    ):
        for port in _each(ports):
            proto, flags = _attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])), _BY_PROTO
            if port is not None:
                proto, flags = proto + _attribute(_PROTO_DST_PORT, struct.pack("!H", port)), flags | _BY_DST_PORT
            wanted = _attribute(_TUPLE_ORIG | _NESTED, _attribute(_TUPLE_PROTO | _NESTED, proto))
            wanted += _attribute(_FILTER | _NESTED, _attribute(_ORIG_FLAGS, struct.pack("=I", flags)))
            head = struct.pack("=IHHIIBBH", 20 + len(wanted), _CT_GET, _REQUEST_DUMP, 0, 0, family, 0, 0)
            tracked.send(head + wanted)
            # Whatever it says but that this is all.
            if struct.unpack_from("=H", tracked.recv(65536), 4)[0] != _NLMSG_DONE:
                return True
        return False
    return True


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _each(ports: Collection[int]) -> Collection[int | None]:
    return ports if len(ports) <= _SINGLE_PORTS else (None,)


def _drop_flows(family: int, asked: Collection[int], stale: Callable[[Flow], bool]) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

    with NFCTSocket(nfgen_family=family) as tracked, IPRoute() as route:
        for port in _each(asked):
            wanted = NFCTAttrTuple(family=family, proto=socket.IPPROTO_UDP, dport=port)
            for found in list(tracked.dump(tuple_orig=wanted)):
                way, back = (
                    NFCTAttrTuple.from_netlink(family, found.get_attr(f"CTA_TUPLE_{each}"))
                    for each in ("ORIG", "REPLY")
                )
                # An older kernel does not choose.
                if way.proto != socket.IPPROTO_UDP or way.dport not in asked:
                    continue
                own = (back.saddr, back.sport) == (way.daddr, way.dport) and _is_local(way.daddr, family, route)
                if stale(Flow(way.daddr, way.dport, back.saddr, back.sport, own)):
                    _forget(tracked, way)
                    # An answer that was under way began a flow of its own, which would lead there as well.
                    _forget(tracked, back)


def _is_local(address: str, family: int, route: Any) -> bool:
    """Tell whether an address is the host's own, as the "fib" of nft(8) has it."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return any(found["type"] == _RTN_LOCAL for found in route.route("get", dst=address, family=family))
    except NetlinkError:
        return False


def _forget(tracked: Any, way: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        tracked.entry("del", tuple_orig=way)
    except NetlinkError as error:
        # It ended by itself, or there never was one.
        if error.code != errno.ENOENT:
            raise
