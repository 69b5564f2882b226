# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host, looked at once: the snapshot that plans are made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING

from machines.declare.fleet import DECLARATIONS
from machines.declare.links import OUTSIDE
from machines.declare.values import parse_publish
from machines.errors import MachctlError, NotPermitted
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host as Observed
from machines.model.observed import Listener, Record
from machines.model.settings import FUSE, Node
from machines.model.tree import Tree
from machines.operations.declared import one_file
from machines.operations.records import read_networks, read_records
from machines.plan.check_host import NETWORK_MANAGER, PACKAGES, TOOLS
from machines.plan.ports import loopback_key, wanted_loopback
from machines.render import paths

_PATTERNS = (
    f"{paths.NSPAWN_DIRECTORY}/*.nspawn",
    f"{paths.UNIT_DIRECTORY}/machctl-port-*",
    f"{paths.UNIT_DIRECTORY}/sockets.target.d/50-machctl-*.conf",
    f"{paths.SYSCTL_DIRECTORY}/70-machctl-*.conf",
    f"{paths.LOCALNET_DIRECTORY}/*.conf",
    f"{paths.NETWORK_MANAGER_DIRECTORY}/70-machctl-*.conf",
    f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/50-machctl.conf",
    *(f"{directory}/systemd-nspawn@*.service.d/*.conf" for directory in paths.CONTROL_DIRECTORIES),
    f"{paths.UNIT_DIRECTORY}/var-lib-mach*.mount",
    f"{paths.NETWORK_DIRECTORY}/70-machctl-*",
    f"{paths.NAT_DIRECTORY}/*.nft",
    paths.NAT_FILE,
    paths.FIREWALLD_PORTS,
    paths.LED_FILE,
    paths.HOSTS_FILE,
    paths.RESOLVER_FILE,
    paths.RESOLVER_PENDING,
    f"{paths.GUEST_DIRECTORY}/*/*",
    f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/60-machctl-health.conf",
    f"{paths.PROBE_DIRECTORY}/*",
    f"{paths.HEALTH_DIRECTORY}/*",
    f"{paths.RESULTS_DIRECTORY}/*",
    f"{paths.STARTED_PREFIX}*/*",
    f"{paths.STARTED_PREFIX}*/*/*",
    f"{paths.UNIT_DIRECTORY}/multi-user.target.wants/machctl-bridge@*.service",
    f"{paths.ADOPTED_DIRECTORY}/*/*",
    paths.ejected_file("*"),
    f"{paths.ROLLOUT_DIRECTORY}/*.json",
    f"{paths.REDIRECT_DIRECTORY}/*.nft",
    f"{paths.NSPAWN_DIRECTORY}/*.nft",
    f"{paths.UNIT_DIRECTORY}/machine-*-network.service",
    f"{paths.UNIT_DIRECTORY}/nftables.service.d/machine-*.conf",
    f"{paths.UNIT_DIRECTORY}/machctl-used@*.target",
    f"{paths.UNIT_DIRECTORY}/machctl-update@*.timer.d/50-machctl.conf",
    f"{paths.UPDATE_DIRECTORY}/*.json",
    "/etc/systemd/resolved.conf.d/machine-*.conf",
)

RESOLVED = "systemd-resolved.service"
_NAT = ("nft", "list", "table", "inet", "machctl")

if TYPE_CHECKING:
    from machines.host.interfaces import Completed, Host, Registered
    from machines.model.base import Base


