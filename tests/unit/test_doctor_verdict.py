# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a ruleset does to a packet, from nft's JSON."""

from __future__ import annotations

from typing import Any

import pytest

from machines.operations.doctor.verdict import Packet, Ruleset

OUT = Packet("ip", "br0", "eth0", "10.64.3.2", "192.0.2.1", "tcp", 443)
BASE = {"family": "inet", "table": "filter", "name": "forward", "hook": "forward", "type": "filter", "prio": 0}


def match(left: Any, right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def meta(key: str, right: Any, operator: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, operator)


def payload(protocol: str, field: str, right: Any, operator: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right, operator)


def ruleset(*rules: list[dict[str, Any]], policy: str = "accept", **others: Any) -> Ruleset:
    """Give one base chain with rules, and other chains by their names."""
    listing: list[dict[str, Any]] = [{"chain": BASE | {"policy": policy}}]
    for name, inner in {"forward": rules, **others.pop("chains", {})}.items():
        if name != "forward":
            listing.append({"chain": {"family": "inet", "table": "filter", "name": name}})
        listing += [
            {"rule": {"family": "inet", "table": "filter", "chain": name, "handle": number, "expr": rule}}
            for number, rule in enumerate(inner, 1)
        ]
    listing += [
        {"set": {"family": "inet", "table": "filter", "name": name, "elem": elements}}
        for name, elements in others.items()
    ]
    return Ruleset({"nftables": [{"metainfo": {}}, *listing]})


def word(rules: Ruleset, packet: Packet = OUT) -> str:
    (verdict,) = rules.verdicts("forward", packet)
    return verdict.word


ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}


def test_no_rule_leaves_it_to_the_policy() -> None:
    (verdict,) = ruleset(policy="drop").verdicts("forward", OUT)
    assert (verdict.word, verdict.handle, str(verdict.chain)) == ("drop", None, "inet filter forward")
    assert word(ruleset()) == "accept"


