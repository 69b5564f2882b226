# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that makes networks what they are declared to be, and what stands in the way of that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict, InvalidValue, MachctlError
from machines.model.frozen import replace
from machines.model.names import bridge_unit
from machines.model.network import DeclaredNetwork, Network, choose_subnet, choose_subnet6
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.bridges import drop_nat, enabled_path, remove_bridge, without
from machines.plan.check_host import NETWORK_MANAGER
from machines.plan.claims import with_bridges, with_claims
from machines.plan.names import name_servers, own_server, plan_names
from machines.plan.nat import is_loaded
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.networks import render_bridge

if TYPE_CHECKING:
    import ipaddress

NEW = "declared and not there yet"
DIFFERS = "differs from what is declared"


def implicit_network(bridge: str, host: Host, others: Iterable[Network] = ()) -> Network:
    """Give the network that a machine gets on a bridge which nobody has declared: all of it is chosen.

    ``others`` are those that are being made at the same time. Raises Conflict where no subnet is left.
    """
    return resolve(DeclaredNetwork(bridge), host, others)


def resolve(declared: DeclaredNetwork, host: Host, others: Iterable[Network] = ()) -> Network:
    """Give a declared network as it is on this host: what is not declared is what it has, or else chosen.

    Raises Conflict where no subnet is left.
    """
    have = host.networks.get(declared.name)
    rest = [*(other for name, other in host.networks.items() if name != declared.name), *others]
    subnet = declared.subnet or (have.subnet if have else None)
    if subnet is None:
        subnet = choose_subnet(declared.name, [*host.routes, *(other.subnet for other in rest)])
    subnet6 = None
    if declared.ipv6 and (host.ipv6 or declared.subnet6):
        subnet6 = declared.subnet6 or (have.subnet6 if have else None)
        taken = [*host.routes6, *(other.subnet6 for other in rest if other.subnet6)]
        subnet6 = subnet6 or choose_subnet6(declared.name, host.machine_id, taken)
    return Network(
        declared.name, subnet, subnet6, mode=declared.mode, dhcp=declared.dhcp, dns=declared.dns, mtu=declared.mtu,
        reach=declared.reach, origin=declared.origin,
    )  # fmt: skip


def check_networks(declared: Mapping[str, DeclaredNetwork], host: Host, names: Iterable[str]) -> list[MachctlError]:
    """Give why networks cannot be what they are declared to be, before anything is made of them."""
    errors: list[MachctlError] = []
    done: list[DeclaredNetwork] = []
    for name in names:
        network = declared[name]
        others = _others(name, declared, host)
        # Two that overlap are told once.
        told, told6 = ({each.name for each in done if getattr(each, key)} for key in ("subnet", "subnet6"))
        done.append(network)
        link = host.links.get(name)
        if link and name not in host.networks:
            what = f"there is a {link.kind or 'physical'} link {name} already, and machctl did not make it"
            use = f"; to use it as it is: --bridge {name}" if link.kind == "bridge" else ""
            errors.append(Conflict(f"network {name}: {what}", hint=f"give the network another name{use}"))
        if network.subnet:
            theirs = {other: each.subnet for other, each in others.items() if each.subnet}
            errors += _overlaps(network.name, network.subnet, theirs, host.routes, told)
        if network.subnet6:
            theirs6 = {other: each.subnet6 for other, each in others.items() if each.subnet6}
            errors += _overlaps(network.name, network.subnet6, theirs6, host.routes6, told6)
        unknown = sorted(set(network.reach) - {*declared, *host.networks})
        errors += [_unreachable(network, other, host) for other in unknown]
    return errors


def _unreachable(network: DeclaredNetwork, other: str, host: Host) -> MachctlError:
    """The error of a network that is to reach one that there is not, with the line that says so."""
    said = f"network {network.name} is to reach {other}, and there is no such network"
    if network.origin not in host.files:
        return InvalidValue(said, hint=f"machctl network create {other}")
    from machines.declare.reader import with_line

    path = f"networks.{network.name}.reach[{network.reach.index(other)}]"
    hint = f"write [networks.{other}], run: machctl network create {other}, or leave it out"
    return InvalidValue(with_line(said, network.origin, path, host.files), hint=hint)


