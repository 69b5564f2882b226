# SPDX-License-Identifier: LGPL-2.1-or-later
"""The links of a machine: the text of a flag or of a string in a file, checked and typed, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from machines.errors import InvalidValue, MachctlError
from machines.model.frozen import replace
from machines.model.link import DEFAULT_BRIDGE, DEFAULT_LINKS, KINDS, Attachment, inner_names
from machines.model.machine import Machine
from machines.model.names import IFNAMSIZ, check_link_name, link_network

MODES = ("private", "host", "none")
FORM = "write KIND:TARGET and options, as in zone:lab, veth or macvlan:eth0,ip=192.0.2.5/24,mac=02:00:00:00:00:05"
_OPTIONS = "vlan=, ip=, gw=, mac= and name="
_MAC = r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
OUTSIDE = ("macvlan", "ipvlan", "interface")
"""Kinds of links whose packets do not pass the host's own rules."""
ZONE_MAX = IFNAMSIZ - len("vz-")


def parse_mode(text: str) -> str:
    """Read what network a machine has: private, host or none. Raises InvalidValue."""
    if text not in MODES:
        raise InvalidValue(f"{text!r} is not what a network can be", hint=f"use one of {', '.join(MODES)}")
    return text


def parse_link(text: str) -> Attachment:
    """Read ``KIND[:TARGET][,OPTION=VALUE]...`` of systemd.nspawn(5)'s kinds of links. Raises InvalidValue."""
    first, *options = text.split(",")
    kind, colon, target = first.partition(":")
    if kind not in KINDS:
        raise InvalidValue(f"{text!r} is not a link: there is no kind {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
    if kind == "veth" and colon:
        raise InvalidValue(f"link {text!r}: a veth leads to the host and has no target", hint="write veth")
    if kind != "veth" and not target:
        raise InvalidValue(f"link {text!r} does not say where it leads", hint=FORM)
    return _link(kind, target, options, text)


def parse_bridge(text: str) -> Attachment:
    """Read ``BRIDGE[,OPTION=VALUE]...``, a bridge or network of that name. Raises InvalidValue."""
    target, *options = text.split(",")
    return _link("bridge", target, options, text)


def parse_kind(kind: str, text: str) -> Attachment:
    """Read ``TARGET[,OPTION=VALUE]...`` of a flag for one kind of link. Raises InvalidValue."""
    target, *options = text.split(",")
    return _link(kind, target, options, text)


def _link(kind: str, target: str, options: list[str], text: str) -> Attachment:
    if kind == "zone" and len(target) > ZONE_MAX:
        raise InvalidValue(
            f"zone name {target!r} has {len(target)} characters; its bridge vz-{target} may have {IFNAMSIZ}",
            hint=f"shorten it, for example to {target[:ZONE_MAX]}",
        )
    if kind != "veth":
        check_link_name(target, {"bridge": "bridge", "zone": "zone"}.get(kind, "interface"))
    values: dict[str, str] = {}
    addresses: list[str] = []
    for option in options:
        key, equals, value = option.partition("=")
        if key not in {"vlan", "ip", "gw", "mac", "name"} or not (equals and value):
            raise InvalidValue(f"link {text!r}: {option!r} is not an option", hint=f"options are {_OPTIONS}")
        if key == "ip":
            addresses.append(parse_address(value))
        elif key in values:
            raise InvalidValue(f"link {text!r}: {key} is given twice", hint="leave one out")
        else:
            values[key] = value
    _refuse_options(kind, values, addresses, text)
    return Attachment(
        kind,
        target,
        vlan=_vlan(values["vlan"], text) if "vlan" in values else None,
        addresses=tuple(addresses),
        mac=_mac(values["mac"], text) if "mac" in values else None,
        name=check_link_name(values["name"], "link") if "name" in values else None,
        gateway=_gateway(values["gw"], addresses, text) if "gw" in values else None,
    )


def _refuse_options(kind: str, values: dict[str, str], addresses: list[str], text: str) -> None:
    if "vlan" in values and kind != "bridge":
        raise InvalidValue(
            f"link {text!r}: only a bridge has VLANs", hint="make a link of that VLAN on the host, and lead it there"
        )
    if "mac" in values and kind == "ipvlan":
        raise InvalidValue(
            f"link {text!r}: an ipvlan has the MAC address of its parent", hint="leave mac= out, or use macvlan"
        )
    _one_of_each(addresses, f"link {text!r}")


def _one_of_each(addresses: Iterable[str], what: str) -> None:
    versions = [_version(address) for address in addresses]
    for version in (4, 6):
        if versions.count(version) > 1:
            raise InvalidValue(f"{what} has two IPv{version} addresses", hint="leave one out")


def parse_address(text: str) -> str:
    """Read an address for a link, with the length of its prefix or without. Raises InvalidValue."""
    import ipaddress

    try:
        interface = ipaddress.ip_interface(text.strip("[]"))
    except ValueError:
        raise InvalidValue(
            f"{text!r} is not an address", hint="write 10.1.0.5/24, fd00::5/64, or 10.1.0.5 on a network of machctl's"
        ) from None
    address, network = interface.ip, interface.network
    if address.is_unspecified or address.is_loopback or address.is_multicast or "%" in text:
        raise InvalidValue(f"{text!r} is an address that no link can have", hint="write one such as 10.1.0.5/24")
    inner = address.version == 4 and network.prefixlen < 31
    if inner and address in {network.network_address, network.broadcast_address}:
        raise InvalidValue(
            f"{text!r} is no machine's address but that of the whole network {network}",
            hint=f"write one of its addresses, such as {network[2]}/{network.prefixlen}",
        )
    return str(interface) if "/" in text else str(address)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _vlan(word: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", word) or not 1 <= int(word) <= 4094:
        raise InvalidValue(f"link {text!r}: {word!r} is not a VLAN", hint="VLANs go from 1 to 4094")
    return int(word)


def _mac(word: str, text: str) -> str:
    mac = word.lower().replace("-", ":")
    if not re.fullmatch(_MAC, mac):
        raise InvalidValue(f"link {text!r}: {word!r} is not a MAC address", hint="write six bytes: 02:00:00:00:00:05")
    # The lowest bit of the first byte says that it is a group's (IEEE 802), which no link may have.
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidValue(
            f"link {text!r}: {word} is no single link's MAC address",
            hint=f"write {int(mac[:2], 16) & 0xFC | 2:02x}{mac[2:]}",
        )
    return mac


def _gateway(word: str, addresses: list[str], text: str) -> str:
    import ipaddress

    try:
        gateway = ipaddress.ip_address(word.strip("[]"))
    except ValueError:
        raise InvalidValue(f"link {text!r}: {word!r} is not an address", hint="write gw=10.1.0.1") from None
    networks = [ipaddress.ip_interface(address) for address in addresses if "/" in address]
    if not any(gateway in interface.network and gateway != interface.ip for interface in networks):
        raise InvalidValue(
            f"link {text!r}: gateway {gateway} is not in a network that it has an address in",
            hint="give ip= with its prefix, as in ip=10.1.0.5/24,gw=10.1.0.1",
        )
    return str(gateway)


def links_of(
    bridges: tuple[Attachment, ...] | None, links: tuple[Attachment, ...] | None, *, mode: str
) -> tuple[Attachment, ...]:
    """Give the links of a machine that is declared with these; with neither, those it has by default."""
    if bridges is None and links is None:
        return DEFAULT_LINKS if mode == "private" else ()
    return (bridges or ()) + (links or ())


def with_addresses(links: tuple[Attachment, ...], addresses: tuple[str, ...]) -> tuple[Attachment, ...]:
    """Give these links, the first with these addresses as well. Raises InvalidValue."""
    if not addresses:
        return links
    if not links:
        raise InvalidValue("an address is chosen for a machine without a link", hint="leave --ip out")
    own = (*links[0].addresses, *(parse_address(address) for address in addresses))
    _one_of_each(own, f"link {format_link(links[0])!r} with --ip {' '.join(addresses)}")
    return (replace(links[0], addresses=own), *links[1:])


def format_link(link: Attachment) -> str:
    """Give a link back as the text that parse_link() reads as the same; a bridge's without "bridge:"."""
    words = [link.target if link.kind != "veth" else "veth"]
    if link.kind not in {"bridge", "veth"}:
        words = [f"{link.kind}:{link.target}"]
    if link.vlan is not None:
        words.append(f"vlan={link.vlan}")
    words += [f"ip={address}" for address in link.addresses]
    words += [
        f"{key}={value}" for key, value in (("gw", link.gateway), ("mac", link.mac), ("name", link.name)) if value
    ]
    return ",".join(words)


def link_values(machine: Machine) -> dict[str, object]:
    """Give what a declaration has to say of a machine's links: its keys network, bridges and links."""
    found: dict[str, object] = {} if machine.network == "private" else {"network": machine.network}
    if machine.links == (DEFAULT_LINKS if machine.network == "private" else ()):
        return found
    kinds = [link.kind for link in machine.links]
    first = next((index for index, kind in enumerate(kinds) if kind != "bridge"), len(kinds))
    if "bridge" in kinds[first:]:
        # Their order says which is the first, and that has the default route.
        texts = [
            f"bridge:{format_link(link)}" if link.kind == "bridge" else format_link(link) for link in machine.links
        ]
        return {**found, "links": texts}
    if first or not machine.links:
        found["bridges"] = [format_link(link) for link in machine.links[:first]]
    if machine.links[first:]:
        found["links"] = [format_link(link) for link in machine.links[first:]]
    return found


def owned_on_links(machine: Machine) -> Iterable[tuple[int, Attachment, str]]:
    """Give what a machine chose on its links, by number, that nobody else there may have: addresses, MAC addresses."""
    for index, link in enumerate(machine.links):
        if link.kind != "veth":
            for what in (*link.addresses, link.mac):
                if what:
                    yield index, link, what.partition("/")[0]


def same_link(link: Attachment, what: str) -> tuple[object, ...]:
    """Give what is the same for all links on which two machines cannot both have ``what``."""
    outside = link.kind in OUTSIDE
    return (outside, link.target if outside else link_network(link, ""), link.vlan, what)


def check_links(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with a machine's links taken together, each being right by itself."""
    name, links = machine.name, machine.links
    if machine.network != "private":
        return _check_unlinked(machine)
    errors: list[MachctlError] = []
    if not links:
        errors.append(
            InvalidValue(
                f"{name} is on no bridge",
                hint=f'leave bridges out, and it is on {DEFAULT_BRIDGE}; or say network = "none"',
            )
        )
    keys = [(link.kind, link.target, link.vlan) for link in links]
    for kind, target, vlan in sorted({key for key in keys if keys.count(key) > 1}, key=str):
        what = " ".join([kind, target][: 2 if target else 1]) + (f" with VLAN {vlan}" if vlan else "")
        errors.append(InvalidValue(f"{what} of {name} is given twice", hint="leave one out"))
    for what, values in (
        ("MAC address", [link.mac for link in links]),
        ("address", [address.split("/")[0] for link in links for address in link.addresses]),
        ("name", list(inner_names(links))),
    ):
        for value in sorted({value for value in values if value and values.count(value) > 1}):
            errors.append(InvalidValue(f"two links of {name} have the {what} {value}", hint="give one of them another"))
    return errors + _check_parents(machine)


def _check_parents(machine: Machine) -> list[MachctlError]:
    """What systemd.nspawn(5) makes of interfaces of the host."""
    errors: list[MachctlError] = []
    found: dict[str, set[str]] = {}
    for link in machine.links:
        if link.kind in OUTSIDE:
            found.setdefault(link.target, set()).add(link.kind)
        if link.kind in OUTSIDE or link.vlan is not None:
            errors += [
                InvalidValue(
                    f"address {address} of link {format_link(link)!r} does not say how long its prefix is",
                    hint=f"nobody but you knows that network: write {address}/{24 if _version(address) == 4 else 64}",
                )
                for address in link.addresses
                if "/" not in address
            ]
    for parent, kinds in sorted(found.items()):
        if len(kinds) > 1:
            errors.append(
                InvalidValue(
                    f"interface {parent} of {machine.name} cannot be {' and '.join(sorted(kinds))} at once",
                    hint="leave one out",
                )
            )
    return errors


def _check_unlinked(machine: Machine) -> list[MachctlError]:
    """A machine with the host's network or none."""
    name, mode = machine.name, machine.network
    errors: list[MachctlError] = []
    if machine.links:
        errors.append(
            InvalidValue(
                f'{name} has network = "{mode}", and links besides: {", ".join(map(format_link, machine.links))}',
                hint="leave one of the two out",
            )
        )
    return errors
