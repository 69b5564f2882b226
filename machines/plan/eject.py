# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that leaves a machine to systemd alone; it runs on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.toml import declares_only
from machines.declare.write import write_machine
from machines.errors import Conflict, NotFound
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import bridge_unit, link_network
from machines.model.network import Network
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.bridges import FIREWALL_UNIT, drop_nat, without
from machines.plan.claims import closed_like
from machines.plan.links import link_parents, stop_waiting
from machines.plan.names import plan_names
from machines.plan.steps import Plan
from machines.render import eject as left
from machines.render import paths

WHY = "it is systemd's alone from now on"


def plan_eject(name: str, host: Host, declared: Mapping[str, Machine]) -> tuple[Plan, list[str]]:
    """Give the steps after which machctl knows nothing of a machine that goes on as it was, and what it loses.

    What it has goes over to files of its own before machctl's go, and its record last: a run that is killed anywhere
    in between is finished by the next. Raises Conflict for a machine that is declared together with others, NotFound
    for one that machctl does not look after.
    """
    own, record = declared.get(name), host.records.get(name)
    if record is None or record.intent == "ejected":
        raise NotFound(f"machctl does not look after machine {name}", hint="machctl list shows which are declared")
    _refuse_shared(name, own, host)
    bridges = [*record.addresses, *record.networks]
    networks = [host.networks[bridge] for bridge in bridges if bridge in host.networks]
    leaving = [network for network in networks if _is_its_alone(name, network, host)]
    files = [path for path, text in host.files.items() if _is_its(name, path, text)]
    gone = [path for path in files if path in {paths.probe_file(name), paths.health_dropin(name)}]
    gone += [path for path in files if path.startswith(paths.NAT_DIRECTORY)]
    # Without its RuntimeDirectory= nobody would remove it.
    gone += [path for path in (paths.units_read(name),) if path in host.files]
    names = [network.bridge for network in networks]
    wanted = _own_files(name, networks, leaving, host)
    if own is not None:
        wanted[paths.ejected_file(name)] = _declaration(own, record, leaving)
    for path in files:
        if path not in gone and path not in wanted:
            wanted[path] = left.ejected(name, host.files[path], networks=names)
    for network in leaving:
        for path, text in host.files.items():
            if paths.owner(path, text) == ("bridge", network.bridge):
                if path.startswith(paths.NAT_DIRECTORY):
                    gone.append(path)
                else:
                    wanted[path] = left.ejected(name, text, networks=names)
    plan: Plan = [
        steps.WriteFile(reason=WHY, machine=name, path=path, text=text)
        for path, text in wanted.items()
        if host.files.get(path) != text
    ]
    plan = closed_like(plan, own.origin) if own is not None else plan
    plan.append(steps.ReloadUnits(reason="unit files changed", machine=name))
    if networks:
        unit = left.network_unit(name)
        reason = "its networks and rules do not go with machctl's"
        plan.append(steps.StartUnit(reason=reason, machine=name, unit=unit, restart=True))
    plan += [steps.RemoveFile(reason=WHY, machine=name, path=path) for path in gone]
    if paths.health_dropin(name) in gone:
        # Or the machine would go on wanting the timer.
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=name))
    plan += _units(name, leaving, host, declared)
    if networks:
        plan += drop_nat([network.bridge for network in leaving], host, machine=name, nat_changed=True)
    plan += _forget(name, own, leaving, host)
    after = without(host, {name}, [network.bridge for network in leaving])
    if (kept := _reserved(record, leaving)) is not None:
        what = "its addresses" if kept.addresses else "its layer and what that is over"
        plan.append(steps.Keep(reason=f"nobody else is to get {what}", machine=name, record=kept))
        after = replace(after, records={**after.records, name: kept})
    else:
        plan.append(steps.RemoveFile(reason=WHY, machine=name, path=paths.machine_record(name)))
    return plan + plan_names(host, after, machine=name), _losses(name, own, gone, networks, host)


def _own_files(name: str, networks: list[Network], leaving: list[Network], host: Host) -> dict[str, str]:
    """The files that take the place of what machctl does for it."""
    files: dict[str, str] = {}
    if networks:
        if (rules := _rules(name, networks, host)) is not None:
            files[left.rules_file(name)] = rules
            files[left.reload_file(name)] = left.ejected_reload(name)
        files[f"{paths.UNIT_DIRECTORY}/{left.network_unit(name)}"] = left.ejected_unit(
            name, networks, alone=[network.bridge for network in leaving]
        )
    if f"PartOf=machctl-used@{name}.target" in host.files.get(paths.dropin_file(name), ""):
        files[left.used_file(name)] = left.ejected_used(name)
    asked = [network for network in leaving if network.dns]
    if asked and host.resolved:
        files[left.resolver_file(name)] = left.ejected_resolver(name, asked)
    return files


