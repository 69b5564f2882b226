# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs on networks: create, rm, ls, show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict, NotFound, raise_all
from machines.model.frozen import replace
from machines.model.network import DeclaredNetwork, Network
from machines.model.observed import Host as Observed
from machines.operations.declared import declared_networks, readable_machines, wrong_together
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.records import read_networks, read_records
from machines.operations.reporter import Reporter
from machines.plan.declared import networks_in, recorded_on
from machines.plan.names import plan_names
from machines.plan.networks import (
    as_done,
    check_networks,
    plan_network,
    plan_networks,
    plan_remove_network,
    resolve,
)
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def create_network(network: DeclaredNetwork, host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Declare a new network and make it; give the plan. Raises all that stands in the way before the first change."""
    from machines.declare.networks import own_network_file, write_network

    check_ready(host, verb="network create")
    async with host.files.fleet_lock():
        observed = observe(host, kernel=True)
        network = replace(network, origin=own_network_file(network.name))
        declared = networks_in(observed)
        # One that was killed goes on with what it made; what somebody wrote into its file since then stays.
        begun = declared.get(network.name) == network and bool(plan_networks(declared, observed, [network.name]))
        if network.name in declared and not begun:
            raise Conflict(
                f"network {network.name} is declared in {declared[network.name].origin} already",
                hint="edit that and run: machctl apply",
            )
        if network.origin in observed.files and not begun:
            raise Conflict(f"{network.origin} is there already", hint="correct or remove that file")
        raise_all(check_networks({**declared, network.name: network}, observed, [network.name]))
        if not wrong_together({}, "", host):
            # It is not to keep the fleet from being read.
            raise_all(wrong_together({network.origin: write_network(network)}, f"network {network.name}", host))
        have, wanted = observed.networks.get(network.name), resolve(network, observed)
        users = _machines_on(network.name, observed, host)
        if have and users and (have.subnet, have.subnet6) != (wanted.subnet, wanted.subnet6):
            raise Conflict(
                f"network {network.name} has {have.subnet} and machines on it: {', '.join(users)}",
                hint="leave the subnets out, and it keeps what it has",
            )
        plan = plan_network(wanted, observed, declaration=None if begun else write_network(network))
        plan += plan_names(observed, as_done(observed, plan))
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


async def remove_network(name: str, host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Remove a network that no machine is on, with its declaration; give the plan. Raises Conflict and NotFound."""
    check_ready(host, verb="network rm")
    async with host.files.fleet_lock():
        observed = observe(host)
        declared = networks_in(observed).get(name)
        network = observed.networks.get(name)
        if declared is None and network is None:
            raise _not_found(name, observed)
        users = _machines_on(name, observed, host)
        if users:
            raise Conflict(
                f"network {name} has machines on it: {', '.join(users)}",
                hint=f"remove them, or take the network out of their declarations: machctl rm {users[0]}",
            )
        others = sorted(net.bridge for net in observed.networks.values() if name in net.reach)
        if others:
            raise Conflict(f"network {', '.join(others)} is to reach {name}", hint="take it out of its reach first")
        if declared is not None and not _is_own_file(declared, observed):
            raise Conflict(
                f"network {name} is declared in {declared.origin}, together with others",
                hint=f"take [networks.{name}] out of that file, then run: machctl apply",
            )
        if network is None:
            # Declared and never made.
            assert declared is not None
            observed = as_done(observed, plan_network(resolve(declared, observed), observed))
        else:
            # The file that the record names may by now declare others and not this one.
            origin = declared.origin if declared is not None else ""
            observed = replace(observed, networks={**observed.networks, name: replace(network, origin=origin)})
        plan = plan_remove_network(name, observed)
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan


def _is_own_file(network: DeclaredNetwork, observed: Observed) -> bool:
    from machines.declare.networks import own_network_file
    from machines.declare.toml import declares_only

    text = observed.files[network.origin]
    return network.origin == own_network_file(network.name) and declares_only(text, "networks", network.name)


def _machines_on(name: str, observed: Observed, host: Host) -> list[str]:
    on = recorded_on(name, observed)
    on |= {machine.name for machine in readable_machines(host).values() if name in machine.bridges}
    return sorted(on)


def _not_found(name: str, observed: Observed) -> NotFound:
    link = observed.links.get(name)
    if link and link.kind == "bridge":
        return NotFound(
            f"there is no network {name}: the bridge of that name is not machctl's",
            hint=f"machines can be on it all the same: --bridge {name}",
        )
    return NotFound(f"there is no network {name}", hint="machctl network ls shows those there are")


def network_rows(host: Host) -> list[dict[str, object]]:
    """Give what is known of each network, declared or made, for a table or for programs."""
    declared, made = declared_networks(host), read_networks(host)
    records, links = read_records(host), host.facts.links()
    machines = readable_machines(host).values()
    rows = []
    for name in sorted({*declared, *made}):
        network = made.get(name)
        addresses = {
            record.name: [found[name] for found in (record.addresses, record.addresses6) if name in found]
            for record in records.values()
            if name in record.addresses or name in record.networks
        }
        for machine in machines:
            if name in machine.bridges:
                addresses.setdefault(machine.name, [])
        rows.append(_row(name, network, declared.get(name), name in links, dict(sorted(addresses.items()))))
    return rows


def _row(
    name: str,
    network: Network | None,
    declared: DeclaredNetwork | None,
    up: bool,  # noqa: FBT001 (a fact, no switch)
    addresses: Mapping[str, list[str]],
) -> dict[str, object]:
    said: Network | DeclaredNetwork | None = network or declared
    assert said is not None
    return {
        "name": name,
        "state": "declared" if network is None else "up" if up else "down",
        "kind": network.kind if network else "bridge",
        "mode": said.mode,
        "subnet": str(said.subnet) if said.subnet else None,
        "subnet6": str(said.subnet6) if said.subnet6 else None,
        "gateway": network.gateway if network else None,
        "gateway6": network.gateway6 if network else None,
        "dhcp": said.dhcp,
        "dns": said.dns,
        "mtu": said.mtu,
        "reach": list(said.reach),
        "declared": declared.origin if declared else None,
        "machines": list(addresses),
        "addresses": dict(addresses),
    }


def network_row(name: str, host: Host) -> dict[str, object]:
    """Give what is known of one network. Raises NotFound."""
    for row in network_rows(host):
        if row["name"] == name:
            return row
    raise _not_found(name, Observed(links=host.facts.links()))