@pytest.mark.parametrize(
    "expression",
    [
        meta("iifname", "br0"),
        meta("iifname", "br*"),
        meta("iifname", {"set": ["eth0", "br0"]}),
        meta("iifname", "eth0", "!="),
        meta("l4proto", "tcp"),
        meta("nfproto", "ipv4"),
        payload("ip", "saddr", {"prefix": {"addr": "10.64.0.0", "len": 10}}),
        payload("ip", "daddr", {"range": ["192.0.2.0", "192.0.2.9"]}),
        payload("ip", "saddr", "@machines"),
        payload("tcp", "dport", 443),
        payload("th", "dport", {"set": [53, {"range": [400, 500]}]}),
        match({"ct": {"key": "state"}}, ["established", "new"], "in"),
        match({"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]}, "@pairs"),
    ],
    ids=str,
)
def test_a_rule_that_matches_decides(expression: dict[str, Any]) -> None:
    rules = ruleset([expression, {"counter": None}, DROP], machines=["10.64.3.2"], pairs=[{"concat": ["br0", "eth0"]}])
    (verdict,) = rules.verdicts("forward", OUT)
    assert (verdict.word, verdict.handle) == ("drop", 1)


@pytest.mark.parametrize(
    "expression",
    [
        meta("iifname", "br1"),
        meta("oifname", "br*"),
        payload("ip6", "saddr", {"prefix": {"addr": "fd00::", "len": 8}}),
        payload("ip", "saddr", "10.64.3.2", "!="),
        payload("udp", "dport", 443),
        payload("ip", "saddr", "@empty"),
        match({"ct": {"key": "state"}}, "invalid", "in"),
        match({"ct": {"key": "status"}}, "dnat", "in"),
    ],
    ids=str,
)
def test_a_rule_that_does_not_match_is_passed_over(expression: dict[str, Any]) -> None:
    assert word(ruleset([expression, DROP])) == "accept"


def test_rejecting_is_dropping() -> None:
    assert word(ruleset([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}])) == "drop"


def test_jumps_come_back_and_gotos_do_not() -> None:
    chains = {"inner": [[meta("iifname", "br0"), RETURN], [ACCEPT]]}
    assert word(ruleset([{"jump": {"target": "inner"}}], [DROP], chains=chains)) == "drop"
    assert word(ruleset([{"goto": {"target": "inner"}}], [DROP], chains=chains)) == "accept"
    (verdict,) = ruleset([{"jump": {"target": "inner"}}], chains={"inner": [[DROP]]}).verdicts("forward", OUT)
    assert (verdict.word, verdict.chain.name, verdict.base.name) == ("drop", "inner", "forward")


def test_verdict_maps_are_looked_up() -> None:
    data = {"set": [["eth0", ACCEPT], ["br0", {"jump": {"target": "inner"}}]]}
    rules = ruleset([{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": data}}], chains={"inner": [[DROP]]})
    assert word(rules) == "drop"


def test_what_is_not_understood_makes_a_later_drop_doubtful() -> None:
    """iptables' own matches have no JSON."""
    assert word(ruleset([{"xt": None}, ACCEPT], policy="drop")) == "maybe"
    assert word(ruleset([{"xt": None}, DROP])) == "accept"
    assert word(
        ruleset([meta("mark", 1), {"jump": {"target": "inner"}}], policy="drop", chains={"inner": [[ACCEPT]]})
    ) == ("maybe")


XT = {"xt": {"type": "match", "name": "conntrack"}}
LISTED = """table inet filter { # handle 1
\tchain forward { # handle 1
\t\ttype filter hook forward priority filter; policy drop;
\t\t%s # handle 1
\t}
}
"""


@pytest.mark.parametrize(
    ("xt", "text", "packet", "outcome"),
    [
        (XT, "ct state related,established accept", OUT, "drop"),
        (XT, "ct state related,established accept", OUT._replace(state="established"), "accept"),
        (XT, "ct state != invalid accept", OUT, "accept"),
        (XT, "", OUT, "maybe"),
        ({"xt": {"type": "match", "name": "addrtype"}}, "fib daddr type local accept", OUT, "drop"),
        ({"xt": {"type": "match", "name": "addrtype"}}, "fib daddr type local accept", OUT._replace(oif=""), "accept"),
        ({"xt": {"type": "match", "name": "udp"}}, "udp sport 67 udp dport 68 accept", OUT, "drop"),
        ({"xt": {"type": "match", "name": "tcp"}}, "tcp dport 400-500 accept", OUT, "accept"),
        ({"xt": {"type": "match", "name": "comment"}}, "accept", OUT, "accept"),
        ({"xt": {"type": "match", "name": "recent"}}, "ct state new accept", OUT, "maybe"),
        ({"xt": None}, "ct state established accept", OUT, "drop"),
    ],
)
def test_what_iptables_made_is_read_from_its_text(xt: Any, text: str, packet: Packet, outcome: str) -> None:
    listing = [{"chain": BASE | {"policy": "drop"}}]
    rule = {"family": "inet", "table": "filter", "chain": "forward", "handle": 1, "expr": [xt, ACCEPT]}
    assert word(Ruleset({"nftables": [*listing, {"rule": rule}]}, LISTED % text), packet) == outcome


def test_iptables_rejecting_is_dropping_and_its_logging_is_nothing() -> None:
    assert word(ruleset([{"xt": {"type": "target", "name": "REJECT"}}])) == "drop"
    assert word(ruleset([{"xt": {"type": "target", "name": "LOG"}}])) == "accept"


def test_what_stays_on_this_host_is_local() -> None:
    rule = [match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), DROP]
    assert word(ruleset(rule)) == "accept"
    assert word(ruleset(rule), OUT._replace(oif="")) == "drop"


def test_every_table_has_its_say_and_those_of_other_families_have_none() -> None:
    rules = Ruleset(
        {
            "nftables": [
                {"chain": BASE | {"family": family, "policy": "drop", "prio": priority}}
                for family, priority in (("ip", 10), ("ip6", 0), ("inet", -10), ("bridge", 0))
            ]
        }
    )
    assert [verdict.base.family for verdict in rules.verdicts("forward", OUT)] == ["inet", "ip"]
    assert rules.verdicts("input", OUT) == []