def _others(name: str, declared: Mapping[str, DeclaredNetwork], host: Host) -> dict[str, DeclaredNetwork | Network]:
    """What the other networks have: as they are declared where that says so, else as they were made."""
    found: dict[str, DeclaredNetwork | Network] = {}
    for other in {*declared, *host.networks} - {name}:
        wanted, have = declared.get(other), host.networks.get(other)
        if wanted is None or (have and wanted.subnet is None):
            found[other] = host.networks[other]
        else:
            found[other] = wanted
    return dict(sorted(found.items()))


def _overlaps(
    name: str,
    subnet: ipaddress.IPv4Network | ipaddress.IPv6Network,
    networks: Mapping[str, ipaddress.IPv4Network | ipaddress.IPv6Network],
    routes: Mapping[ipaddress.IPv4Network, str] | Mapping[ipaddress.IPv6Network, str],
    told: Collection[str],
) -> list[MachctlError]:
    def conflict(with_what: str) -> list[MachctlError]:
        hint = "take another subnet, or leave it out and a free one is chosen"
        return [Conflict(f"subnet {subnet} of network {name} overlaps {with_what}", hint=hint)]

    for other, theirs in networks.items():
        if other not in told and subnet.overlaps(theirs):
            return conflict(f"{theirs} of network {other}")
    for route, link in routes.items():
        if link not in {name, *networks} and subnet.overlaps(route):
            return conflict(f"{route}, to which this host has a route by {link}")
    return []


def plan_networks(declared: Mapping[str, DeclaredNetwork], host: Host, names: Collection[str]) -> dict[str, Plan]:
    """Give the steps from ``host`` to the networks called ``names``, of each that is not as declared.

    Raises Conflict where no subnet is left.
    """
    plans: dict[str, Plan] = {}
    view = host
    for name in names:
        if name in declared:
            plan = plan_network(resolve(declared[name], view), view)
            view = as_done(view, plan)
            plans |= {name: plan} if plan else {}
    return plans


def as_done(host: Host, plan: Plan) -> Host:
    """Give ``host`` as it is once the plan of a network is done, as far as plans of machines on it depend on that."""
    nat = None if any(isinstance(step, steps.LoadNat) for step in plan) else host.nat
    view = with_bridges(with_claims(host, plan), plan)
    given = {step.name for step in plan if isinstance(step, steps.SetSysctl) and step.value}
    localnet = view.localnet | {bridge for bridge in view.networks if _localnet(bridge) in given}
    disabled = {enabled_path(step.unit) for step in plan if isinstance(step, steps.DisableUnit)}
    files = {path: text for path, text in view.files.items() if path not in disabled} if disabled else view.files
    return replace(view, nat=nat, localnet=localnet, files=files)


def plan_undeclared(declared: Mapping[str, DeclaredNetwork], host: Host) -> dict[str, Plan]:
    """Give the steps that have networks forget that they were declared: they go with their last machine then.

    That they come up at boot by themselves is looked at too: a run may have been killed in between.
    """
    plans: dict[str, Plan] = {}
    for name, network in host.networks.items():
        if name in declared or (network.origin and not host.declares(network.origin)):
            continue
        plan: Plan = []
        reason = "it is no longer declared"
        if network.origin:
            plain = replace(implicit_network(name, host), subnet=network.subnet, subnet6=network.subnet6)
            reason = f"it is no longer declared in {network.origin}"
            plan.append(steps.ClaimNetwork(reason=reason, network=plain))
        unit = bridge_unit(name)
        if enabled_path(unit) in host.files:
            plan.append(steps.DisableUnit(reason=reason, unit=unit))
        plans |= {name: plan} if plan else {}
    return plans


