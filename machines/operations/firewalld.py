# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of machines that this host itself answers, in the zones of firewalld (firewall-cmd(1))."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from machines.plan.firewalld import proxied_ports
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# All that comes is let in there.
TRUSTED = "trusted"


def open_ports(host: Host) -> None:
    """Open the ports in all zones that links are in, and close those again that are nobody's by now.

    For good as well, as firewall-cmd --reload forgets the rest. What was open before stays so: plan.firewalld has how
    that is told from the rest, and what a killed run was about to do.
    """
    recorded = (host.files.read_text(paths.FIREWALLD_PORTS) or "").splitlines()
    sockets = host.files.read_files([f"{paths.UNIT_DIRECTORY}/machctl-port-*.socket"])
    ports = proxied_ports(sockets)
    if not (ports or recorded):
        return
    all_zones = _zones(host) if ports else set()
    zones = all_zones - {TRUSTED}
    wanted = {f"{zone} {port}" for port in ports for zone in zones}
    begun = {line.lstrip("+") for line in recorded if not line.startswith("=")}
    done = begun - {line[1:] for line in recorded if line.startswith("+")}
    now, for_good = _open(wanted, host), _open(wanted, host, "--permanent")
    theirs = (wanted - begun) & (now | for_good)
    new, gone = wanted - theirs - (done & now & for_good), begun - wanted
    # Where nothing has to be opened that is said as well: the plan is to find the port.
    kept = {f"={entry}" for entry in theirs} | {f"={TRUSTED} {port}" for port in ports if all_zones == {TRUSTED}}
    _record({*(f"+{entry}" for entry in new), *kept, *(done - new), *gone}, host)
    for permanent in (["--permanent"], []):
        # What others have opened for good only is open from their next reload on: no need to wait for that.
        for word, entries in (("remove", gone), ("add", new if permanent else new | (theirs - now))):
            for zone in sorted({_split(entry)[0] for entry in entries}):
                options = [_option(word, port) for each, port in map(_split, sorted(entries)) if each == zone]
                host.tools.run(["firewall-cmd", "--quiet", *permanent, f"--zone={zone}", *options], check=word == "add")
    _record(kept | (wanted - theirs), host)


def _record(lines: Collection[str], host: Host) -> None:
    text = "".join(f"{line}\n" for line in sorted(lines))
    if not text:
        host.files.remove_file(paths.FIREWALLD_PORTS)
    elif text != host.files.read_text(paths.FIREWALLD_PORTS):
        host.files.write_file(paths.FIREWALLD_PORTS, text)


def _split(entry: str) -> tuple[str, str]:
    zone, _, port = entry.partition(" ")
    return zone, port


def _option(word: str, port: str) -> str:
    rule = _rule(port)
    return f"--{word}-rich-rule={rule}" if rule else f"--{word}-port={port}"


def _rule(port: str) -> str:
    """Give the rule for a port of one address, as firewalld itself has it (firewalld.richlanguage(5)); "" for others.

    In whatever zone the link is that has the address: to the others nothing for it comes.
    """
    ports, _, address = port.partition(" ")
    number, _, protocol = ports.partition("/")
    family = "ipv6" if ":" in address else "ipv4"
    to = f'rule family="{family}" destination address="{address}"'
    return f'{to} port port="{number}" protocol="{protocol}" accept' if address else ""


def _open(entries: Collection[str], host: Host, *options: str) -> set[str]:
    """Give those of ``entries`` that are open: firewalld lists ports one by one and in ranges, "8000-8100/tcp"."""
    found = set()
    for zone in sorted({_split(entry)[0] for entry in entries}):
        ports = [port for each, port in map(_split, entries) if each == zone]
        listed: dict[bool, list[str]] = {}
        for rules in sorted({" " in port for port in ports}):
            what = "--list-rich-rules" if rules else "--list-ports"
            text = host.tools.run(["firewall-cmd", *options, f"--zone={zone}", what], check=False).stdout
            listed[rules] = text.splitlines() if rules else text.split()
        for port in ports:
            rule = _rule(port)
            if rule in listed[True] if rule else any(_covers(span, port) for span in listed[False]):
                found.add(f"{zone} {port}")
    return found


def _covers(span: str, port: str) -> bool:
    span, _, protocol = span.partition("/")
    first, _, last = span.partition("-")
    number, _, wanted = port.partition("/")
    known = first.isdecimal() and (last or first).isdecimal()
    return known and protocol == wanted and int(first) <= int(number) <= int(last or first)


def _zones(host: Host) -> set[str]:
    """Those that links are in, and the one of all others; a line of --get-active-zones that is not indented is one."""
    active = host.tools.run(["firewall-cmd", "--get-active-zones"], check=False).stdout.splitlines()
    names = [line.split()[0] for line in active if line.strip() and not line[0].isspace()]
    names += host.tools.run(["firewall-cmd", "--get-default-zone"], check=False).stdout.split()
    return {*names}
