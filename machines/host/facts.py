# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel and the file system say of the host, read as text; nothing here starts a process."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable

from machines.host.files import read_text
from machines.host.guest import read_file
from machines.host.matching import matching
from machines.host.storage.pool import filesystem_of
from machines.model.limits import Limits
from machines.model.observed import Link, Listener
from machines.model.tree import Tree

# Kernel: file systems with FS_ALLOW_IDMAP that people bind from.
_IDMAP_FILESYSTEMS = {"btrfs", "ext4", "f2fs", "tmpfs", "vfat", "xfs"}
_TCP_LISTEN = "0A"

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
        ports = tuple(sorted(os.listdir(f"{path}/brif"))) if os.path.isdir(f"{path}/brif") else ()
        found[name] = Link(name, "bridge" if os.path.isdir(f"{path}/bridge") else kind, ports)
    return found


def parse_routes(text: str) -> tuple[ipaddress.IPv4Network, ...]:
    """Read /proc/net/route into the subnets the host has routes to, the default route left out."""
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(field), "little") for field in (fields[1], fields[7]))
        length = mask.bit_count()
        if length:
            found.add(ipaddress.IPv4Network((destination & mask, length)))
    return tuple(sorted(found))


def routes() -> tuple[ipaddress.IPv4Network, ...]:
    """Give the IPv4 subnets the host has routes to."""
    return parse_routes(read_text("/proc/net/route") or "")


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Read /proc/net/tcp or tcp6 into the sockets that listen (Documentation/networking/proc_net_tcp.rst)."""
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[3] != _TCP_LISTEN:
            continue
        address, _, port = fields[1].partition(":")
        raw = bytes.fromhex(address)
        # The kernel prints each 32-bit word in the byte order of the machine.
        words = [raw[index : index + 4][::-1] for index in range(0, len(raw), 4)]
        listener = ipaddress.ip_address(b"".join(words))
        found.add(Listener(str(getattr(listener, "ipv4_mapped", None) or listener), int(port, 16)))
    return tuple(sorted(found, key=lambda listener: (listener.port, listener.address)))


def listeners() -> tuple[Listener, ...]:
    """Give the TCP sockets of the host that listen."""
    return tuple(
        listener for name in ("tcp", "tcp6") for listener in parse_listeners(read_text(f"/proc/net/{name}") or "")
    )


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """Read the IPv4 name servers of a resolv.conf(5) that machines can reach: those on loopback are the host's own."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            if address.version == 4 and not address.is_loopback and str(address) not in found:
                found.append(str(address))
    return tuple(found)


def dns() -> tuple[str, ...]:
    """Give the name servers machines are told of: resolved's uplink ones, else those of /etc/resolv.conf."""
    for path in ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"):
        servers = parse_resolv_conf(read_text(path) or "")
        if servers:
            return servers
    return ()


def ipv6_loopback() -> bool:
    """Tell whether [::1] can be bound."""
    return any(line.endswith(" lo") for line in (read_text("/proc/net/if_inet6") or "").splitlines())


def idmap_paths(paths: Iterable[str]) -> frozenset[str]:
    """Give those of ``paths`` whose file system can be mounted with another owner (mount_setattr(2))."""
    return frozenset(path for path in paths if filesystem_of(path) in _IDMAP_FILESYSTEMS)


def enabled_machines() -> dict[str, bool]:
    """Give the machines that start at boot: what machines.target wants (systemd.special(7))."""
    prefix = "systemd-nspawn@"
    pattern = f"/etc/systemd/system/machines.target.wants/{prefix}*.service"
    names = (os.path.basename(path) for path in matching(pattern))
    return {name.removeprefix(prefix).removesuffix(".service"): True for name in names}


def limits(unit: str) -> Limits | None:
    """Give the limits in force for a machine's unit, None where the host has no such controllers (cgroups(7))."""
    directory = f"/sys/fs/cgroup/machine.slice/{unit}"
    memory, cpu = read_text(f"{directory}/memory.max"), read_text(f"{directory}/cpu.max")
    return parse_limits(memory, cpu) if memory and cpu else None


def frozen_machines() -> dict[str, str]:
    """Give the machines that are held still, name to unit (cgroup.freeze in cgroups(7))."""
    found = {}
    for path in matching("/sys/fs/cgroup/machine.slice/systemd-nspawn@*.service/cgroup.freeze"):
        if (read_text(path) or "").strip() == "1":
            unit = path.split("/")[-2]
            found[unit.removeprefix("systemd-nspawn@").removesuffix(".service")] = unit
    return found


def parse_limits(memory: str, cpu: str) -> Limits:
    """Read memory.max and cpu.max (Documentation/admin-guide/cgroup-v2.rst)."""
    quota, period = cpu.split()
    return Limits(
        None if memory.strip() == "max" else int(memory), None if quota == "max" else round(int(quota) / int(period), 2)
    )


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


def sysctl(name: str) -> int | None:
    """Give a number from /proc/sys, None where the kernel has no such key."""
    text = read_text(f"/proc/sys/{name.replace('.', '/')}")
    return int(text.split()[0]) if text and text.split() else None


def set_sysctl(name: str, value: int) -> None:
    """Set a number in /proc/sys where it is another; a read-only one is left (doctor names it)."""
    if sysctl(name) == value:
        return
    with contextlib.suppress(OSError), open(f"/proc/sys/{name.replace('.', '/')}", "w", encoding="ascii") as file:
        file.write(str(value))
