# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that takes a machine away, whole or half made."""

from __future__ import annotations

from collections.abc import Mapping

from machines.errors import Conflict
from machines.model.machine import Machine
from machines.model.names import IFNAMSIZ, bridge_unit, extra_link, machine_unit
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths

RM = "the machine is removed"


def plan_remove(name: str, host: Host, declared: Mapping[str, Machine], *, reason: str = RM) -> Plan:
    """Give the steps after which nothing of machine ``name`` is left, nor a bridge that only it was on.

    The log of its bootstrap goes only if the machine does for good: after a failure somebody wants to read it.

    Raises Conflict when the machine is declared in a file together with others, which people have to edit.
    """
    plan: Plan = []
    own = declared.get(name)
    if name in host.running:
        plan.append(steps.StopMachine(reason="it is running", machine=name, name=name, terminate=True))
    if host.enabled.get(name):
        plan.append(steps.DisableUnit(reason=reason, machine=name, unit=machine_unit(name)))
    files = [path for path, text in host.files.items() if paths.owner(text) == ("machine", name)]
    settings = paths.settings_file(name)
    if own is None and name in host.trees and settings in host.files and settings not in files:
        # machined removes the settings of an image with it (systemd#15900), whoever wrote them.
        files.append(settings)
    plan += [
        steps.StopUnit(reason=reason, machine=name, unit=path.rsplit("/", 1)[1])
        for path in files
        if path.endswith((".socket", ".service"))
    ]
    if own is not None:
        shared = sorted(other.name for other in declared.values() if other.origin == own.origin and other.name != name)
        if shared or own.origin.endswith("/fleet.toml"):
            raise Conflict(
                f"machine {name} is declared in {own.origin}, together with others",
                hint=f"take [machines.{name}] out of that file, then run machctl rm {name} again",
            )
        files.append(own.origin)
    plan += [steps.RemoveFile(reason=reason, machine=name, path=path) for path in files]
    if name in host.journals:
        plan.append(steps.RemoveFile(reason="its journal was linked there", machine=name, path=host.journals[name]))
    if name in host.logs and reason == RM:
        plan.append(steps.RemoveFile(reason=reason, machine=name, path=host.logs[name]))
    if name in host.trees:
        plan.append(steps.RemoveTree(reason=reason, machine=name, path=host.trees[name].path))
    if any(path.startswith(paths.UNIT_DIRECTORY) for path in files):
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=name))
    plan += _networks(name, host, nat_changed=any(path.startswith(paths.NAT_DIRECTORY) for path in files))
    return plan


def _networks(name: str, host: Host, *, nat_changed: bool) -> Plan:
    record = host.records.get(name)
    others = [other for other in host.records.values() if other.name != name]
    used = {bridge for other in others for bridge in other.addresses}
    mine = set(record.addresses) if record else set()
    gone = sorted(bridge for bridge in host.networks if bridge not in used and bridge in mine)
    plan: Plan = []
    for bridge in gone:
        link = host.links.get(bridge)
        ours = {port for port in (link.ports if link else ()) if _is_port_of(port, name, host)}
        if link and set(link.ports) - ours:
            # Somebody attached a link of their own: the bridge stays until a later run finds it empty.
            continue
        plan += remove_bridge(bridge, name, host)
        nat_changed = True
    if record:
        plan.append(steps.RemoveFile(reason=RM, machine=name, path=paths.machine_record(name)))
    if nat_changed:
        left = [bridge for bridge in host.networks if bridge not in gone]
        if not left and paths.NAT_FILE in host.files:
            plan.append(steps.RemoveFile(reason="no bridge needs it", machine=name, path=paths.NAT_FILE))
        plan.append(steps.LoadNat(reason="its files changed", machine=name, drop=not left))
        if not left:
            plan.append(steps.StopUnit(reason="no bridge needs it", machine=name, unit="machctl-nat.service"))
    return plan


def _is_port_of(port: str, name: str, host: Host) -> bool:
    """Tell whether a bridge's port is a running machine's own: nspawn cuts long names and adds a hash to them."""
    if name not in host.running:
        return False
    first = f"vb-{name}"
    named = port == first if len(first) <= IFNAMSIZ else port[:11] == first[:11]
    return named or port in {extra_link(name, index) for index in range(1, 9)}


def remove_bridge(bridge: str, name: str, host: Host) -> Plan:
    """Give the steps that take a bridge away which machctl made, with its record last."""
    reason = f"no other machine is on {bridge}"
    plan: Plan = [steps.StopUnit(reason=reason, machine=name, unit=bridge_unit(bridge))]
    files = [path for path, text in host.files.items() if paths.owner(text) == ("bridge", bridge)]
    plan += [steps.RemoveFile(reason=reason, machine=name, path=path) for path in files]
    if host.networkd and any(path.startswith(paths.NETWORK_DIRECTORY) for path in files):
        plan.append(steps.ReloadNetworkd(reason=f"files of bridge {bridge} are gone", machine=name))
    if bridge in host.links:
        plan.append(steps.RemoveLink(reason=reason, machine=name, link=bridge))
    plan.append(steps.RemoveFile(reason=reason, machine=name, path=paths.network_record(bridge)))
    return plan
