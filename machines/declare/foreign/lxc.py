# SPDX-License-Identifier: LGPL-2.1-or-later
"""The config of an LXC container (lxc.container.conf(5)) to keys of a declaration."""

from __future__ import annotations

import re

from machines.declare.foreign.found import Found
from machines.declare.foreign.ini import number

# Before LXC 2.1.
_OLD = {
    "lxc.utsname": "lxc.uts.name",
    "lxc.rootfs": "lxc.rootfs.path",
    "lxc.mount": "lxc.mount.fstab",
    "lxc.id_map": "lxc.idmap",
    "lxc.tty": "lxc.tty.max",
}
# What every container of theirs has, and a machine has in its own way or needs not.
_SILENT = (
    "lxc.include", "lxc.arch", "lxc.tty.", "lxc.pty.", "lxc.signal.", "lxc.console.", "lxc.log.", "lxc.mount.auto",
    "lxc.autodev", "lxc.rootfs.options", "lxc.rootfs.backend", "lxc.init.", "lxc.start.delay", "lxc.start.order",
)  # fmt: skip
_LIMITS = {
    "memory.max": "memory",
    "memory.high": "memory-high",
    "memory.swap.max": "swap",
    "memory.limit_in_bytes": "memory",
    "cpu.weight": "cpu-weight",
    "pids.max": "tasks",
}
# What nothing but the key itself takes back.
_CLEARED = {
    "lxc.rootfs.path": "source",
    "lxc.uts.name": "hostname",
    "lxc.start.auto": "autostart",
    "lxc.environment": "environment",
    "lxc.cap.drop": "drop-capabilities",
}
_KINDS = {"veth": "bridge", "macvlan": "macvlan", "ipvlan": "ipvlan", "phys": "interface"}


def is_container(text: str) -> bool:
    """Tell whether a file is the config of a container."""
    return any(re.match(r"\s*lxc\.\w+", line) for line in text.splitlines())


def read_container(text: str, *, where: str) -> Found:
    """Read the config of a container."""
    found, links = Found(where), dict[str, dict[str, str]]()
    for line in text.splitlines():
        key, equals, value = (word.strip() for word in line.partition("="))
        key = _OLD.get(key, key)
        if not equals or key.startswith("#"):
            continue
        if key.startswith("lxc.net."):
            _, _, index, *words = key.split(".")
            links.setdefault(index, {})[".".join(words)] = value
        elif key.startswith("lxc.network."):
            # Those of one link follow its type.
            word = key.removeprefix("lxc.network.")
            index = str(len(links) - (0 if word == "type" else 1))
            links.setdefault(index, {})[word] = value
        elif not key.startswith(_SILENT):
            _read(key, value, found)
    if "source" not in found.values:
        found.set("source", "debian")
        found.leave("no lxc.rootfs.path", "a new tree of Debian is made for it")
    _links([links[index] for index in sorted(links, key=lambda index: (len(index), index))], found)
    return found


def _read(key: str, value: str, found: Found) -> None:
    if not value:
        # lxc.container.conf(5): an empty value takes back what was said.
        found.values.pop(_CLEARED.get(key, ""), None)
        return
    match key:
        case "lxc.rootfs.path":
            kind, _, path = value.rpartition(":")
            if kind in {"", "dir"}:
                found.set("source", f"dir:{path}")
            else:
                found.leave(f"{key} = {value}", f"mount the tree and say source = dir:PATH; {kind} is LXC's own")
        case "lxc.uts.name":
            found.set("hostname", value)
        case "lxc.start.auto":
            found.set("autostart", value == "1")
        case "lxc.environment":
            name, equals, content = value.partition("=")
            if equals:
                found.put("environment", name, content)
            else:
                found.leave(f"{key} = {value}", "its value is that of whoever starts the container")
        case "lxc.cap.drop":
            # What a machine of nspawn's has not got anyway is no harm to drop.
            found.add("drop-capabilities", *value.split())
        case "lxc.mount.entry":
            _mount(key, value, found)
        case "lxc.idmap":
            first = value.split()[2:3]
            if first and not (found.unmapped and found.unmapped[-1].what.startswith("lxc.idmap")):
                found.leave(
                    f"{key} = {value}", f"its files belong to ids from {first[0]} on; machctl wants them from 0 on"
                )
        case _ if key.startswith(("lxc.cgroup2.", "lxc.cgroup.")):
            _cgroup(key, value, found)
        case _:
            found.leave(f"{key} = {value}", "machctl has no word for it")


def _cgroup(key: str, value: str, found: Found) -> None:
    name = key.split(".", 2)[2]
    count = number(value)
    if name in _LIMITS and value != "max":
        found.set(_LIMITS[name], value if count is None or "memory" in name else count)
    elif name == "cpu.max" and value.split()[0] != "max":
        # The kernel's own period is 100 ms (cgroup-v2.rst).
        quota, period = map(number, [*value.split(), "100000"][:2])
        if quota and period:
            found.set("cpus", round(quota / period, 2))
        else:
            found.leave(f"{key} = {value}", "it is no time of processors and no period")
    elif name in {"devices.allow", "devices.deny"}:
        if value.strip() != "a":
            found.leave(f"{key} = {value}", "machctl goes by the paths of devices: name them in devices")
    elif value.split()[0] != "max":
        found.leave(f"{key} = {value}", "machctl has no word for it")


def _mount(key: str, value: str, found: Found) -> None:
    """A line of fstab(5); the target is relative to the tree."""
    source, target, kind, options, *_ = [*value.split(), "", "", "", ""][:6]
    said = options.split(",")
    source, target = (path.replace("\\040", " ") for path in (source, "/" + target.lstrip("/")))
    if kind == "tmpfs":
        sizes = [option.removeprefix("size=").upper() for option in said if option.startswith("size=")]
        found.add("tmpfs", f"{target}:{sizes[-1]}" if sizes else target)
    elif source.startswith("/dev/") and source == target:
        found.add("devices", source)
    elif source.startswith("/") and ("bind" in said or "rbind" in said):
        found.add("binds", f"{source}:{target}" + (":ro" if "ro" in said else ""))
    else:
        found.leave(f"{key} = {value}", "machctl shows machines directories and files of the host, and tmpfs")


def _links(links: list[dict[str, str]], found: Found) -> None:
    texts: list[str] = []
    for link in links:
        kind = link.get("type", "")
        if kind in {"none", "empty"}:
            found.set("network", "host" if kind == "none" else "none")
            return
        target = link.get("link", "")
        if kind not in _KINDS or (kind != "veth" and not target):
            found.leave(f"a link of type {kind}", "machctl has no such link")
            continue
        words = ["veth" if kind == "veth" and not target else f"{_KINDS[kind]}:{target}"]
        words += [f"vlan={link['vlan.id']}"] if "vlan.id" in link and kind == "veth" else []
        for family in ("ipv4", "ipv6"):
            address = link.get(f"{family}.address", link.get(family, ""))
            words += [f"ip={address.split()[0]}"] if address else []
        gateway = link.get("ipv4.gateway", "")
        words += [f"gw={gateway}"] if gateway not in {"", "auto", "dev"} else []
        words += [f"mac={link['hwaddr']}"] if "x" not in link.get("hwaddr", "x") and kind != "ipvlan" else []
        words += [f"name={link['name']}"] if "name" in link else []
        texts.append(",".join(words))
    if texts:
        found.set("links", texts)
    else:
        found.set("network", "none")
