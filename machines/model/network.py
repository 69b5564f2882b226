# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks: bridges that machctl makes, their subnets, and the address each machine has in them."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from functools import cache

from machines.errors import Conflict
from machines.model.frozen import dataclass
from machines.model.ids import spread

# A machine's address is fixed and comes from the lower half; networkd's DHCP server hands out the upper one to
# machines that others attach to the bridge.
DHCP_SIZE = 100

MODES = ("nat", "routed", "isolated")
"""What leaves a network: with the host's address, with the machines' own, or nothing."""

DOMAIN = "machctl.internal"
"""What names of machines end in: a top-level domain that ICANN keeps free for private use."""

PREFIXES = {4: (8, 29), 6: (32, 120)}
"""The shortest and the longest prefix of a subnet, by version of IP.

The host, one machine and what DHCP serves have to fit; and no more than a private range of RFC 1918.
"""

# Subnets are chosen from the first of these that has one left; VPNs like to have all of 10.0.0.0/8.
_RANGES = ("10.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
# Of so many subnets one is free, unless all are taken.
_TRIES = 1000


@dataclass(frozen=True)
class DeclaredNetwork:
    """A network as it is declared; its name is its bridge's. What is None is chosen when it is made.

    ``reach`` are the other networks that machines of this one may reach. ``dhcp`` has networkd serve leases to those
    whom nobody gave an address, ``dns`` answers names of machines at the gateway where the host's resolved can.
    """

    name: str
    origin: str = ""
    mode: str = "nat"
    subnet: ipaddress.IPv4Network | None = None
    ipv6: bool = True
    subnet6: ipaddress.IPv6Network | None = None
    dhcp: bool = True
    dns: bool = True
    mtu: int | None = None
    reach: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """A bridge that machctl makes, with the subnets it serves; ``subnet6`` is None without IPv6.

    ``origin`` is the file it is declared in, "" for one that is there for as long as a machine is on it. ``kind`` is
    bridge, or what nspawn makes: zone for the bridge of a zone, veth for the host's end of a machine's link to it.
    """

    bridge: str
    subnet: ipaddress.IPv4Network
    subnet6: ipaddress.IPv6Network | None = None
    mode: str = "nat"
    dhcp: bool = True
    dns: bool = True
    mtu: int | None = None
    reach: tuple[str, ...] = ()
    origin: str = ""
    kind: str = "bridge"

    @property
    def gateway(self) -> str:
        """The host's own address on the bridge."""
        return _address(self.subnet, 1)

    @property
    def gateway6(self) -> str | None:
        """The host's own IPv6 address on the bridge."""
        return _address(self.subnet6, 1) if self.subnet6 else None

    @property
    def prefix_length(self) -> int:
        """The length of the subnet's prefix in bits."""
        return self.subnet.prefixlen

    @property
    def addresses(self) -> tuple[str, ...]:
        """The host's own addresses on the bridge, with their prefixes."""
        v4 = f"{self.gateway}/{self.prefix_length}"
        return (v4, f"{self.gateway6}/{self.subnet6.prefixlen}") if self.subnet6 else (v4,)

    @property
    def gateways(self) -> tuple[str, ...]:
        """The host's own addresses on the bridge."""
        gateway6 = self.gateway6
        return (self.gateway, gateway6) if gateway6 else (self.gateway,)

    @property
    def dhcp_offset(self) -> int:
        """The number of the first address that DHCP gives away: the upper half of the subnet is for that."""
        return self.subnet.num_addresses // 2

    @property
    def dhcp_size(self) -> int:
        """How many addresses DHCP may give away; the last one of the subnet is its broadcast address."""
        return min(DHCP_SIZE, self.subnet.num_addresses - self.dhcp_offset - 1)


def choose_subnet(bridge: str, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Give a private /24 that overlaps nothing in ``taken``; the same bridge gets the same one where it can.

    Raises Conflict when none is left.
    """
    used = [(int(other.network_address), int(other.broadcast_address)) for other in taken]
    start = spread(bridge)
    for text in _RANGES:
        whole = ipaddress.IPv4Network(text)
        count, base = whole.num_addresses >> 8, int(whole.network_address)
        for step in range(count):
            first = base + ((start + step) % count << 8)
            if not any(low <= first + 255 and first <= high for low, high in used):
                return ipaddress.IPv4Network((first, 24))
    raise Conflict(
        f"no free subnet for bridge {bridge}: the host's routes cover all of {', '.join(_RANGES)}",
        hint=f"choose one: machctl network create {bridge} --subnet SUBNET; or use an existing bridge with --bridge",
    )


def choose_subnet6(bridge: str, seed: str, taken: Iterable[ipaddress.IPv6Network]) -> ipaddress.IPv6Network:
    """Give a /64 of the unique local addresses (RFC 4193) that overlaps nothing in ``taken``.

    ``seed`` is the host's own: the same bridge gets the same subnet on this host and another one on others. Raises
    Conflict when none is found.
    """
    try:
        # hashlib's own loads OpenSSL, which takes 4 ms.
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

    used = list(taken)
    for step in range(_TRIES):
        digest = sha256(f"{seed} {bridge} {step or ''}".encode()).digest()
        subnet = ipaddress.IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise Conflict(
        f"no free IPv6 subnet for bridge {bridge}: routes and networks of this host cover nearly all of fd00::/8",
        hint=f"choose one: machctl network create {bridge} --subnet6 SUBNET; or do without: --no-ipv6",
    )


def refused_address(
    text: str, name: str, subnet: ipaddress.IPv4Network | ipaddress.IPv6Network | None
) -> tuple[str, str] | None:
    """Say why a link on network ``name`` cannot have an address that is chosen for it, and what it can; None if it can.

    ``subnet`` is the network's of the address's version, None where it has none.
    """
    found = ipaddress.ip_interface(text)
    if subnet is None:
        return f"network {name} has no IPv6", "choose an IPv4 address, or none"
    first, last = subnet[2], subnet[-2] if found.version == 4 else subnet[-1]
    choose = f"choose one from {first} to {last}"
    if found.ip not in subnet or ("/" in text and found.network != subnet):
        said = f"network {name} has the subnet {subnet}, and {text} is outside it"
        return said, f"{choose}, or none and it gets a free one"
    if found.ip == subnet[1]:
        return f"it is the host's own on {name}", choose
    if not int(first) <= int(found.ip) <= int(last):
        return f"it stands for all of {subnet}", choose
    return None


def choose_address(network: Network, taken: Mapping[str, str]) -> str:
    """Give the lowest free fixed address; ``taken`` maps addresses to the machines that have them.

    Raises Conflict when the lower half of the subnet is used up.
    """
    first = int(network.subnet.network_address)
    for number in range(first + 2, first + network.dhcp_offset):
        address = _written(4, number)
        if address not in taken:
            return address
    raise Conflict(
        f"bridge {network.bridge} has no free address: {network.dhcp_offset - 2} machines are on it",
        hint="use another --bridge",
    )


def choose_address6(network: Network, address: str, taken: Collection[str]) -> str | None:
    """Give the IPv6 address that goes with ``address``: the one of the same number in its subnet where that is free.

    None where the network has no IPv6. Raises Conflict when its subnet is used up.
    """
    if network.subnet6 is None:
        return None
    own = ipaddress.IPv4Address(address)
    number = int(own) - int(network.subnet.network_address) if own in network.subnet else 2
    size = network.subnet6.num_addresses
    # The first is the routers' anycast address (RFC 4291, 2.6.1), the second the host's own.
    start, count = (number - 2 if 2 <= number < size else 0), size - 2
    for step in range(min(count, len(taken) + 1)):
        found = _address(network.subnet6, 2 + (start + step) % count)
        if found not in taken:
            return found
    raise Conflict(
        f"bridge {network.bridge} has no free IPv6 address: {count} machines are on it", hint="use another --bridge"
    )


def _address(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network, number: int) -> str:
    return _written(subnet.version, int(subnet.network_address) + number)


@cache
def _written(version: int, address: int) -> str:
    """The address as people write it: the same ones are gone through for each machine of a fleet."""
    return str(ipaddress.IPv4Address(address) if version == 4 else ipaddress.IPv6Address(address))