def plan_network(network: Network, host: Host, *, declaration: str | None = None) -> Plan:
    """Give the steps from ``host`` to a declared network as resolve() has it: none where it is so already.

    ``declaration`` is the text of the network's own file, where machctl has to write that as well. Raises Conflict for
    a file in the way that machctl did not write.
    """
    plan: Plan = []
    have = host.networks.get(network.bridge)
    reason = DIFFERS if have else NEW
    if declaration is not None and host.files.get(network.origin) != declaration:
        plan.append(steps.WriteFile(reason=NEW, path=network.origin, text=declaration))
    if have != network:
        plan.append(steps.ClaimNetwork(reason=reason, network=network, detail=_difference(have, network)))
    view = with_claims(host, plan)
    wanted = network_files([network], view)
    foreign = [path for path in wanted if path in host.files and paths.owner(path, host.files[path]) is None]
    if foreign:
        raise Conflict(f"{foreign[0]} is there already and machctl did not write it", hint="move it away first")
    changed = [path for path, text in wanted.items() if host.files.get(path) != text]
    plan += [steps.WriteFile(reason=reason, path=path, text=wanted[path]) for path in changed]
    plan += drop_stale([network], wanted, host)
    plan += settle([network], changed, host)
    unit = bridge_unit(network.bridge)
    if enabled_path(unit) not in host.files:
        plan.append(steps.EnableUnit(reason="a declared network is there from boot on", unit=unit))
    # Where a file of it differs it is loaded anyway.
    loaded = host.nat is None or is_loaded(host.files, host.nat)
    plan += load_nat(changed, host, loaded=loaded)
    return plan + ask_here([network], host)


def load_nat(changed: Collection[str], host: Host, *, loaded: bool, machine: str = "") -> Plan:
    """Give the step that loads the nft table, of whose files those in ``changed`` are new, where it has to be.

    The kernel is looked at as well (``loaded``): a run may have been killed before it, or somebody has flushed all.
    """
    if any(path.startswith(paths.NAT_DIRECTORY) or path == paths.NAT_FILE for path in changed):
        return [steps.LoadNat(reason="its files changed", machine=machine)]
    if loaded:
        return []
    reason = "it is not what its files say" if host.nat else "it is not loaded"
    return [steps.LoadNat(reason=reason, machine=machine)]


def _difference(have: Network | None, wanted: Network) -> str:
    if have is None:
        return ""
    keys = ("subnet", "subnet6", "mode", "dhcp", "dns", "mtu", "reach")
    changed = [key for key in keys if getattr(have, key) != getattr(wanted, key)]
    return "\n".join(f"-{key} {getattr(have, key)}\n+{key} {getattr(wanted, key)}" for key in changed)


_rendered: dict[str, tuple[Network, tuple[object, ...], dict[str, str]]] = {}


def network_files(networks: Iterable[Network], host: Host) -> dict[str, str]:
    """Give all files of networks that machctl makes, path to text."""
    files: dict[str, str] = {}
    for network in networks:
        dns, own = name_servers(network, host), own_server(network, host)
        manager = "NetworkManager" in host.tools
        key = (host.networkd, dns, own, manager)
        found = _rendered.get(network.bridge)
        if found is None or found[0] is not network or found[1] != key:
            # The same for all machines that are on it.
            made = render_bridge(network, networkd=host.networkd, dns=dns, local_dns=own, network_manager=manager)
            found = _rendered[network.bridge] = network, key, made
        files |= found[2]
    return files


def drop_stale(networks: Iterable[Network], wanted: Mapping[str, str], host: Host, *, machine: str = "") -> Plan:
    """Give the steps that remove files of bridges which this host needs no more, as it asks another name server.

    What such a file had set is taken back before it goes, unless another file wants it.
    """
    reason = "this host needs it no more"
    plan: Plan = []
    for network in networks:
        own = paths.bridge_sysctl_file(network.bridge)
        stale = [path for path in (own, paths.unmanaged_file(network.bridge)) if path in host.files]
        stale = [path for path in stale if path not in wanted]
        if own in stale and network.bridge in host.localnet:
            key = _localnet(network.bridge)
            others = {**host.files, **wanted}
            if not any(key in text for path, text in others.items() if path.startswith(paths.SYSCTL_DIRECTORY)):
                plan.append(steps.SetSysctl(reason=reason, machine=machine, name=key, value=0))
        plan += [steps.RemoveFile(reason=reason, machine=machine, path=path) for path in stale]
    return plan


