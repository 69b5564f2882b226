# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which networks and addresses a declared machine gets on this host."""

from __future__ import annotations

from machines.model.base import Payload
from machines.model.machine import Machine
from machines.model.network import Network, choose_address, choose_subnet
from machines.model.observed import Host
from machines.plan.storage import storage_of, uid_of
from machines.render.files import Placement


def place(machine: Machine, host: Host, *, payload: Payload | None = None, storage: str | None = None) -> Placement:
    """Give ``machine`` its networks: those it has stay as they are, new ones are taken from what is free.

    A bridge that is there and that machctl did not make is left out: it is used as it is. ``payload`` is what a tree
    that is yet to be made runs in place of an init, ``storage`` the driver it will be kept by. Raises Conflict when
    subnets or addresses have run out.
    """
    networks: dict[str, Network] = {}
    addresses: dict[str, str] = {}
    own = host.records.get(machine.name)
    storage = storage or storage_of(machine, host)
    for bridge in machine.bridges:
        subnet = host.networks.get(bridge)
        if subnet is None:
            if bridge in host.links or (own and bridge in own.foreign):
                continue
            others = [network.subnet for network in networks.values()]
            subnet = choose_subnet(bridge, [*host.routes, *host.networks.values(), *others])
        network = networks[bridge] = Network(bridge, subnet)
        had = own.addresses.get(bridge) if own else None
        if had:
            addresses[bridge] = had
        else:
            taken = {
                record.addresses[bridge]: name
                for name, record in host.records.items()
                if bridge in record.addresses and name != machine.name
            }
            addresses[bridge] = choose_address(network, taken)
    return Placement(
        networks=networks,
        addresses=addresses,
        dns=host.dns,
        idmap_paths=host.idmap_paths,
        ipv6_loopback=host.ipv6_loopback,
        networkd=host.networkd,
        storage=storage,
        uid=uid_of(machine, host, storage),
        payload=own.payload if own and machine.name in host.trees else payload,
    )
