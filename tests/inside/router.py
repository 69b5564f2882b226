# SPDX-License-Identifier: LGPL-2.1-or-later
"""A router of IPv6: advertises itself and a prefix on a link every second (RFC 4861, 4.2), until it is ended."""

from __future__ import annotations

import socket
import struct
import sys
import time

_ALL_NODES = "ff02::1"
_ADVERTISEMENT = 134
_PREFIX, _ON_LINK_AND_AUTONOMOUS = 3, 0xC0


def advertisement(prefix: str, lifetime: int) -> bytes:
    """Give the message; the kernel fills in the checksum (RFC 3542, 3.1)."""
    head = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, lifetime, 0, 0)
    option = struct.pack("!BBBBIII", _PREFIX, 4, 64, _ON_LINK_AND_AUTONOMOUS, 3600, 1800, 0)
    return head + option + socket.inet_pton(socket.AF_INET6, prefix)


def main() -> None:
    """router.py LINK PREFIX LIFETIME"""
    link, prefix, lifetime = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        index = socket.if_nametoindex(link)
        while True:
            router.sendto(advertisement(prefix, lifetime), (_ALL_NODES, 0, 0, index))
            time.sleep(1)


if __name__ == "__main__":
    main()
