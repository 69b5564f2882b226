# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks as they are declared: [networks.NAME] of the declaration files, and the values that flags have too."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from machines.declare.keys import NETWORK_KEYS
from machines.declare.machine import read_keys
from machines.declare.reader import Table, WrongKey, located, not_toml
from machines.declare.toml import parse_toml
from machines.declare.values import parse_whole
from machines.errors import InvalidValue, MachctlError
from machines.model.names import check_link_name
from machines.model.network import MODES, PREFIXES, DeclaredNetwork

T = TypeVar("T", ipaddress.IPv4Network, ipaddress.IPv6Network)

_PREFIX_MIN, _PREFIX_MAX = PREFIXES[4]
_PREFIX6_MIN, _PREFIX6_MAX = PREFIXES[6]
# RFC 791 has every host take that much, RFC 8200 every link of IPv6.
_MTU_MIN, _MTU6_MIN, _MTU_MAX = 576, 1280, 65535


def own_network_file(name: str) -> str:
    """Give the declaration file that ``machctl network create`` writes."""
    return f"/etc/machctl/fleet.d/network-{name}.toml"


def parse_networks(files: Mapping[str, str]) -> tuple[dict[str, DeclaredNetwork], list[MachctlError]]:
    """Read declaration files, path to text, into networks by name, and everything that is wrong with them."""
    found: dict[str, DeclaredNetwork] = {}
    errors: list[MachctlError] = []
    for file in sorted(files):
        if "networks" not in files[file]:
            continue
        try:
            content = parse_toml(files[file])
        except ValueError as error:
            errors.append(not_toml(file, error))
            continue
        top = Table(content, file=file, path="", errors=errors)
        add_networks(found, top)
    return found, located(errors, files) if errors else []


def add_networks(found: dict[str, DeclaredNetwork], top: Table) -> None:
    """Put the networks of a file to those of others; one that is there already is noted and left out."""
    for name, network in read_networks(top).items():
        if name in found:
            said = f"is declared in {found[name].origin} as well"
            top.errors.append(WrongKey(top.file, f"networks.{name}", said, "keep one of the two"))
        else:
            found[name] = network


def read_networks(top: Table) -> dict[str, DeclaredNetwork]:
    """Read the networks of a file; one with an error in it is left out, and the error noted."""
    found = {}
    for name, table in top.tables("networks"):
        before = len(table.errors)
        network = _network(name, table)
        if len(table.errors) == before:
            found[name] = network
    return found


def _network(name: str, table: Table) -> DeclaredNetwork:
    network = DeclaredNetwork(
        name=name,
        origin=table.file,
        **read_keys(table, NETWORK_KEYS, DeclaredNetwork),
    )
    table.finish([key.name for key in NETWORK_KEYS])
    for error in check_network(network):
        table.fail("", error.message, error.hint)
    return network


def check_network(network: DeclaredNetwork) -> list[MachctlError]:
    """Give what is wrong with a network's values taken together, each being right by itself."""
    errors: list[MachctlError] = []
    try:
        check_network_name(network.name)
    except InvalidValue as error:
        errors.append(error)
    if network.subnet6 and not network.ipv6:
        errors.append(InvalidValue(f"network {network.name} has a subnet6 and no IPv6", hint="leave one of them out"))
    if network.mtu is not None and network.ipv6 and network.mtu < _MTU6_MIN:
        errors.append(
            InvalidValue(
                f"mtu {network.mtu} of network {network.name} is too small for IPv6, which takes {_MTU6_MIN}",
                hint="make it greater, or the network one without IPv6",
            )
        )
    if network.name in network.reach:
        errors.append(InvalidValue(f"network {network.name} reaches itself anyway", hint="leave that out of reach"))
    return errors


def check_network_name(text: str) -> str:
    """Give back the name of a network, which is that of its bridge too. Raises InvalidValue."""
    return check_link_name(text, "network")


def parse_mode(text: str) -> str:
    """Read what leaves a network. Raises InvalidValue."""
    if text not in MODES:
        raise InvalidValue(f"{text!r} is no mode of a network", hint=f"one of {', '.join(MODES)}")
    return text


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """Read an IPv4 subnet such as ``10.1.0.0/24``. Raises InvalidValue."""
    network = _subnet(text, ipaddress.IPv4Network, "10.1.0.0/24")
    if not _PREFIX_MIN <= network.prefixlen <= _PREFIX_MAX:
        raise InvalidValue(
            f"subnet {text} has a prefix of {network.prefixlen} bits",
            hint=f"between {_PREFIX_MIN} and {_PREFIX_MAX}, as in 10.1.0.0/24",
        )
    # Class E and "this network" as well (RFC 6890).
    others = (network.is_loopback, network.is_multicast, network.is_link_local, network.is_reserved)
    if any(others) or str(network).startswith("0."):
        raise InvalidValue(f"subnet {text} is not one that hosts can have", hint="take a private one: 10.1.0.0/24")
    return network


def parse_subnet6(text: str) -> ipaddress.IPv6Network:
    """Read an IPv6 subnet such as ``fd12:3456:789a:1::/64``. Raises InvalidValue."""
    form = "fd12:3456:789a:1::/64"
    network = _subnet(text, ipaddress.IPv6Network, form)
    if not _PREFIX6_MIN <= network.prefixlen <= _PREFIX6_MAX:
        raise InvalidValue(
            f"subnet {text} has a prefix of {network.prefixlen} bits",
            hint=f"between {_PREFIX6_MIN} and {_PREFIX6_MAX}, as in {form}",
        )
    if network.is_multicast or network.is_link_local or network[0] < ipaddress.IPv6Address("2000::"):
        raise InvalidValue(f"subnet {text} is not one that hosts can have", hint=f"take a unique local one: {form}")
    return network


def _subnet(text: str, kind: Callable[..., T], form: str) -> T:
    try:
        return kind(text.strip())
    except ValueError:
        pass
    try:
        # Bits behind the prefix: an address in the subnet was written, most likely.
        near = str(kind(text.strip(), strict=False))
    except ValueError:
        near = form
    raise InvalidValue(f"{text!r} is not a subnet", hint=f"write it as {near}")


def parse_mtu(text: str) -> int:
    """Read the size of the greatest packet in bytes. Raises InvalidValue."""
    hint = f"a number between {_MTU_MIN} and {_MTU_MAX}, as in 1500"
    return parse_whole(text, _MTU_MIN, _MTU_MAX, what="an MTU", hint=hint)


def write_network(network: DeclaredNetwork) -> str:
    """Give the file that declares one network."""
    values: dict[str, object] = {}
    if network.mode != "nat":
        values["mode"] = network.mode
    if network.subnet:
        values["subnet"] = str(network.subnet)
    if not network.ipv6:
        values["ipv6"] = False
    if network.subnet6:
        values["subnet6"] = str(network.subnet6)
    if not network.dhcp:
        values["dhcp"] = False
    if not network.dns:
        values["dns"] = False
    if network.mtu is not None:
        values["mtu"] = network.mtu
    if network.reach:
        values["reach"] = list(network.reach)
    # Names of links may hold dots, which part keys in TOML.
    name = json.dumps(network.name) if "." in network.name else network.name
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    head = "# Written by machctl network create. Edit it as you like, then run: machctl apply\n\n"
    return f"{head}[networks.{name}]\n{''.join(lines)}"
