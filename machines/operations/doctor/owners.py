# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose a firewall is, and what its owner does to let packets of machines through."""

from __future__ import annotations

from collections.abc import Sequence

from machines.operations.doctor.verdict import Packet, Ruleset, Verdict


def owner_of(verdict: Verdict, ruleset: Ruleset) -> str:
    """Give the program that made a chain, by the names it gives, or "a firewall"."""
    chain = verdict.chain
    if chain.table == "firewalld":
        return "firewalld"
    names = {other.name for other in ruleset.chains.values() if other.table == chain.table}
    if any(name.startswith("ufw") for name in names):
        return "ufw"
    if "DOCKER-USER" in names and verdict.base.hook == "forward":
        return "Docker"
    if chain.table.startswith("libvirt") or chain.name.startswith("LIBVIRT"):
        return "libvirt"
    return "a firewall"


def rule_text(verdict: Verdict, ruleset: Ruleset) -> str:
    """Say which rule it is, as nft prints it, or that it is the chain's policy."""
    if verdict.handle is None:
        return "by its policy"
    return f"by its rule {ruleset.text(verdict.chain, verdict.handle) or f'with handle {verdict.handle}'}"


def opening(who: str, verdict: Verdict, devices: Sequence[str], packet: Packet) -> str:
    """Give the commands that let packets of machines on ``devices`` through."""
    return "\n".join([*(line for device in devices for line in _opening(who, verdict, device, packet)), *_after(who)])


def _opening(who: str, verdict: Verdict, device: str, packet: Packet) -> list[str]:
    chain, hook = verdict.chain, verdict.base.hook
    tables = "ip6tables" if packet.family == "ip6" else "iptables"
    if hook == "input" and packet.iif != device and who in {"firewalld", "ufw"}:
        port = f"{packet.port}/{packet.protocol}"
        return [f"firewall-cmd --permanent --add-port={port}" if who == "firewalld" else f"ufw allow {port}"]
    if who == "firewalld":
        return [f"firewall-cmd --permanent --zone=trusted --add-interface={device}"]
    if who == "Docker":
        return [f"{tables} -I DOCKER-USER -{way} {device} -j ACCEPT" for way in "io"]
    if who == "ufw" and hook == "input":
        return [f"ufw allow in on {device}"]
    if who == "ufw":
        return [f"ufw route allow {way} on {device}" for way in ("in", "out")]
    ways = {"input": ("iifname",), "output": ("oifname",)}.get(hook, ("iifname", "oifname"))
    insert = f"nft insert rule {chain.family} {chain.table} {verdict.base.name}"
    if hook == "input" and packet.iif != device:
        return [f"{insert} {packet.protocol} dport {packet.port} accept"]
    return [f"{insert} {way} {device} accept" for way in ways]


def _after(who: str) -> list[str]:
    return ["firewall-cmd --reload"] if who == "firewalld" else []
