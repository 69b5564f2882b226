# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules as nft prints them: matches of iptables have no JSON, but a text that nft translates them into. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machines.operations.doctor.verdict import Packet

_TABLE = re.compile(r"table (\S+) (\S+) \{")
_CHAIN = re.compile(r"\s+chain (\S+) \{")
_RULE = re.compile(r"\s+(.*) # handle (\d+)$")
_STATE = re.compile(r"\bct state (!= )?([\w,]+)")
_TYPE = re.compile(r"\bfib daddr type (!= )?(\w+)")
_PORT = re.compile(r"\b(tcp|udp) dport (!= )?(\d+)(?:-(\d+))?")
# What iptables' matches are called, and which of the above says all of them.
_SAID = {"conntrack": _STATE, "state": _STATE, "addrtype": _TYPE, "tcp": _PORT, "udp": _PORT}

Texts = dict[tuple[str, str, str, int], str]


def rule_texts(listing: str) -> Texts:
    """Read ``nft --handle list ruleset``: the text of each rule by its family, table, chain and handle."""
    found: Texts = {}
    family = table = chain = ""
    for line in listing.splitlines():
        if match := _TABLE.match(line):
            family, table = match.groups()
        elif match := _CHAIN.match(line):
            chain = match[1]
        elif match := _RULE.match(line):
            found[family, table, chain, int(match[2])] = match[1]
    return found


def matches(name: str, text: str, packet: Packet) -> bool | None:
    """Tell whether the match of iptables called ``name``, in a rule printed as ``text``, takes the packet.

    None where the text does not say; "" is a name that nft did not give.
    """
    outcomes = []
    if state := _STATE.search(text):
        outcomes.append((packet.state in state[2].split(",")) != bool(state[1]))
    if kind := _TYPE.search(text):
        outcomes.append((address_type(packet) == kind[2]) != bool(kind[1]))
    if port := _PORT.search(text):
        first, last = int(port[3]), int(port[4] or port[3])
        within = packet.port is not None and first <= packet.port <= last
        outcomes.append(packet.protocol == port[1] and within != bool(port[2]))
    if not all(outcomes):
        return False
    said = _SAID.get(name)
    return True if name == "comment" or (said and said.search(text)) else None


def address_type(packet: Packet) -> str:
    """Give where a packet goes in nft's words: what goes out of no link stays here."""
    return "unicast" if packet.oif else "local"
