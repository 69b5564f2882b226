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
_EVERY = {"", "0.0.0.0", "[::]"}


def proxied_ports(files: Mapping[str, str]) -> set[str]:
    """Give the ports at which socket units of ``files`` answer others than this host, as firewall-cmd(1) has them.

    One that is published on one address of the host has that behind it: "8080/tcp 192.0.2.1".
    """
    found = set()
    for path, text in files.items():
        if path.startswith(f"{paths.UNIT_DIRECTORY}/machctl-port-") and path.endswith(".socket"):
            lines = [line.removeprefix("ListenStream=") for line in text.splitlines() if "ListenStream=" in line]
            found |= {_port(line) for line in lines if not line.startswith(_OWN)}
    return found


def _port(listen: str) -> str:
    address, _, port = listen.rpartition(":")
    # Which link an address of one link is of firewalld does not ask.
    address = "" if address in _EVERY else address.strip("[]").partition("%")[0]
    return f"{port}/tcp {address}".rstrip()


def opened_ports(text: str) -> set[str]:
    """Give the ports that are open for certain, of the record of those: a line is ZONE PORT, with a sign before it.

    "+" is one that machctl was about to open, "=" one that was open before, which stays so. A port that it was about
    to open in one zone is not open for certain.
    """
    begun = {_recorded(line) for line in text.splitlines() if line.startswith("+")}
    return {_recorded(line) for line in text.splitlines()} - begun


def _recorded(line: str) -> str:
    return line.partition(" ")[2]


def plan_opened(before: Host, files: Mapping[str, str], *, machine: str) -> Plan:
    """Give the step that has firewalld, where that runs, let in what ``files`` have answered, and nothing that is gone.

    What DNAT sends to machines it lets through by itself.
    """
    if FIREWALLD not in before.active:
        return []
    text = before.files.get(paths.FIREWALLD_PORTS, "")
    wanted = proxied_ports(files)
    # What a killed run was about to open may be open.
    new = sorted(wanted - opened_ports(text))
    gone = sorted({_recorded(line) for line in text.splitlines()} - wanted)
    if not (new or gone):
        return []
    said = [f"let {_shown(new)} in"] * bool(new) + [f"let {_shown(gone)} in no more"] * bool(gone)
    reason = f"firewalld is to {' and '.join(said)}"
    return [steps.StartUnit(reason=reason, machine=machine, unit=FIREWALL_UNIT, restart=True)]


def plan_left_open(host: Host, plan: Plan, *, machine: str = "") -> Plan:
    """Give plan_opened()'s step for what ``plan`` leaves, that goes before; none where it has firewalld told already.

    A run may have been killed between the units of ports that went and what firewalld has of them.
    """
    if any(isinstance(step, steps.StartUnit) and step.unit == FIREWALL_UNIT for step in plan):
        return []
    gone = {step.path for step in plan if isinstance(step, steps.RemoveFile)}
    return plan_opened(host, {path: host.files[path] for path in host.files if path not in gone}, machine=machine)


def _shown(ports: list[str]) -> str:
    return ", ".join(port.replace(" ", " at ") for port in ports)