def observe(host: Host, machines: Iterable[Machine] = (), *, kernel: bool | None = None) -> Observed:
    """Look at everything a plan for ``machines`` can depend on.

    At what nft has loaded with ``kernel`` only; where that is not said, if there are machines.
    """
    machines = list(machines)
    kernel = bool(machines) if kernel is None else kernel
    trees = _mounted(host, machines, host.pool.trees())
    tools = {*TOOLS, *PACKAGES, "dnf5", "NetworkManager"}
    have = frozenset(tool for tool in tools if host.tools.which(tool))
    listed = _list_nat(host) if kernel and "nft" in have else None
    booted = host.booted()
    patterns = ["systemd-networkd.service", RESOLVED, NETWORK_MANAGER, "firewalld.service"]
    patterns += ["machctl-*", "systemd-nspawn@*", "var-lib-mach*.mount"]
    states = host.units.states(patterns) if booted else {}
    active = _active(states)
    up = frozenset(unit for unit, state in states.items() if unit.startswith("systemd-nspawn@") and state == "active")
    sources = [bind.source for machine in machines for bind in machine.binds]
    there = [path for path in sources if os.path.exists(path)]
    devices = _devices(host, machines)
    unmapped = host.facts.unmapped(there)
    if any(not node.open for node in devices.values()):
        unmapped |= host.facts.unmapped([paths.DEVICE_PLACE], nodes=True)
    registered = host.registered()
    running = {name: entry.unit for name, entry in registered.items()}
    # With a file in their place, the host's own declarations still say what its networks are.
    files = host.files.read_files(dict.fromkeys((*host.declarations, *DECLARATIONS, *_PATTERNS)))
    records = read_records(host)
    secrets = _secrets(host, machines)
    listeners, active = _listeners(host, machines, active, records)
    missing = [machine for machine in machines if machine.name not in trees]
    return Observed(
        euid=os.geteuid(),
        booted=booted,
        machined=host.facts.machined_state(),
        systemd=_systemd(host, machines),
        networkd="systemd-networkd.service" in active,
        ipv6_loopback=host.facts.ipv6_loopback(),
        ipv6=host.facts.ipv6_enabled(),
        resolved=RESOLVED in active,
        machine_id=host.facts.machine_id(),
        hostname=host.hostname(),
        tools=have,
        trees=trees,
        running=running,
        enabled=host.facts.enabled_machines(),
        active=active,
        up=up,
        files=files,
        secrets=secrets,
        newer_secrets=_newer_secrets(host, machines, running, secrets),
        nspawn=_nspawn(host) if any(machine.secrets for machine in machines) else "",
        declared_in=one_file(host),
        logs=_logs({*trees, *records}),
        guest_hosts=_guest_hosts(host, trees, records) if RESOLVED not in active else {},
        journals=host.facts.journal_links(trees.values()),
        links=host.facts.links(),
        routes=host.facts.routes(),
        routes6=host.facts.routes6(),
        listeners=listeners,
        dns=host.facts.dns(),
        local_dns=host.facts.local_dns(),
        nat=_nat(host, files, listed) if listed else None,
        localnet=_localnet(host, files),
        stale_units=_stale(host, machines, states),
        limits=_limits(host, machines, running),
        free_bytes=host.pool.free_bytes(),
        idmap_paths=frozenset(path for path in there if path not in unmapped),
        unmapped=unmapped,
        devices=devices,
        missing_binds=frozenset(path for path in sources if not os.path.lexists(path)),
        inner_links=_inner_links(host, machines, registered),
        records=records,
        networks=read_networks(host),
        bases=_bases(host),
        storage={wanted: host.storage.choose(wanted) for wanted in {machine.storage for machine in missing}},
        loaded=frozenset(states),
        snapshots={name: tuple(found.values()) for name, found in host.storage.all_snapshots().items()},
        disks=_disks(host, machines, trees, records),
    )


def _stale(host: Host, machines: list[Machine], loaded: Container[str]) -> frozenset[str]:
    """The machines whose units systemd has in memory as they were before their files changed."""
    names = {machine_unit(machine.name): machine.name for machine in machines}
    known = {unit: paths.units_read(name) for unit, name in names.items() if unit in loaded}
    return frozenset(names[unit] for unit in host.units.changed(known))


def _guest_hosts(host: Host, trees: dict[str, Tree], records: dict[str, Record]) -> dict[str, str]:
    """Give the hosts(5) files of machines: names are kept in them where no resolved of the host answers.

    Not those that have to stay as they are (Guests.read_whole_file).
    """
    found = {}
    for name in records.keys() & trees.keys():
        tree = trees[name]
        if tree.kind not in {"raw", "lost"}:
            roots = [f"{paths.layer(name)}/upper", tree.path] if tree.kind == "overlay" else [tree.path]
            texts = (host.guests.read_whole_file(root, paths.HOSTS_FILE) for root in roots)
            text = next((text for text in texts if text != ""), "")
            if text is not None:
                found[name] = text
    return found


def _systemd(host: Host, machines: list[Machine]) -> int:
    """The version of systemd, where a machine has what not every nspawn can make; 0 where nobody asks."""
    named = any(link.name and link.kind in OUTSIDE for machine in machines for link in machine.links)
    if not named and not any(machine.volatile for machine in machines):
        return 0
    words = host.tools.run(["systemctl", "--version"], check=False).stdout.split()
    digits = words[1].split(".")[0].split("~")[0] if len(words) > 1 else ""
    return int(digits) if digits.isdigit() else 0


def _active(states: Mapping[str, str]) -> frozenset[str]:
    return frozenset(unit for unit, state in states.items() if state in {"active", "activating"})


def _listeners(
    host: Host, machines: list[Machine], active: frozenset[str], records: Mapping[str, Record]
) -> tuple[tuple[Listener, ...], frozenset[str]]:
    """The sockets that listen, where ports are to be published that are not, or that nobody listens on yet; and the
    units that are ``active``, with the sockets of machines that have begun to listen since these were read.

    The kernel goes through all of its tables for these, 5 ms for each (proc_net_tcp in its documentation).
    """
    had = {(name, port) for name, record in records.items() for port in record.ports}
    ports = [(machine.name, port) for machine in machines for port in machine.publish]
    new = any(
        (name, str(port)) not in had or paths.port_unit(name, port, "socket") not in active for name, port in ports
    )
    if not new:
        return (), active
    found = host.facts.listeners()
    units: dict[tuple[int, str], set[str]] = {}
    for name, port in (*ports, *((name, parse_publish(text)) for name, text in had)):
        units.setdefault((port.host, port.protocol), set()).add(paths.port_unit(name, port, "socket"))
    heard = [units.get((listener.port, listener.protocol), set()) for listener in found]
    if unclear := sorted({unit for own in heard if not own & active for unit in own}):
        # Whose they are only the states of now tell. Of a socket that has come and gone meanwhile nothing listens now.
        active |= _active(host.units.states(unclear))
        again = set(host.facts.listeners())
        found = tuple(listener for listener in found if listener in again)
    return found, active