def _rules(name: str, networks: list[Network], host: Host) -> str | None:
    """The rules of its networks and its own; those a run wrote that was killed after it took away what they were."""
    own = f"{paths.NAT_DIRECTORY}/machine-{name}.nft"
    shared = [paths.NAT_FILE, *(f"{paths.NAT_DIRECTORY}/bridge-{network.bridge}.nft" for network in networks)]
    written = host.files.get(left.rules_file(name))
    if written is not None and not all(path in host.files for path in [*shared, own]):
        return written
    texts = [host.files[path] for path in [*shared, own] if path in host.files]
    return left.ejected_rules(name, texts) if texts else None


def _forget(name: str, own: Machine | None, leaving: list[Network], host: Host) -> Plan:
    files = [path for path in host.files if path.startswith(f"{paths.adopted_directory(name)}/")]
    files += [path for path in host.files if path.startswith(f"{paths.STARTED_PREFIX}{name}/")]
    files += [own.origin] if own is not None else []
    files += [paths.network_record(network.bridge) for network in leaving]
    return [steps.RemoveFile(reason=WHY, machine=name, path=path) for path in files]


def _reserved(record: Record, leaving: list[Network]) -> Record | None:
    """What stays recorded of it: its addresses on networks that go on being machctl's, and what its layer is over.

    Without a record the base and the layer would look like nobody's as soon as the tree cannot be seen.
    """
    gone = {network.bridge for network in leaving}
    addresses = {bridge: address for bridge, address in record.addresses.items() if bridge not in gone}
    if not addresses and record.storage != "overlay":
        return None
    return replace(
        Record(record.name, addresses, record.ports),
        addresses6={bridge: address for bridge, address in record.addresses6.items() if bridge not in gone},
        storage=record.storage,
        base=record.base,
        uid=record.uid,
        payload=record.payload,
        made=record.made,
        intent="ejected",
    )


def _declaration(own: Machine, record: Record, leaving: list[Network]) -> str:
    """How it was declared; on a bridge that is nobody's network any more its addresses have to be said."""
    found = {network.bridge: network for network in leaving}
    links = []
    for link in own.links:
        network = found.get(link_network(link, own.name) or "")
        if network is not None and link.kind == "bridge" and link.vlan is None:
            own4, own6 = record.addresses.get(network.bridge), record.addresses6.get(network.bridge)
            addresses = [f"{own4}/{network.prefix_length}"] if own4 else []
            addresses += [f"{own6}/{network.subnet6.prefixlen}"] if own6 and network.subnet6 else []
            link = replace(link, addresses=tuple(addresses), gateway=network.gateway)
        links.append(link)
    return write_machine(replace(own, links=tuple(links), origin=paths.ejected_file(own.name)))


def _units(name: str, leaving: list[Network], host: Host, declared: Mapping[str, Machine]) -> Plan:
    """What machctl's own units did for it they need not do any more; the links stay."""
    others = {target for machine in declared.values() if machine.name != name for target in link_parents(machine)}
    plan = stop_waiting(name, host, wanted=others, reason=WHY)
    units = [bridge_unit(network.bridge) for network in leaving]
    return plan + [steps.StopUnit(reason=WHY, machine=name, unit=unit) for unit in units if unit in host.active]


def _is_its(name: str, path: str, text: str) -> bool:
    """Tell whether a file is the machine's, or was until a run that was killed wrote it anew."""
    return paths.owner(path, text) == ("machine", name) or text.startswith(f"{paths.ejected_header(name)}\n")


def _is_its_alone(name: str, network: Network, host: Host) -> bool:
    others = (record for record in host.records.values() if record.name != name)
    used = {bridge for record in others for bridge in (*record.addresses, *record.networks)}
    return network.bridge not in used and not network.origin


def _refuse_shared(name: str, own: Machine | None, host: Host) -> None:
    if own is None:
        return
    text = host.files.get(own.origin)
    if own.origin.endswith("/fleet.toml") or (text is not None and not declares_only(text, "machines", name)):
        hint = f"take [machines.{name}] out of that file, then run machctl eject {name} again"
        if own.group:
            hint = f"it is one of the replicas of {own.group}: write fewer there, then run machctl eject {name} again"
        raise Conflict(f"machine {name} is declared in {own.origin}, together with others", hint=hint)


def _losses(name: str, own: Machine | None, gone: list[str], networks: list[Network], host: Host) -> list[str]:
    """What nobody does for it any more, and what of machctl's it still uses."""
    found = []
    if paths.probe_file(name) in gone:
        found.append("its health is probed no more")
    if left.WAITS in host.files.get(paths.dropin_file(name), ""):
        found.append("it no longer waits for units or the health of other machines when it starts")
    if networks and FIREWALL_UNIT in host.active:
        found.append("Docker or firewalld has to be told to let its networks pass")
    if own is not None and own.secrets:
        found.append("its secrets stay where they are")
    record = host.records[name]
    kept = (
        [paths.guest_directory(name)]
        if any(path.startswith(f"{paths.guest_directory(name)}/") for path in host.files)
        else []
    )
    if record.storage == "overlay":
        kept += [paths.layer(name), f"{paths.STORE_DIRECTORY}/bases/{record.base}"]
    return found + ([f"it still uses {', '.join(kept)}"] if kept else [])
