# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules that lead the ports of a machine to another one that stands in for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from machines.model.frozen import replace
from machines.model.machine import Machine, Publish
from machines.model.observed import Record
from machines.render.environment import render
from machines.render.placement import Placement
from machines.render.ports import CHAINS, dnat_rules, verdict, ways
from machines.render.rules import stamped


def addresses_of(record: Record) -> tuple[str | None, str | None]:
    """Give the addresses that the published ports of a machine lead to, by what it was given; None for none."""
    bridge = next(iter(record.addresses), None)
    return (None, None) if bridge is None else (record.addresses[bridge], record.addresses6.get(bridge))


def same_port(port: Publish, others: Iterable[Publish]) -> Publish | None:
    """Give the one of ``others`` that is published on the same ports of the host; None where there is none."""
    for other in others:
        if (port.host, port.address, port.protocol, port.count) == (
            other.host, other.address, other.protocol, other.count,
        ):  # fmt: skip
            return other
    return None


def redirect_rules(
    machine: Machine, stand_in: Machine, old: Iterable[Publish], record: Record, placement: Placement
) -> list[str]:
    """Give the rules that lead all that asks for the published ports of ``machine`` to its ``stand_in``.

    The proxies of 127.0.0.1, and whoever on this host knows the machine's address, ask that: ``record`` has it, and
    ``old`` are the ports it has published up to now. ``placement`` is that of the stand-in.
    """
    published = replace(stand_in, publish=machine.publish)
    rules = [
        rule
        for port in machine.publish
        for rule in dnat_rules(port, ways(port, published, placement), published, placement)
    ]
    there = _targets(placement)
    for port in old:
        new = same_port(port, machine.publish)
        if new is None:
            continue
        direct = Publish(port.guest, new.guest, None, port.protocol, port.count)
        for family, source, target in zip(("ip", "ip6"), addresses_of(record), there, strict=True):
            if source and target:
                match = f"{family} daddr {source} {verdict(direct, family, target)}"
                rules += [f"inet machctl {chain} {match}" for chain in CHAINS]
    return list(dict.fromkeys(rules))


def _targets(placement: Placement) -> tuple[str | None, str | None]:
    addresses: Mapping[str, str] = placement.addresses
    bridge = next(iter(addresses), None)
    return (None, None) if bridge is None else (addresses[bridge], placement.addresses6.get(bridge))


def redirect_text(name: str, stand_in: str, rules: Iterable[str]) -> str:
    """Give the file of these rules."""
    header = f"# machctl: ports of machine {name} lead to {stand_in} for a moment, which stands in for it"
    return render("ports.nft", header=header, bridged=False, rules=stamped(f"redirect-{name}", rules))
