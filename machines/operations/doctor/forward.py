# SPDX-License-Identifier: LGPL-2.1-or-later
"""Through the host: forwarding in the kernel, machctl's own nft table, and every firewall's verdict."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from machines.operations.doctor.finding import Finding
from machines.operations.doctor.links import own_addresses
from machines.operations.doctor.owners import opening, owner_of, rule_text
from machines.operations.doctor.verdict import Packet, Verdict
from machines.plan import steps
from machines.plan.bridges import FIREWALL_UNIT
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.operations.doctor.look import HostLook, Look
    from machines.render.links import Wire

# Addresses that documentation has for somewhere else (RFC 5737, RFC 3849).
OUTSIDE = {"ip": "192.0.2.1", "ip6": "2001:db8::1"}
OWN_TABLE = ("inet", "machctl")
# The second is there only where a machine is kept from its neighbours.
_LIST = "nft -s list table inet machctl && { nft -s list table bridge machctl 2>/dev/null || :; }"
_COMMENT = re.compile(r' comment "[^"]*"$')


def look_at_forwarding(devices: Iterable[str], look: HostLook, *, ipv6: bool) -> list[Finding]:
    """Does the kernel forward between ``devices``, where machines are, and the links that lead out?"""
    found = []
    families = ["ip", *(["ip6"] if ipv6 else [])]
    for family in families:
        wanted = {"ip": "net/ipv4/ip_forward", "ip6": "net/ipv6/conf/all/forwarding"}[family]
        keys = [wanted]
        if family == "ip":
            # networkd has settings of its own for single links (systemd.network(5), IPv4Forwarding=).
            keys += [f"net/ipv4/conf/{link}/forwarding" for link in (*devices, *look.uplinks["ip"])]
        off = [key for key in keys if look.sysctl(key) == 0]
        if off:
            found.append(_not_forwarded(family, off[:1] if off[0] == wanted else off, look))
    for link in look.uplinks["ip6"]:
        found += _losing_routes(link, look)
    if not look.uplinks["ip"]:
        found.append(
            Finding(
                "forwarding",
                "warning",
                "this host has no IPv4 default route itself: nothing leaves it",
                "ip route show; this is the host's own network",
            )
        )
    return found or [
        Finding("forwarding", "ok", "this host forwards " + " and ".join(_VERSIONS[each] for each in families))
    ]


_VERSIONS = {"ip": "IPv4", "ip6": "IPv6"}


def _not_forwarded(family: str, keys: list[str], look: HostLook) -> Finding:
    level = "bad" if family == "ip" else "warning"
    fix: list[steps.Step] = []
    if family == "ip6":
        # Before it forwards: the kernel drops the routes of links that have 1 at the moment it is told to.
        fix += [_accept_ra(link, look) for link in look.uplinks["ip6"] if look.sysctl(_ra(link)) == 1]
    fix += [
        steps.SetSysctl(reason="machines reach nothing else without it", machine=look.name, name=key, value=1)
        for key in keys
    ]
    return Finding(
        "forwarding",
        level,
        f"{_VERSIONS[family]} is not forwarded: {', '.join(key.replace('/', '.') for key in keys)} is 0",
        "\n".join(f"sysctl -w {step.name}={step.value}" for step in fix if isinstance(step, steps.SetSysctl)),
        tuple(fix),
    )


def _ra(link: str) -> str:
    return f"net/ipv6/conf/{link}/accept_ra"


def _accept_ra(link: str, look: HostLook) -> steps.SetSysctl:
    return steps.SetSysctl(
        reason="a host that forwards takes no routes with 1", machine=look.name, name=_ra(link), value=2
    )


def _losing_routes(link: str, look: HostLook) -> list[Finding]:
    """The kernel's own route by router advertisement ends when it forwards, unless accept_ra is 2 (systemd#37029)."""
    routes = [route for route in look.routes("ip6") if route["dev"] == link and route.get("protocol") == "ra"]
    # networkd, where it takes advertisements itself, has set the kernel's own taking to 0.
    if not routes or look.sysctl(_ra(link)) != 1 or look.sysctl("net/ipv6/conf/all/forwarding") != 1:
        return []
    return [
        Finding(
            "forwarding",
            "warning",
            f"this host will lose its IPv6 default route on {link}: it forwards and accept_ra is 1",
            f"sysctl -w {_ra(link)}=2",
            (_accept_ra(link, look),),
        )
    ]


def look_at_nat(host: Host, machine: str = "") -> Finding:
    """Is the table in the kernel what its files say? They are loaded where nobody is, to compare the two."""
    wanted, error = _table_of_files(host)
    if error:
        return Finding("nat", "bad", f"{paths.NAT_FILE} cannot be loaded: {error}", "machctl apply writes it anew")
    done = host.tools.run(["sh", "-c", _LIST], check=False)
    load = steps.LoadNat(reason="it is not what its files say", machine=machine)
    remedy = f"nft -f {paths.NAT_FILE}"
    if done.returncode:
        return Finding("nat", "bad", "nft table inet machctl is not loaded: no NAT, no ports", remedy, (load,))
    missing, added = _changes(wanted, done.stdout)
    if not missing and not added:
        return Finding("nat", "ok", "nft table inet machctl is what its files say")
    said = [f"lacks: {line}" for line in missing] or [f"has what nobody wrote: {line}" for line in added]
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    return Finding("nat", "bad", f"nft table inet machctl {said[0]}{more}", remedy, (load,))


def _table_of_files(host: Host) -> tuple[str, str]:
    """Give the table as nft prints it once it has loaded the files, and why it could not."""
    script = f'nft -f "$1" && {_LIST}'
    done = host.tools.run(["unshare", "--net", "sh", "-c", script, "sh", paths.NAT_FILE], check=False)
    return done.stdout, (done.stderr.strip().splitlines() or ["nft failed"])[0] if done.returncode else ""


