# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network to the files that make its bridge and carry its packets: path to text."""

from __future__ import annotations

from collections.abc import Iterable

from machines.model.network import DOMAIN, Network
from machines.render import paths
from machines.render.environment import render
from machines.render.rules import BASE, network_rules, resolver_rules, stamped


def render_bridge(
    network: Network, *, networkd: bool, dns: tuple[str, ...], local_dns: str = "", network_manager: bool = False
) -> dict[str, str]:
    """Give every file on the host that makes a bridge, and those that all bridges share.

    ``dns`` are the name servers that DHCP tells of; with ``networkd`` that makes the bridge, else machctl does.
    ``local_dns`` is the host's own server on 127.0.0.0/8 that answers at the gateway, "" for none; a
    ``network_manager`` is told to leave the bridge alone.
    """
    header = paths.bridge_header(network.bridge, network.origin)
    values = {"header": header, "bridge": network.bridge}
    rules = [*network_rules(network), *(resolver_rules(network, local_dns) if local_dns else ())]
    files = {
        f"{paths.NAT_DIRECTORY}/bridge-{network.bridge}.nft": render(
            "bridge.nft", header=header, bridge=network.bridge, rules=stamped(network.bridge, rules)
        ),
        paths.NAT_FILE: render(
            "nat.nft",
            header="# machctl: fleet nat, what bridges and machines need",
            directory=paths.NAT_DIRECTORY,
            redirects=paths.REDIRECT_DIRECTORY,
            rules=stamped("base", BASE),
        ),
    }
    if local_dns:
        files[paths.bridge_sysctl_file(network.bridge)] = render(
            "sysctl.conf", header=header, links=[network.bridge], what="the host's name server, that answers there only"
        )
    if network_manager:
        files |= unmanaged_files(network)
    if networkd:
        stem = f"{paths.NETWORK_DIRECTORY}/70-machctl-{network.bridge}"
        if network.kind != "veth":
            files[f"{stem}.netdev"] = render("bridge.netdev", **values)
        files[f"{stem}.network"] = render(
            "bridge.network",
            **values,
            kind="veth" if network.kind == "veth" else "bridge",
            addresses=network.addresses,
            ipv6=network.subnet6 is not None,
            mtu=network.mtu,
            dhcp=network.dhcp,
            pool_offset=network.dhcp_offset,
            pool_size=network.dhcp_size,
            # Its DHCP server is told IPv4 addresses (systemd.network(5), [DHCPServer] DNS=).
            dns=[server for server in dns if ":" not in server],
            router=network.mode != "isolated",
        )
    return files


def unmanaged_files(network: Network) -> dict[str, str]:
    """Give what tells NetworkManager to leave a bridge and the links in it alone."""
    header = paths.bridge_header(network.bridge, network.origin)
    return {paths.unmanaged_file(network.bridge): render("unmanaged.conf", header=header, bridge=network.bridge)}


def render_resolver(networks: Iterable[Network]) -> str:
    """Give the drop-in that has resolved answer machines at the gateways of their networks; "" where none is to."""
    listeners = [gateway for network in networks if network.dns for gateway in network.gateways]
    return render("resolved.conf", header=paths.RESOLVER_HEADER, listeners=listeners) if listeners else ""


def hosts_line(address: str, *names: str, plain: bool = True) -> str:
    """Give the line of hosts(5) for an address: each name in the domain of machines, and ``plain`` ones behind them."""
    return " ".join([address, *(f"{name}.{DOMAIN}" for name in names), *(names if plain else ())])
