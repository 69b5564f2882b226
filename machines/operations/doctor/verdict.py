# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an nft ruleset does to a packet, as far as that can be told from its JSON (libnftables-json(5)). Pure.

A rule with something in it that is not understood may match or not: then a drop that comes after an accept of such a
rule is only a "maybe".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from machines.model.frozen import NamedTuple
from machines.operations.doctor.translated import address_type, matches, rule_texts

_DEPTH_MAX = 16


class Packet(NamedTuple):
    """A packet as rules see it: ``family`` is ip or ip6, ``state`` conntrack's word for its connection."""

    family: str
    iif: str = ""
    oif: str = ""
    source: str = ""
    destination: str = ""
    protocol: str = "tcp"
    port: int | None = None
    state: str = "new"
    dnat: bool = False


class Chain(NamedTuple):
    """A chain of the ruleset; ``hook`` is "" where packets come by a jump only."""

    family: str
    table: str
    name: str
    hook: str = ""
    kind: str = ""
    priority: int = 0
    policy: str = "accept"

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Verdict(NamedTuple):
    """What becomes of a packet in a base chain: accept, drop or maybe (drop), and by which rule of which chain.

    ``handle`` is None where it is the policy.
    """

    word: str
    base: Chain
    chain: Chain
    handle: int | None = None


class Ruleset:
    """All tables of a network namespace."""

    def __init__(self, listing: Mapping[str, Any], text: str = "") -> None:
        self._texts = rule_texts(text)
        self.chains: dict[tuple[str, str, str], Chain] = {}
        self._rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        self._sets: dict[tuple[str, str, str], Sequence[Any]] = {}
        for item in listing.get("nftables", ()):
            if chain := item.get("chain"):
                key = chain["family"], chain["table"], chain["name"]
                policy = chain.get("policy", "accept")
                self.chains[key] = Chain(
                    *key, chain.get("hook", ""), chain.get("type", ""), chain.get("prio", 0), policy
                )  # fmt: skip
            elif rule := item.get("rule"):
                self._rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
            elif named := item.get("set") or item.get("map"):
                self._sets[named["family"], named["table"], named["name"]] = named.get("elem", ())

    def text(self, chain: Chain, handle: int | None) -> str:
        """Give a rule as nft prints it, "" where that is not known."""
        return self._texts.get((chain.family, chain.table, chain.name, handle or 0), "")

    def elements(self, family: str, table: str, name: str) -> Sequence[Any]:
        """Give what is in a named set or map."""
        return self._sets.get((family, table, name), ())

    def verdicts(self, hook: str, packet: Packet) -> list[Verdict]:
        """Give what each base chain at ``hook`` makes of ``packet``, in the order they see it.

        A drop is the end of it; an accept is one of that chain only.
        """
        bases = [
            chain
            for chain in self.chains.values()
            if chain.hook == hook and chain.kind == "filter" and chain.family in {"inet", packet.family}
        ]
        return [self._base(chain, packet) for chain in sorted(bases, key=lambda chain: chain.priority)]

    def _base(self, base: Chain, packet: Packet) -> Verdict:
        walk = _Walk(self, packet)
        word, chain, handle = walk.chain(base, sure=True, depth=0)
        if word in {"", "return"}:
            word, chain, handle = base.policy, base, None
        if word == "drop" and walk.maybe_accept:
            word = "maybe"
        return Verdict(word, base, chain, handle)

    def rules(self, chain: Chain) -> list[Mapping[str, Any]]:
        """Give the rules of a chain in order."""
        return self._rules.get((chain.family, chain.table, chain.name), [])


