# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bridges that machctl made go with the last machine on them."""

from __future__ import annotations

from collections.abc import Collection

from machines.model.names import IFNAMSIZ, bridge_unit, extra_link
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths

NAT_UNIT = "machctl-nat.service"


def plan_unused(host: Host, *, gone: Collection[str] = (), machine: str, nat_changed: bool = False) -> Plan:
    """Give the steps that take away every bridge of machctl's that no machine has an address on.

    ``gone`` are machines that are being removed. A bridge with a port that is not theirs stays, until a later plan
    finds it empty. Where files of the nft table changed or go, it is loaded anew or dropped.
    """
    used = {bridge for record in host.records.values() if record.name not in gone for bridge in record.addresses}
    unused = [bridge for bridge in sorted(host.networks) if bridge not in used and not _in_use(bridge, gone, host)]
    plan: Plan = []
    for bridge in unused:
        plan += _remove_bridge(bridge, machine, host)
    if not nat_changed and not unused:
        return plan
    if set(host.networks) - set(unused):
        plan.append(steps.LoadNat(reason="its files changed", machine=machine))
    else:
        if paths.NAT_FILE in host.files:
            plan.append(steps.RemoveFile(reason="no bridge needs it", machine=machine, path=paths.NAT_FILE))
        plan.append(steps.LoadNat(reason="no bridge needs it", machine=machine, drop=True))
        plan.append(steps.StopUnit(reason="no bridge needs it", machine=machine, unit=NAT_UNIT))
    return plan


def _in_use(bridge: str, gone: Collection[str], host: Host) -> bool:
    link = host.links.get(bridge)
    return any(not any(_is_port_of(port, name, host) for name in gone) for port in (link.ports if link else ()))


def _is_port_of(port: str, name: str, host: Host) -> bool:
    """Tell whether a bridge's port is a running machine's own: nspawn cuts long names and adds a hash to them."""
    if name not in host.running:
        return False
    first = f"vb-{name}"
    alike = [other for other in host.running if other[:8] == name[:8]]
    named = port == first if len(first) <= IFNAMSIZ else port[:11] == first[:11] and alike == [name]
    return named or port in {extra_link(name, index) for index in range(1, 9)}


def _remove_bridge(bridge: str, machine: str, host: Host) -> Plan:
    reason = f"no other machine is on {bridge}"
    plan: Plan = [steps.StopUnit(reason=reason, machine=machine, unit=bridge_unit(bridge))]
    files = [path for path, text in host.files.items() if paths.owner(path, text) == ("bridge", bridge)]
    plan += [steps.RemoveFile(reason=reason, machine=machine, path=path) for path in files]
    if host.networkd and any(path.startswith(paths.NETWORK_DIRECTORY) for path in files):
        plan.append(steps.ReloadNetworkd(reason=f"files of bridge {bridge} are gone", machine=machine))
    if bridge in host.links:
        plan.append(steps.RemoveLink(reason=reason, machine=machine, link=bridge))
    plan.append(steps.RemoveFile(reason=reason, machine=machine, path=paths.network_record(bridge)))
    return plan
