# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of the command line that say what a machine is linked to."""

from __future__ import annotations

from collections.abc import Iterable

from machines.cli import words
from machines.declare.links import links_of, parse_kind, parse_link, with_addresses
from machines.errors import InvalidValue, MachctlError
from machines.model.link import Attachment

BRIDGE = words.Option(
    [], "--bridge", "--network", metavar="NAME[,OPTION=VALUE...]",
    help="Put it on this network or bridge, made if it is not there. Options: vlan, ip, gw, mac, name.",
)  # fmt: skip
LINK = words.Option([], "--link", metavar="KIND[:TARGET]", help="A link of any kind, as a file has it: zone:lab, veth.")
VETH = words.Option(False, "--veth", help="Link it to this host alone.")  # noqa: FBT003
ZONE = words.Option([], "--zone", metavar="ZONE", help="Link it to the machines of this zone.")
MACVLAN = words.Option([], "--macvlan", metavar="INTERFACE", help="Put it on this interface's network by a macvlan.")
IPVLAN = words.Option([], "--ipvlan", metavar="INTERFACE", help="Put it on this interface's network by an ipvlan.")
INTERFACE = words.Option([], "--interface", metavar="INTERFACE", help="Move this interface of the host into it.")
HOST_NETWORK = words.Option(False, "--host-network", help="Let it use the host's own network.")  # noqa: FBT003
NO_NETWORK = words.Option(False, "--no-network", help="Give it no network.")  # noqa: FBT003
IP = words.Option([], "--ip", metavar="ADDRESS", help="Its address on the first of its links.")


def read_links(
    found: Iterable[tuple[str, str]], addresses: Iterable[str], *, host: bool, none: bool, errors: list[MachctlError]
) -> tuple[str, tuple[Attachment, ...]]:
    """Give what network a machine has, and its links, from pairs of a kind and what was said of it.

    The kind "" is for what says its kind itself. What is wrong goes into ``errors``.
    """
    if host and none:
        errors.append(InvalidValue("--host-network and --no-network exclude each other", hint="leave one out"))
    mode = "host" if host else "none" if none else "private"
    links: list[Attachment] = []
    for kind, text in found:
        try:
            links.append(parse_kind(kind, text) if kind else parse_link(text))
        except MachctlError as error:
            errors.append(error)
    made = links_of(tuple(links) or None, None, mode=mode)
    try:
        made = with_addresses(made, tuple(addresses))
    except MachctlError as error:
        errors.append(error)
    return mode, made
