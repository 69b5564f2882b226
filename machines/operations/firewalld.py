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
    wanted = {f"{zone} {port}" for port in ports for zone in _zones(host)}
    begun = {line.lstrip("+") for line in recorded if not line.startswith("=")}
    done = begun - {line[1:] for line in recorded if line.startswith("+")}
    there = {f"{zone} {port}" for zone in {entry.split()[0] for entry in wanted} for port in _open_in(zone, host)}
    theirs = (wanted - begun) & there
    new, gone = wanted - theirs - (done & there), begun - wanted
    _record({*(f"+{entry}" for entry in new), *(f"={entry}" for entry in theirs), *(done - new), *gone}, host)
    for permanent in (["--permanent"], []):
        for word, entries in (("remove", gone), ("add", new)):
            for zone in sorted({entry.split()[0] for entry in entries}):
                options = [f"--{word}-port={entry.split()[1]}" for entry in sorted(entries) if _is_in(entry, zone)]
                host.tools.run(["firewall-cmd", "--quiet", *permanent, f"--zone={zone}", *options], check=word == "add")
    _record({*(f"={entry}" for entry in theirs), *wanted} - theirs, host)


def _record(lines: Collection[str], host: Host) -> None:
    text = "".join(f"{line}\n" for line in sorted(lines))
    if not text:
        host.files.remove_file(paths.FIREWALLD_PORTS)
    elif text != host.files.read_text(paths.FIREWALLD_PORTS):
        host.files.write_file(paths.FIREWALLD_PORTS, text)


def _is_in(entry: str, zone: str) -> bool:
    return entry.split()[0] == zone


def _open_in(zone: str, host: Host) -> list[str]:
    return host.tools.run(["firewall-cmd", f"--zone={zone}", "--list-ports"], check=False).stdout.split()


def _zones(host: Host) -> list[str]:
    """Those that links are in, and the one of all others; a line of --get-active-zones that is not indented is one."""
    active = host.tools.run(["firewall-cmd", "--get-active-zones"], check=False).stdout.splitlines()
    names = [line.split()[0] for line in active if line.strip() and not line[0].isspace()]
    names += host.tools.run(["firewall-cmd", "--get-default-zone"], check=False).stdout.split()
    return sorted({*names} - {TRUSTED})