def _inner_links(
    host: Host, machines: list[Machine], registered: Mapping[str, Registered]
) -> dict[str, frozenset[str]]:
    """What is there in the network namespaces of machines that run and have one of their own."""
    found = {
        machine.name: host.inner_links(registered[machine.name].leader)
        for machine in machines
        if machine.name in registered and machine.network != "host"
    }
    # Each has a loopback at least, but for one that has ended by now.
    return {name: links for name, links in found.items() if links}


def _limits(host: Host, machines: list[Machine], running: dict[str, str]) -> dict[str, dict[str, float | None]]:
    units = {machine.name: running[machine.name] for machine in machines if machine.name in running}
    found = host.facts.limits(units.values()) if units else {}
    return {name: found[unit] for name, unit in units.items()}


def _devices(host: Host, machines: list[Machine]) -> dict[str, Node]:
    """What there is at the places of the devices that machines use, or would use if the host had them."""
    wanted = {device.path for machine in machines for device in machine.devices}
    if any(machine.nesting for machine in machines):
        wanted.add(FUSE)
    return host.facts.devices(sorted(wanted))


def _secrets(host: Host, machines: list[Machine]) -> dict[str, str]:
    """The files of those secrets of machines that are there, by how machines name them."""
    wanted = {secret for machine in machines for secret in machine.secrets}
    if not wanted:
        return {}
    try:
        kept = host.secrets.stored()
    except NotPermitted:
        kept = {}
    paths = {str(each): each.reference if each.kind == "file" else kept.get(each.reference, "") for each in wanted}
    return {name: path for name, path in paths.items() if path and host.secrets.is_file(path)}


def _newer_secrets(
    host: Host, machines: list[Machine], running: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """What machines that run call those of their secrets that are others than what they were started with."""
    units = {machine_unit(each.name): each for each in machines if each.secrets}
    units = {unit: each for unit, each in units.items() if running.get(each.name) == unit}
    if not units:
        return {}
    newer = host.secrets.changed(
        {
            unit: {secret.id: files[str(secret)] for secret in each.secrets if str(secret) in files}
            for unit, each in units.items()
        }
    )
    return {
        units[unit].name: tuple(secret.name for secret in units[unit].secrets if secret.id in names)
        for unit, names in newer.items()
    }


def _bases(host: Host) -> dict[str, Base]:
    try:
        return host.storage.bases()
    except NotPermitted:
        return {}


def _nspawn(host: Host) -> str:
    """What the stock unit runs, to which the names of secrets are added; "" where that is not known."""
    text = host.files.read_text("/usr/lib/systemd/system/systemd-nspawn@.service") or ""
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    return lines[0] if len(lines) == 1 and not lines[0].endswith("\\") else ""


def _list_nat(host: Host) -> Callable[[], Completed] | None:
    """Have nft list machctl's table while the rest is looked at."""
    return host.tools.begin(_NAT) if host.files.read_files([paths.NAT_FILE]) else None


def _nat(host: Host, files: Mapping[str, str], listed: Callable[[], Completed]) -> str:
    """What the kernel has of machctl's tables; the second is there for machines with restrictions only.

    Both in one go nft 1.1.3 does not find.
    """
    bridged = any(path.startswith(paths.NAT_DIRECTORY) and "rule bridge " in text for path, text in files.items())
    done = [listed()]
    if bridged:
        done.append(host.tools.run(["nft", "list", "table", "bridge", "machctl"], check=False))
    return "".join(each.stdout for each in done if each.returncode == 0)


def _localnet(host: Host, files: Mapping[str, str]) -> frozenset[str]:
    """The links that 127.0.0.1 is routed over, of those that it has to be."""
    return frozenset(link for link in wanted_loopback(files) if host.facts.sysctl(loopback_key(link)) == 1)


def _logs(names: set[str]) -> dict[str, str]:
    return {name: paths.bootstrap_log(name) for name in names if os.path.exists(paths.bootstrap_log(name))}


def _disks(host: Host, machines: list[Machine], trees: dict[str, Tree], records: dict[str, Record]) -> dict[str, int]:
    """The limits of the trees that are to have one, or had one: asking takes a tool each time."""
    found = {}
    for machine in machines:
        tree, record = trees.get(machine.name), records.get(machine.name)
        if tree and (machine.disk is not None or (record and record.disk is not None)):
            limit = host.storage.limit(tree.path)
            if limit is not None:
                found[machine.name] = limit
    return found


def _mounted(host: Host, machines: list[Machine], trees: dict[str, Tree]) -> dict[str, Tree]:
    """Mount those layers whose files are looked at: under them lies an empty directory. One without a base is lost."""
    found = dict(trees)
    for tree in (trees[machine.name] for machine in machines if machine.name in trees):
        if tree.kind == "overlay":
            try:
                host.storage.mount(tree.name)
            except MachctlError:
                found[tree.name] = tree._replace(kind="lost")
    return found