class _Walk:
    """A packet's way through one base chain."""

    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self.ruleset = ruleset
        self.packet = packet
        self.maybe_accept = False

    def chain(self, chain: Chain, *, sure: bool, depth: int) -> tuple[str, Chain, int | None]:
        if depth > _DEPTH_MAX:
            return "", chain, None
        for rule in self.ruleset.rules(chain):
            word, where, handle = self._rule(rule, chain, sure=sure, depth=depth)
            if word:
                return ("" if word == "return" else word), where, handle
        return "", chain, None

    def _rule(self, rule: Mapping[str, Any], chain: Chain, *, sure: bool, depth: int) -> tuple[str, Chain, int | None]:
        """Give the verdict of a rule, "" where the next one is asked."""
        certain = sure
        for statement in rule.get("expr", ()):
            ((kind, value),) = statement.items()
            if kind == "xt" and value and value.get("type") == "target":
                kind = "reject" if value.get("name") == "REJECT" else "log"
            if kind in {"match", "xt"}:
                text = self.ruleset.text(chain, rule.get("handle"))
                named = (value or {}).get("name", "")
                outcome = self._match(value, chain) if kind == "match" else matches(named, text, self.packet)
                if outcome is False:
                    return "", chain, None
                certain = certain and outcome is True
            elif kind in {"limit", "quota", "queue"}:
                certain = False
            elif kind == "vmap":
                kind, value = self._looked_up(value, chain)
                if kind == "unknown":
                    certain = False
            if kind in {"accept", "drop", "reject", "return", "jump", "goto"}:
                return self._act(kind, value, (chain, rule.get("handle")), certain=certain, depth=depth)
        return "", chain, None

    def _act(
        self, kind: str, value: Any, where: tuple[Chain, int | None], *, certain: bool, depth: int
    ) -> tuple[str, Chain, int | None]:
        chain, handle = where
        if kind in {"jump", "goto"}:
            target = self.ruleset.chains.get((chain.family, chain.table, value["target"]))
            word, *inner = self.chain(target, sure=certain, depth=depth + 1) if target else ("", chain, None)
            if word or not (certain and kind == "goto"):
                return word, inner[0], inner[1]  # type: ignore[return-value]
            # What a goto comes back from is the base chain's policy.
            return "return", chain, handle
        word = "drop" if kind == "reject" else kind
        if not certain:
            self.maybe_accept = self.maybe_accept or word in {"accept", "return"}
            return "", chain, None
        return word, chain, handle

    def _looked_up(self, value: Mapping[str, Any], chain: Chain) -> tuple[str, Any]:
        """Give the verdict that a verdict map has for the packet."""
        data = value["data"]
        pairs = self._elements(data, chain)
        have = self._value(value["key"])
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                continue
            if have is None:
                return "unknown", None
            if _equal(have, _plain(pair[0])):
                verdict = pair[1]
                ((kind, inner),) = verdict.items() if isinstance(verdict, dict) else ((str(verdict), None),)
                return kind, inner
        return "none", None

    def _match(self, match: Mapping[str, Any], chain: Chain) -> bool | None:
        have = self._value(match["left"])
        if have is None:
            return None
        if have is False:
            return False
        right = match["right"]
        named = isinstance(right, str) and right.startswith("@")
        many = isinstance(right, list) or (isinstance(right, dict) and "set" in right)
        wanted = self._elements(right, chain) if named or many else [right]
        found = any(_equal(have, _plain(each)) for each in wanted)
        operator = match.get("op", "==")
        if operator in {"==", "in"}:
            return found
        return not found if operator == "!=" else None

    def _elements(self, right: Any, chain: Chain) -> Sequence[Any]:
        if isinstance(right, str):
            return self.ruleset.elements(chain.family, chain.table, right[1:])
        return right if isinstance(right, list) else right.get("set", ())

    def _value(self, left: Any) -> Any:
        """Give what the packet has there; None is unknown, False that it cannot have it."""
        packet = self.packet
        if not isinstance(left, dict):
            return None
        if "concat" in left:
            parts = [self._value(part) for part in left["concat"]]
            return False if False in parts else None if None in parts else tuple(parts)
        if "meta" in left:
            known = {
                "iifname": packet.iif, "iif": packet.iif, "oifname": packet.oif, "oif": packet.oif,
                "l4proto": packet.protocol, "nfproto": "ipv4" if packet.family == "ip" else "ipv6",
                "protocol": packet.family,
            }  # fmt: skip
            return known.get(left["meta"]["key"])
        if "ct" in left:
            status = frozenset({"dnat"} if packet.dnat else ())
            return {"state": frozenset({packet.state}), "status": status}.get(left["ct"]["key"])
        if "fib" in left:
            fib = left["fib"]
            return address_type(packet) if fib.get("result") == "type" and "daddr" in fib.get("flags", ()) else None
        if "payload" in left:
            return self._payload(left["payload"])
        return None

    def _payload(self, payload: Mapping[str, Any]) -> Any:
        protocol, field, packet = payload.get("protocol"), payload.get("field"), self.packet
        if protocol in {"ip", "ip6"}:
            if protocol != packet.family:
                return False
            known = {"saddr": packet.source, "daddr": packet.destination, "protocol": packet.protocol}
            return known.get(str(field)) or None
        if protocol in {"tcp", "udp", "icmp", "icmpv6", "sctp"} and protocol != packet.protocol:
            return False
        return packet.port if field == "dport" else None


def _plain(element: Any) -> Any:
    if isinstance(element, dict) and "elem" in element:
        return _plain(element["elem"]["val"])
    if isinstance(element, dict) and "concat" in element:
        return tuple(_plain(part) for part in element["concat"])
    return element


def _equal(have: Any, wanted: Any) -> bool:
    """Tell whether a value of the packet is one that a rule asks for."""
    if isinstance(have, tuple):
        return (
            isinstance(wanted, tuple)
            and len(have) == len(wanted)
            and all(_equal(one, other) for one, other in zip(have, wanted, strict=True))
        )
    if isinstance(have, frozenset):
        return wanted in have
    if isinstance(wanted, dict):
        return _within(have, wanted)
    if isinstance(wanted, str) and wanted.endswith("*") and isinstance(have, str):
        return have.startswith(wanted[:-1])
    return bool(have == wanted or str(have) == str(wanted))


def _within(have: Any, wanted: Mapping[str, Any]) -> bool:
    try:
        if "prefix" in wanted:
            network = ipaddress.ip_network(f"{wanted['prefix']['addr']}/{wanted['prefix']['len']}", strict=False)
            return ipaddress.ip_address(have) in network
        if "range" in wanted:
            first, last = wanted["range"]
            if isinstance(have, int):
                return int(first) <= have <= int(last)
            low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
            return low.version == ipaddress.ip_address(have).version and int(low) <= int(
                ipaddress.ip_address(have)
            ) <= int(high)
    except ValueError:
        pass
    return False
