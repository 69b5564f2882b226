# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bridges that machctl made go with the last machine on them."""

from __future__ import annotations

from collections.abc import Collection

from machines.model.frozen import replace
from machines.model.names import IFNAMSIZ, bridge_unit, extra_link
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.check_host import FIREWALL_UNIT as FIREWALL_UNIT
from machines.plan.check_host import NETWORK_MANAGER
from machines.plan.names import plan_names
from machines.plan.steps import Plan
from machines.render import paths

NAT_UNIT = "machctl-nat.service"


def enabled_path(unit: str) -> str:
    """Give the symlink that has systemd start a bridge's unit at boot."""
    return f"{paths.UNIT_DIRECTORY}/multi-user.target.wants/{unit}"


def plan_unused(host: Host, *, gone: Collection[str] = (), machine: str, nat_changed: bool = False) -> Plan:
    """Give the steps that take away every bridge of machctl's that no machine has an address on and nobody declared.

    ``gone`` are machines that are being removed. A bridge with a port that is not theirs stays, until a later plan
    finds it empty. Where files of the nft table changed or go, it is loaded anew or dropped; names go as well.
    """
    records = [record for record in host.records.values() if record.name not in gone]
    used = {bridge for record in records for bridge in (*record.addresses, *record.networks)}
    unused = [
        bridge
        for bridge, network in sorted(host.networks.items())
        if bridge not in used and not network.origin and not _in_use(bridge, gone, host)
    ]
    plan: Plan = []
    for bridge in unused:
        plan += remove_bridge(bridge, machine, host, reason=f"no other machine is on {bridge}")
    plan += drop_nat(unused, host, machine=machine, nat_changed=nat_changed)
    return plan + plan_names(host, without(host, gone, unused), machine=machine)


def without(host: Host, gone: Collection[str], bridges: Collection[str]) -> Host:
    """Give ``host`` as it is once machines and bridges are gone."""
    records = {name: record for name, record in host.records.items() if name not in gone}
    networks = {bridge: network for bridge, network in host.networks.items() if bridge not in bridges}
    return replace(host, records=records, networks=networks)


def drop_nat(unused: Collection[str], host: Host, *, machine: str, nat_changed: bool = False) -> Plan:
    """Give the steps that load the nft table without what was for ``unused`` bridges, or drop it with the last."""
    left = set(host.networks) - set(unused)
    # A run may have been killed between the last network and the table: the file goes last.
    if not nat_changed and not unused and (left or paths.NAT_FILE not in host.files):
        return []
    plan: Plan = []
    if left:
        plan.append(steps.LoadNat(reason="its files changed", machine=machine))
    else:
        plan.append(steps.LoadNat(reason="no bridge needs it", machine=machine, drop=True))
        plan.append(steps.StopUnit(reason="no bridge needs it", machine=machine, unit=NAT_UNIT))
    if (unused or not left) and FIREWALL_UNIT in host.active:
        reason = "Docker and firewalld need not let it pass any more"
        plan.append(steps.StartUnit(reason=reason, machine=machine, unit=FIREWALL_UNIT, restart=True))
    if not left and paths.NAT_FILE in host.files:
        plan.append(steps.RemoveFile(reason="no bridge needs it", machine=machine, path=paths.NAT_FILE))
    return plan


def _in_use(bridge: str, gone: Collection[str], host: Host) -> bool:
    link = host.links.get(bridge)
    # Those whose record has lost the bridge are detached from it by the plan that records that.
    left = {name for name, record in host.records.items() if record.links and bridge not in _bridges(record)}
    away = {*gone, *left}
    return any(not any(_is_port_of(port, name, host) for name in away) for port in (link.ports if link else ()))


def _bridges(record: Record) -> set[str]:
    return {*record.addresses, *record.networks, *record.foreign}


def _is_port_of(port: str, name: str, host: Host) -> bool:
    """Tell whether a bridge's port is a running machine's own: nspawn cuts long names and adds a hash to them."""
    if name not in host.running:
        return False
    first = f"vb-{name}"
    alike = [other for other in host.running if other[:8] == name[:8]]
    named = port == first if len(first) <= IFNAMSIZ else port[:11] == first[:11] and alike == [name]
    number = port[2:].partition("-")[0]
    return named or (number.isdecimal() and port == extra_link(name, int(number)))


def remove_bridge(bridge: str, machine: str, host: Host, *, reason: str) -> Plan:
    """Give the steps after which nothing of a bridge that machctl made is left."""
    plan: Plan = []
    if enabled_path(bridge_unit(bridge)) in host.files:
        plan.append(steps.DisableUnit(reason=reason, machine=machine, unit=bridge_unit(bridge)))
    plan.append(steps.StopUnit(reason=reason, machine=machine, unit=bridge_unit(bridge)))
    files = [path for path, text in host.files.items() if paths.owner(path, text) == ("bridge", bridge)]
    plan += [steps.RemoveFile(reason=reason, machine=machine, path=path) for path in files]
    if host.networkd and any(path.startswith(paths.NETWORK_DIRECTORY) for path in files):
        plan.append(steps.ReloadNetworkd(reason=f"files of bridge {bridge} are gone", machine=machine))
    # Where nspawn has taken that of a zone away, networkd makes it again as soon as it reads its files for another one.
    if bridge in host.links or any(path.endswith(".netdev") for path in files):
        plan.append(steps.RemoveLink(reason=reason, machine=machine, link=bridge))
    if paths.unmanaged_file(bridge) in files and NETWORK_MANAGER in host.active:
        plan.append(steps.ReloadNetworkManager(reason=f"bridge {bridge} is gone", machine=machine))
    plan.append(steps.RemoveFile(reason=reason, machine=machine, path=paths.network_record(bridge)))
    return plan
