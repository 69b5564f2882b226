# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel and the file system say of the host, read as text; nothing here starts a process."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable

from machines.host.files import read_text
from machines.host.guest import read_file
from machines.host.limits import limits as limits
from machines.host.matching import matching
from machines.host.sysctl import forward_ipv6 as forward_ipv6
from machines.host.sysctl import ipv6_enabled as ipv6_enabled
from machines.host.sysctl import set_sysctl as set_sysctl
from machines.host.sysctl import sysctl as sysctl
from machines.model.observed import Link, Listener
from machines.model.settings import Node
from machines.model.tree import Tree

# TCP_LISTEN and TCP_CLOSE, which a UDP socket is in that is not connected (include/net/tcp_states.h).
_LISTEN = {"tcp": "0A", "udp": "07"}

# What is shorter is as good as a default route: OpenVPN has the two halves of one in its place.
_PREFIX_MIN, _PREFIX6_MIN = 8, 16

JOURNALS = "/var/log/journal"


def machined_state() -> str:
    """Give "" if machined can be reached, else "masked" or "not-found".

    It need not run: the bus starts it. Only a unit that is missing or a symlink to /dev/null is out of reach.
    """
    unit = "systemd-machined.service"
    for directory in ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"):
        path = f"{directory}/{unit}"
        if os.path.lexists(path):
            return "masked" if os.path.realpath(path) == "/dev/null" else ""
    return "not-found"


def links() -> dict[str, Link]:
    """Give the links of this network namespace by name (sysfs, Documentation/ABI/testing/sysfs-class-net)."""
    found = {}
    for path in matching("/sys/class/net/*"):
        name = os.path.basename(path)
        kind = ""
        for line in (read_text(f"{path}/uevent") or "").splitlines():
            key, _, value = line.partition("=")
            if key == "DEVTYPE":
                kind = value
        # Others are not asked for what only a bridge has: a fleet has a link or two for each machine.
        bridge = kind == "bridge"
        ports = tuple(sorted(os.listdir(f"{path}/brif"))) if bridge and os.path.isdir(f"{path}/brif") else ()
        vlans = read_text(f"{path}/bridge/vlan_filtering") if bridge else None
        mtu = read_text(f"{path}/mtu") if bridge else None
        found[name] = Link(
            name,
            kind,
            ports,
            vlans=None if vlans is None else vlans.strip() == "1",
            mtu=int(mtu) if mtu else None,
        )
    return found


def parse_routes(text: str) -> dict[ipaddress.IPv4Network, str]:
    """Read /proc/net/route into the subnets the host has routes to and their links, default routes left out."""
    found = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(field), "little") for field in (fields[1], fields[7]))
        length = mask.bit_count()
        if length >= _PREFIX_MIN:
            found[ipaddress.IPv4Network((destination & mask, length))] = fields[0]
    return {subnet: found[subnet] for subnet in sorted(found)}


def routes() -> dict[ipaddress.IPv4Network, str]:
    """Give the IPv4 subnets the host has routes to, and the links these leave by."""
    return parse_routes(read_text("/proc/net/route") or "")


def parse_routes6(text: str) -> dict[ipaddress.IPv6Network, str]:
    """Read /proc/net/ipv6_route as parse_routes() does: global and unique local subnets only."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        # Multicast and link-local routes are there on every link, and say nothing of subnets.
        if len(fields) < 10 or fields[9] == "lo" or fields[0].startswith(("ff", "fe8")):
            continue
        if int(fields[1], 16) < _PREFIX6_MIN:
            continue
        found[ipaddress.IPv6Network((int(fields[0], 16), int(fields[1], 16)))] = fields[9]
    return {subnet: found[subnet] for subnet in sorted(found)}


def routes6() -> dict[ipaddress.IPv6Network, str]:
    """Give the IPv6 subnets the host has routes to, and the links these leave by."""
    return parse_routes6(read_text("/proc/net/ipv6_route") or "")


def machine_id() -> str:
    """Give what no other host is called (machine-id(5))."""
    return (read_text("/etc/machine-id") or "").strip()


def parse_listeners(text: str, protocol: str = "tcp") -> tuple[Listener, ...]:
    """Read /proc/net/tcp, tcp6, udp or udp6 into the sockets that listen (Documentation/networking/proc_net_tcp.rst).

    One of UDP is taken to do so where it is not connected.
    """
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[3] != _LISTEN[protocol]:
            continue
        address, _, port = fields[1].partition(":")
        raw = bytes.fromhex(address)
        # The kernel prints each 32-bit word in the byte order of the machine.
        words = [raw[index : index + 4][::-1] for index in range(0, len(raw), 4)]
        listener = ipaddress.ip_address(b"".join(words))
        found.add(Listener(str(getattr(listener, "ipv4_mapped", None) or listener), int(port, 16), protocol))
    return tuple(sorted(found, key=lambda listener: (listener.port, listener.address)))


def listeners(leader: int | None = None) -> tuple[Listener, ...]:
    """Give the TCP and UDP sockets that listen: the host's, or those in the network of the process ``leader``."""
    return tuple(
        listener
        for protocol in ("tcp", "udp")
        for version in ("", "6")
        for listener in parse_listeners(read_text(f"/proc/{leader or 'self'}/net/{protocol}{version}") or "", protocol)
    )


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """Read the name servers of a resolv.conf(5) that machines can reach: those on loopback are the host's own."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                continue
            if not (address.is_loopback or address.is_link_local or address.is_unspecified) and words[1] not in found:
                found.append(str(address))
    # A machine may have no IPv6.
    return tuple(sorted(found, key=lambda server: ":" in server))


# Where whoever puts a server of the host's own into /etc/resolv.conf keeps the ones that it asks itself: resolved,
# NetworkManager with a dnsmasq, Debian's dnsmasq and unbound with a resolvconf.
_RESOLV_CONFS = (
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/etc/resolv.conf",
    "/run/dnsmasq/resolv.conf",
    "/run/resolvconf/resolv.conf",
)


# systemd-resolved.service(8), and what Docker names in its containers: on that one's port 53 nobody listens.
_RESOLVED = ("127.0.0.53", "127.0.0.54")
_DOCKER = ("127.0.0.11",)


def dns() -> tuple[str, ...]:
    """Give the name servers machines are told of: resolved's uplink ones, else those of /etc/resolv.conf."""
    for path in _RESOLV_CONFS:
        servers = parse_resolv_conf(read_text(path) or "")
        if servers:
            return servers
    return ()


