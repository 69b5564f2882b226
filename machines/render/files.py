# SPDX-License-Identifier: LGPL-2.1-or-later
"""A declared machine, placed in its networks, to the files that make it one: path to text."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from machines.model.base import Payload
from machines.model.frozen import dataclass, field
from machines.model.machine import Bind, Machine, Publish
from machines.model.names import bridge_unit, extra_link, machine_unit, mount_unit
from machines.model.network import DHCP_OFFSET, DHCP_SIZE, Network
from machines.render import paths
from machines.render.environment import escape_setting, quote_word, render

# The kernel build's defaults differ. index=on refuses a layer that was copied; with metacopy=on files of a layer would
# be nothing without their base; without redirect_dir=on a guest that renames a directory of its base copies it
# (Documentation/filesystems/overlayfs.rst).
OVERLAY_OPTIONS = "index=off,metacopy=off,redirect_dir=on"

NAT_UNIT = "machctl-nat.service"


@dataclass(frozen=True)
class Placement:
    """What the host adds to a declaration.

    ``networks`` holds those of the machine's bridges that machctl makes, ``addresses`` the machine's address on each
    of them; the bridges in neither were there before. ``storage`` is the driver that keeps the tree, ``uid`` the first
    of the machine's ids where that fixes them, ``payload`` what runs in place of an init.
    """

    networks: Mapping[str, Network] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    idmap_paths: frozenset[str] = frozenset()
    ipv6_loopback: bool = True
    networkd: bool = True
    storage: str = ""
    uid: int | None = None
    payload: Payload | None = None


def render_machine(machine: Machine, placement: Placement) -> dict[str, str]:
    """Give every file on the host that belongs to ``machine`` alone."""
    header = paths.machine_header(machine.name, machine.origin)
    first = machine.bridges[0]
    target = placement.addresses.get(first)
    extras = [
        {"link": extra_link(machine.name, index), "guest": f"host{index}", "bridge": bridge}
        for index, bridge in enumerate(machine.bridges)
        if index
    ]
    files = _port_units(machine, placement, header=header, address=target)
    sockets = [path.rsplit("/", 1)[1] for path in files if path.endswith(".socket")]
    wants = [bridge_unit(bridge) for bridge in machine.bridges]
    if placement.networks:
        wants.append(NAT_UNIT)
    files[paths.settings_file(machine.name)] = render(
        "machine.nspawn",
        header=header,
        hostname=machine.hostname,
        payload=_payload(placement.payload),
        uid=placement.uid,
        ephemeral=_ephemeral(machine, placement),
        # On the host it would be a link into what is gone after a stop, or that only the machine has mounted.
        link_journal=not (placement.payload or machine.ephemeral or placement.storage == "raw"),
        binds=[_bind(bind, idmap=bind.source in placement.idmap_paths) for bind in machine.binds],
        bridge=first,
        extra_links=extras,
        # Where the address is not ours to know, nspawn finds it out when the machine has it (systemd-nspawn(1), -p).
        ports=[] if target else [port for port in machine.publish if port.address is None],
    )
    files[paths.dropin_file(machine.name)] = render(
        "dropin.conf",
        header=header,
        wants=wants + sockets,
        after=wants,
        memory=machine.memory,
        cpu_quota=f"{machine.cpus * 100:.0f}" if machine.cpus else "",
        # nspawn cuts a longer name and keeps all of it as an altname, which ip(8) takes as well.
        hairpin=f"vb-{machine.name}" if target and machine.publish else "",
        extra_links=extras,
        name=machine.name,
        guest_links=_guest_links(machine, placement) if placement.payload else [],
    )
    if placement.uid is not None:
        files |= _mounts(machine.name, placement.uid, header)
    if target and machine.publish:
        files[f"{paths.NAT_DIRECTORY}/machine-{machine.name}.nft"] = render(
            "ports.nft", header=header, ports=_nat_ports(machine.publish), target=target
        )
    return files


def render_bridge(network: Network, *, networkd: bool, dns: tuple[str, ...]) -> dict[str, str]:
    """Give every file on the host that makes a bridge, and those that all bridges share."""
    header = paths.bridge_header(network.bridge)
    values = {
        "header": header,
        "bridge": network.bridge,
        "gateway": network.gateway,
        "prefix_length": network.prefix_length,
        "subnet": str(network.subnet),
    }
    files = {
        f"{paths.NAT_DIRECTORY}/bridge-{network.bridge}.nft": render("bridge.nft", **values),
        paths.NAT_FILE: render(
            "nat.nft", header="# machctl: fleet nat, what bridges and machines need", directory=paths.NAT_DIRECTORY
        ),
    }
    if networkd:
        stem = f"{paths.NETWORK_DIRECTORY}/70-machctl-{network.bridge}"
        files[f"{stem}.netdev"] = render("bridge.netdev", **values)
        files[f"{stem}.network"] = render(
            "bridge.network", **values, pool_offset=DHCP_OFFSET, pool_size=DHCP_SIZE, dns=dns
        )
    return files


def render_guest(machine: Machine, placement: Placement) -> dict[str, str]:
    """Give the files inside the machine's tree that follow from its declaration: path in the tree to text."""
    header = paths.machine_header(machine.name, machine.origin)
    if placement.payload:
        # There is no resolved in it to ask.
        return {paths.GUEST_RESOLV_CONF: render("resolv.conf", header=header, dns=placement.dns)}
    files = {}
    for index, bridge in enumerate(machine.bridges):
        network = placement.networks.get(bridge)
        if network is None and index == 0:
            # systemd's own 80-container-host0.network asks for a lease.
            continue
        files[paths.guest_network_file(f"host{index}")] = render(
            "guest.network",
            header=header,
            link=f"host{index}",
            address=placement.addresses[bridge] if network else "",
            prefix_length=network.prefix_length if network else 0,
            gateway=network.gateway if network else "",
            default_route=index == 0,
            dns=placement.dns,
        )
    return files


