# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports that this host itself answers for machines: firewalld lets them in when it is told to only."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.observed import Host
from machines.plan import steps
from machines.plan.bridges import FIREWALL_UNIT
from machines.plan.steps import Plan
from machines.render import paths

FIREWALLD = "firewalld.service"
_OWN = ("127.", "[::1]")


def proxied_ports(files: Mapping[str, str]) -> set[str]:
    """Give the ports at which socket units of ``files`` answer others than this host, as firewall-cmd(1) has them."""
    found = set()
    for path, text in files.items():
        if path.startswith(f"{paths.UNIT_DIRECTORY}/machctl-port-") and path.endswith(".socket"):
            lines = [line.removeprefix("ListenStream=") for line in text.splitlines() if "ListenStream=" in line]
            found |= {f"{line.rpartition(':')[2]}/tcp" for line in lines if not line.startswith(_OWN)}
    return found


def opened_ports(text: str) -> set[str]:
    """Give the ports that are open for certain, of the record of those: a line is ZONE PORT, with a sign before it.

    "+" is one that machctl was about to open, "=" one that was open before, which stays so.
    """
    return {line.split()[1] for line in text.splitlines() if not line.startswith("+")}


def plan_opened(before: Host, files: Mapping[str, str], *, machine: str) -> Plan:
    """Give the step that has firewalld, where that runs, let in what ``files`` have answered, and nothing that is gone.

    What DNAT sends to machines it lets through by itself.
    """
    if FIREWALLD not in before.active:
        return []
    wanted, have = proxied_ports(files), opened_ports(before.files.get(paths.FIREWALLD_PORTS, ""))
    if wanted == have:
        return []
    new, gone = sorted(wanted - have), sorted(have - wanted)
    said = [f"let {', '.join(new)} in"] * bool(new) + [f"let {', '.join(gone)} in no more"] * bool(gone)
    reason = f"firewalld is to {' and '.join(said)}"
    return [steps.StartUnit(reason=reason, machine=machine, unit=FIREWALL_UNIT, restart=True)]