def settle(networks: Iterable[Network], changed: Collection[str], host: Host, *, machine: str = "") -> Plan:
    """Give the steps that bring bridges up as their files have it, of which those in ``changed`` are new.

    What never reached the kernel is looked at by itself: a run may have been killed between a file and its effect.
    """
    plan: Plan = []
    networks = list(networks)
    stems = [(each.bridge, f"{paths.NETWORK_DIRECTORY}/70-machctl-{each.bridge}.") for each in networks]
    bridges = [bridge for bridge, stem in stems if any(path.startswith(stem) for path in changed)]
    differs = {each.bridge: _not_so(each, host) for each in networks if bridge_unit(each.bridge) in host.active}
    if host.networkd and bridges:
        reason = f"files of bridge {', '.join(bridges)} changed"
        plan.append(steps.ReloadNetworkd(reason=reason, machine=machine))
    elif host.networkd and any(differs.values()):
        plan.append(steps.ReloadNetworkd(reason=next(filter(None, differs.values())), machine=machine))
    # Before the bridge is there: with what is new to it NetworkManager begins at once.
    unmanaged = [each.bridge for each in networks if _is_to_be_told(each, changed, host)]
    if unmanaged and NETWORK_MANAGER in host.active:
        reason = f"it is to leave bridge {', '.join(unmanaged)} alone"
        plan.append(steps.ReloadNetworkManager(reason=reason, machine=machine))
    for network in networks:
        unit = bridge_unit(network.bridge)
        reason = differs.get(network.bridge, "")
        if network.bridge not in host.links and network.kind == "bridge":
            reason = f"bridge {network.bridge} is not up"
        elif unit not in host.active:
            reason = f"{unit} is not active"
        if reason:
            plan.append(steps.StartUnit(reason=reason, machine=machine, unit=unit, restart=unit in host.active))
    return plan


def ask_here(networks: Iterable[Network], host: Host, *, machine: str = "") -> Plan:
    """Give the steps that have the host's own name server answer on bridges: once nft guards them, and not before."""
    reason = "the host's name server, that answers on 127.0.0.0/8 only, is to answer there"
    # What nspawn makes may not be there yet, and is told when it is; a bridge has been made by now.
    return [
        steps.SetSysctl(reason=reason, machine=machine, name=_localnet(each.bridge), value=1)
        for each in networks
        if own_server(each, host)
        and each.bridge not in host.localnet
        and (each.bridge in host.links or each.kind == "bridge")
    ]


def _localnet(bridge: str) -> str:
    return f"net/ipv4/conf/{bridge}/route_localnet"


def _is_to_be_told(network: Network, changed: Collection[str], host: Host) -> bool:
    """Tell whether NetworkManager has to read the file of a bridge: a new one, or one before whose reading a run ended.

    That comes before the unit is started, so a unit that never was says as much.
    """
    path = paths.unmanaged_file(network.bridge)
    return path in changed or (path in host.files and bridge_unit(network.bridge) not in host.active)


def _not_so(network: Network, host: Host) -> str:
    """Say what of a network its bridge has not, by what was recorded before, or in the kernel; "" where all is so.

    The second is looked at as well: a run may have been killed between the record and its effect.
    """
    bridge, have = network.bridge, host.networks.get(network.bridge)
    link = host.links.get(bridge)
    if have is None or have.addresses != network.addresses:
        return f"bridge {bridge} has other addresses"
    if have.mtu != network.mtu or (network.mtu and link and link.mtu not in {None, network.mtu}):
        return f"bridge {bridge} has another MTU"
    if link is None or network.kind != "bridge":
        return ""
    # The kernel makes a route with each address, while the link is up.
    there = host.routes.get(network.subnet) == bridge
    there &= network.subnet6 is None or not host.ipv6 or host.routes6.get(network.subnet6) == bridge
    return "" if there else f"bridge {bridge} has not its addresses"


def plan_remove_network(name: str, host: Host) -> Plan:
    """Give the steps after which nothing of a declared network is left, on which no machine is."""
    network = host.networks[name]
    plan: Plan = [steps.RemoveFile(reason="the network is removed", path=network.origin)] if network.origin else []
    plan += remove_bridge(name, "", host, reason="the network is removed")
    plan += drop_nat([name], host, machine="")
    return plan + plan_names(host, without(host, (), [name]))