def _payload(payload: Payload | None) -> dict[str, object] | None:
    if payload is None:
        return None
    return {
        "command": " ".join(map(quote_word, payload.command)),
        "environment": [quote_word(assignment) for assignment in payload.environment],
        "user": "" if payload.user in {"root", "0"} else payload.user,
        "directory": payload.directory,
    }


def _ephemeral(machine: Machine, placement: Placement) -> str:
    """Only btrfs copies a tree at every start without it taking time; the others get a layer in memory over it."""
    if not machine.ephemeral:
        return ""
    return "snapshot" if placement.storage == "btrfs" else "memory"


def _guest_links(machine: Machine, placement: Placement) -> list[str]:
    """What ip(8) has to do in a machine that has nothing inside to give its links their addresses."""
    commands = []
    for index, bridge in enumerate(machine.bridges):
        address, network = placement.addresses.get(bridge), placement.networks.get(bridge)
        if address and network:
            commands += [f"addr add {address}/{network.prefix_length} dev host{index}", f"link set host{index} up"]
            commands += [f"route add default via {network.gateway}"] if index == 0 else []
    return [f'nsenter --target "$$leader" --net ip {command}' for command in commands]


def _mounts(name: str, uid: int, header: str) -> dict[str, str]:
    """The mounts that make a machine's tree of its base and its layer (systemd.mount(5))."""
    layer, tree = paths.layer(name), paths.tree(name)
    lower = mount_unit(f"{layer}/lower")
    values = {
        "header": header, "name": name, "layer": layer, "tree": tree, "uid": uid, "lower": lower,
        "tree_unit": mount_unit(tree),
        "options": OVERLAY_OPTIONS,
    }  # fmt: skip
    return {
        f"{paths.UNIT_DIRECTORY}/{lower}": render("lower.mount", **values),
        f"{paths.UNIT_DIRECTORY}/{mount_unit(tree)}": render("tree.mount", **values),
    }


def _bind(bind: Bind, *, idmap: bool) -> dict[str, str]:
    value = f"{escape_setting(bind.source)}:{escape_setting(bind.destination)}"
    # Without idmap all of it belongs to nobody inside: enough to read, useless to write (systemd-nspawn(1), --bind=).
    return {"key": "BindReadOnly" if bind.read_only else "Bind", "value": value + (":idmap" if idmap else "")}


def _port_units(machine: Machine, placement: Placement, *, header: str, address: str | None) -> dict[str, str]:
    files = {}
    for port in machine.publish:
        listen = _proxied(port, ipv6=placement.ipv6_loopback, dnat=address is not None)
        if not listen:
            continue
        socket = paths.port_unit(machine.name, port, "socket")
        values = {"header": header, "name": machine.name, "machine_unit": machine_unit(machine.name), "port": port}
        files[f"{paths.UNIT_DIRECTORY}/{socket}"] = render("port.socket", **values, listen=listen)
        files[f"{paths.UNIT_DIRECTORY}/{paths.port_unit(machine.name, port, 'service')}"] = render(
            "port.service", **values, socket=socket, target=address or machine.name
        )
    return files


def _proxied(port: Publish, *, ipv6: bool, dnat: bool) -> list[str]:
    """The addresses that no DNAT reaches: the loopback ones (systemd#6106) and all of IPv6, as machines have IPv4.

    Without ``dnat``, on a bridge of others, nspawn maps ports of all addresses at once (systemd-nspawn(1), --port=).
    """
    if port.address is None:
        return ["127.0.0.1", "[::]"] if ipv6 else ["127.0.0.1"]
    address = ipaddress.ip_address(port.address)
    if address.version == 6:
        return [f"[{address}]"]
    return [str(address)] if address.is_loopback or not dnat else []


def _nat_ports(ports: tuple[Publish, ...]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for port in ports:
        match = "meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8"
        if port.address is not None:
            address = ipaddress.ip_address(port.address)
            if address.version == 6 or address.is_loopback:
                continue
            match = f"ip daddr {address}"
        found.append({"host": port.host, "guest": port.guest, "match": match})
    return found
