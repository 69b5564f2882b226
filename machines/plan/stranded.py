# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that other files declare, and that a network leaves behind as it gets another subnet."""

from __future__ import annotations

import ipaddress
from collections.abc import Container

from machines.model.command import DIRECTORY, apply_command
from machines.model.network import Network
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.render import paths


def stranded(view: Observed, planned: Container[str]) -> list[str]:
    """Say which machines have addresses that their networks, as they are in ``view``, do not have.

    Not those that are ``planned``, which get others. Each text has the command that brings the machines along.
    """
    texts = []
    for name, network in sorted(view.networks.items()):
        if not network.origin or not view.declares(network.origin):
            continue
        left: dict[str, list[str]] = {}
        for machine, record in sorted(view.records.items()):
            # A stand-in goes with its rollout, which the next apply goes on with.
            passing = record.intent.startswith(("remove", "standin "))
            if machine not in planned and not passing and _is_off(record, network):
                left.setdefault(_origin(machine, view), []).append(machine)
        subnets = " and ".join(str(subnet) for subnet in (network.subnet, network.subnet6) if subnet)
        for origin, machines in left.items():
            said = "their addresses are" if len(machines) > 1 else "its address is"
            texts.append(
                f"{', '.join(machines)}: {said} outside of network {name}, which is {subnets} now\n"
                f"  {_remedy(origin, machines, view)}"
            )
    return texts


def _is_off(record: Record, network: Network) -> bool:
    own, own6 = record.addresses.get(network.bridge), record.addresses6.get(network.bridge)
    if own and ipaddress.IPv4Address(own) not in network.subnet:
        return True
    return bool(own6) and (network.subnet6 is None or ipaddress.IPv6Address(own6) not in network.subnet6)


def _origin(machine: str, view: Observed) -> str:
    return paths.declared_in(view.files.get(paths.settings_file(machine), ""))


def _remedy(origin: str, machines: list[str], view: Observed) -> str:
    if origin and not view.declares(origin):
        names = machines if origin.startswith(DIRECTORY) else []
        return f"bring {'them' if len(machines) > 1 else 'it'} along: {apply_command(origin, *names)}"
    if all(view.records[name].intent.startswith("throwaway") for name in machines):
        return "nothing is to be done: it goes with its command"
    return f"declare {'them' if len(machines) > 1 else 'it'} anew, or: machctl rm {' '.join(machines)}"