def _changes(wanted: str, have: str) -> tuple[list[str], list[str]]:
    lines = list(difflib.ndiff(wanted.splitlines(), have.splitlines()))
    lacks, adds = ([line[2:].strip() for line in lines if line.startswith(sign)] for sign in ("- ", "+ "))
    return [_COMMENT.sub("", line) for line in lacks if line], [_COMMENT.sub("", line) for line in adds if line]


def look_at_firewalls(wire: Wire, look: Look) -> list[Finding]:
    """What do the firewalls of this host make of the machine's packets, of those to it, and of its questions to us?"""
    device = wire.bridge or wire.outer
    found: dict[str, Finding] = {}
    for hook, what, packet in _packets(device, wire, look):
        for verdict in look.ruleset.verdicts(hook, packet):
            if verdict.word == "accept" or (verdict.base.family, verdict.base.table) == OWN_TABLE:
                continue
            finding = dropped(verdict, what, [device], packet, look)
            found.setdefault(f"{verdict.chain} {verdict.handle}", finding)
    found |= {finding.message: finding for finding in legacy_drops(device, look)}
    return list(found.values()) or [
        Finding("firewall", "ok", f"no firewall of this host drops its packets{_kept(look)}")
    ]


def _kept(look: Look) -> str:
    """What it may not do by its own declaration, which is no fault."""
    machine = look.machine
    if machine and machine.egress is not None:
        return f"; egress lets it reach {', '.join(map(str, machine.egress)) or 'nothing'}"
    return "; it is isolated, as is declared" if machine and machine.isolated else ""


def _packets(device: str, wire: Wire, look: Look) -> Iterator[tuple[str, str, Packet]]:
    assert wire.network is not None
    for address in own_addresses(wire):
        family = "ip6" if ":" in address else "ip"
        outside = OUTSIDE[family]
        for uplink in look.uplinks[family]:
            if wire.network.mode != "isolated":
                out = Packet(family, device, uplink, address, outside, "tcp", 443)
                yield "forward", "what it sends out", out
                yield "forward", "answers to it", Packet(family, uplink, device, outside, address, state="established")
            for port in look.machine.publish if look.machine else ():
                called = Packet(family, uplink, device, outside, address, port.protocol, port.guest, dnat=True)
                yield "forward", "what comes for its ports", called
        host = (wire.network.gateway6 if family == "ip6" else wire.network.gateway) or ""
        yield "input", "its answers to this host", Packet(family, device, "", address, host, state="established")
        yield "output", "what this host sends it", Packet(family, "", device, host, address, "tcp", 80)
        for uplink, own, number in _proxied(family, look):
            come = Packet(family, uplink, "", outside, own, "tcp", number)
            yield "input", f"what comes for port {number} of this host, and is to start it", come
        if host in look.name_servers:
            asked = Packet(family, device, "", address, host, "udp", 53)
            yield "input", "its questions for names to this host", asked


def _proxied(family: str, look: Look) -> Iterator[tuple[str, str, int]]:
    """Where this host itself answers for the machine: by which uplink, at which address and port."""
    machine = look.machine
    ports = machine.publish if machine and machine.on_demand else ()
    single = [port.host for port in ports if port.address is None and port.protocol == "tcp" and port.count == 1]
    for uplink in look.uplinks[family] if single else ():
        addresses = look.links[uplink].addresses if uplink in look.links else ()
        own = next((each.split("/")[0] for each in addresses if (":" in each) == (family == "ip6")), "")
        for number in single if own else ():
            yield uplink, own, number


def dropped(verdict: Verdict, what: str, devices: Sequence[str], packet: Packet, look: HostLook) -> Finding:
    """Say that a firewall drops packets of the machines on ``devices``, and how it lets them pass."""
    chain = verdict.base
    who = owner_of(verdict, look.ruleset)
    if verdict.word == "maybe":
        return Finding(
            "firewall",
            "warning",
            f"{who} (nft chain {chain}) may drop {what}",
            f"nft list table {chain.family} {chain.table} has the rules, too many to tell from here",
        )
    return Finding(
        "firewall",
        "bad",
        f"{who} (nft chain {verdict.chain}) drops {what}, {rule_text(verdict, look.ruleset)}",
        opening(who, verdict, devices, packet),
        _allowed_anew(who, look),
    )


def _allowed_anew(who: str, look: HostLook) -> tuple[steps.Step, ...]:
    """machctl has those two let its networks pass when they start; what they were told since may have undone it."""
    theirs = {"Docker": "docker.service", "firewalld": "firewalld.service"}.get(who)
    if theirs is None or look.host.units.states([theirs]).get(theirs) != "active":
        return ()
    reason = f"{who} does not let it pass"
    return (steps.StartUnit(reason=reason, machine=look.name, unit=FIREWALL_UNIT, restart=True),)


def legacy_drops(device: str, look: HostLook) -> Iterator[Finding]:
    """iptables of before nftables has tables of its own, which nft does not list."""
    if "filter" not in (look.host.files.read_text("/proc/net/ip_tables_names") or "").split():
        return
    if not look.host.tools.which("iptables-legacy"):
        return
    rules = look.host.tools.run(["iptables-legacy", "-S", "FORWARD"], check=False).stdout.splitlines()
    opened = any(f"-i {device} " in rule and rule.endswith("-j ACCEPT") for rule in rules)
    if "-P FORWARD DROP" in rules and not opened:
        yield Finding(
            "firewall",
            "bad",
            "iptables-legacy drops what the host forwards, by the policy of FORWARD",
            "\n".join(f"iptables-legacy -I FORWARD -{way} {device} -j ACCEPT" for way in "io"),
        )
