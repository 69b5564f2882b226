# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bridges that machctl makes: their subnet, and the address each machine has in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from machines.errors import Conflict
from machines.model.frozen import dataclass
from machines.model.ids import spread

# A machine's address is fixed and comes from the lower half; networkd's DHCP server hands out the upper one to
# machines that others attach to the bridge.
DHCP_OFFSET = 128
DHCP_SIZE = 100


@dataclass(frozen=True)
class Network:
    """A bridge that machctl makes, with the IPv4 subnet it serves."""

    bridge: str
    subnet: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        """The host's own address on the bridge."""
        return str(self.subnet[1])

    @property
    def prefix_length(self) -> int:
        """The length of the subnet's prefix in bits."""
        return self.subnet.prefixlen


def choose_subnet(bridge: str, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Give a /24 of 10.64.0.0/10 that overlaps nothing in ``taken``; the same bridge gets the same one where it can.

    Raises Conflict when none is left.
    """
    used = list(taken)
    start = spread(bridge) % 16384
    for step in range(16384):
        number = (start + step) % 16384
        subnet = ipaddress.IPv4Network((0x0A400000 + (number << 8), 24))
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise Conflict(
        f"no free subnet for bridge {bridge}: the host's routes cover all of 10.64.0.0/10",
        hint="use an existing bridge with --bridge",
    )


def choose_address(network: Network, taken: Mapping[str, str]) -> str:
    """Give the lowest free fixed address; ``taken`` maps addresses to the machines that have them.

    Raises Conflict when the lower half of the subnet is used up.
    """
    for number in range(2, DHCP_OFFSET):
        address = str(network.subnet[number])
        if address not in taken:
            return address
    raise Conflict(
        f"bridge {network.bridge} has no free address: {DHCP_OFFSET - 2} machines are on it",
        hint="use another --bridge",
    )