def parse_local_dns(text: str) -> str:
    """Read the name server of the host's own from a resolv.conf(5) that names none elsewhere; "" for none.

    Not resolved's, which listens on 127.0.0.53: where that runs it is asked otherwise, and else nobody is there.
    """
    for words in map(str.split, () if parse_resolv_conf(text) else text.splitlines()):
        if words[:1] == ["nameserver"] and words[1:] and words[1] not in _RESOLVED + _DOCKER:
            with contextlib.suppress(ValueError):
                if ipaddress.IPv4Address(words[1]).is_loopback:
                    return words[1]
    return ""


def local_dns() -> str:
    """Give the name server that the host asks on 127.0.0.0/8, "" where it asks others."""
    return parse_local_dns(read_text("/etc/resolv.conf") or "")


def ipv6_loopback() -> bool:
    """Tell whether [::1] can be bound."""
    return any(line.endswith(" lo") for line in (read_text("/proc/net/if_inet6") or "").splitlines())


def unmapped(paths: Iterable[str], *, nodes: bool = False) -> dict[str, str]:
    """Give those of ``paths`` that a machine cannot be shown with its own owners, and why (idmap.reasons())."""
    paths = tuple(paths)
    if not paths:
        return {}
    from machines.host.idmap import reasons

    return reasons(paths, nodes=nodes)


def devices(paths: Iterable[str]) -> dict[str, Node]:
    """Give what there is at the places of devices (devices.devices())."""
    paths = tuple(paths)
    if not paths:
        return {}
    from machines.host.devices import devices as look

    return look(paths)


def enabled_machines() -> dict[str, bool]:
    """Give the machines that start at boot: what machines.target wants (systemd.special(7))."""
    prefix = "systemd-nspawn@"
    pattern = f"/etc/systemd/system/machines.target.wants/{prefix}*.service"
    names = (os.path.basename(path) for path in matching(pattern))
    return {name.removeprefix(prefix).removesuffix(".service"): True for name in names}


def journal_links(trees: Iterable[Tree]) -> dict[str, str]:
    """Give the links in /var/log/journal to machines' own journals, by machine (systemd-nspawn(1), --link-journal=).

    A link leads into the machine's tree, or is called as the machine's ID: nspawn 262 lets it point to the temporary
    place it had the tree mounted at. The ID is the guest's word, and gives it no other machine's link.
    """
    found = {}
    targets = _journal_targets()
    elsewhere = [path for path, target in targets.items() if not target.startswith("/var/lib/machines/")]
    for tree in trees:
        leading = [path for path, target in targets.items() if target.startswith(f"{tree.path}/")]
        if not leading and not elsewhere:
            continue
        if len(leading) == 1:
            # Most have one at most, and what a guest wrote is not quickly read.
            found[tree.name] = leading[0]
            continue
        machine_id = (read_file(tree.path, "/etc/machine-id") or "").strip() if tree.kind != "raw" else ""
        path = f"{JOURNALS}/{machine_id}"
        if leading:
            found[tree.name] = path if path in leading else leading[0]
        elif machine_id and path in elsewhere:
            found[tree.name] = path
    return found


def _journal_targets() -> dict[str, str]:
    """Give where the links in /var/log/journal lead, by path."""
    found = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(JOURNALS)):
            with contextlib.suppress(OSError):
                found[f"{JOURNALS}/{name}"] = os.readlink(f"{JOURNALS}/{name}")
    return found
