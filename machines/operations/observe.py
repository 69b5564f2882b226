# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host, looked at once: the snapshot that plans are made from."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from machines.declare.fleet import FLEET_DIRECTORY, FLEET_FILE
from machines.declare.links import OUTSIDE
from machines.declare.values import parse_publish
from machines.errors import InvalidFile, InvalidValue, MachctlError
from machines.model.base import Payload
from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.network import Network
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.model.tree import Tree
from machines.plan.check_host import NETWORK_MANAGER, PACKAGES, TOOLS
from machines.plan.ports import read_loopback
from machines.render import paths

_PATTERNS = (
    FLEET_FILE,
    f"{FLEET_DIRECTORY}/*.toml",
    f"{paths.NSPAWN_DIRECTORY}/*.nspawn",
    f"{paths.UNIT_DIRECTORY}/machctl-port-*",
    f"{paths.UNIT_DIRECTORY}/sockets.target.d/50-machctl-*.conf",
    f"{paths.SYSCTL_DIRECTORY}/70-machctl-*.conf",
    f"{paths.LOCALNET_DIRECTORY}/*.conf",
    f"{paths.NETWORK_MANAGER_DIRECTORY}/70-machctl-*.conf",
    f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/50-machctl.conf",
    f"{paths.UNIT_DIRECTORY}/var-lib-mach*.mount",
    f"{paths.NETWORK_DIRECTORY}/70-machctl-*",
    f"{paths.NAT_DIRECTORY}/*.nft",
    paths.NAT_FILE,
    paths.FIREWALLD_PORTS,
    paths.HOSTS_FILE,
    paths.RESOLVER_FILE,
    paths.RESOLVER_PENDING,
    f"{paths.GUEST_DIRECTORY}/*/*",
    f"{paths.UNIT_DIRECTORY}/multi-user.target.wants/machctl-bridge@*.service",
)

RESOLVED = "systemd-resolved.service"

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def observe(host: Host, machines: Iterable[Machine] = (), *, kernel: bool | None = None) -> Observed:
    """Look at everything a plan for ``machines`` can depend on.

    At what nft has loaded with ``kernel`` only; where that is not said, if there are machines.
    """
    machines = list(machines)
    kernel = bool(machines) if kernel is None else kernel
    trees = _mounted(host, machines, host.pool.trees())
    tools = {*TOOLS, *PACKAGES, "dnf5", "NetworkManager"}
    have = frozenset(tool for tool in tools if host.tools.which(tool))
    booted = host.booted()
    patterns = ["systemd-networkd.service", RESOLVED, NETWORK_MANAGER, "firewalld.service"]
    patterns += ["machctl-*", "systemd-nspawn@*", "var-lib-mach*.mount"]
    states = host.units.states(patterns) if booted else {}
    active = frozenset(unit for unit, state in states.items() if state in {"active", "activating"})
    sources = [bind.source for machine in machines for bind in machine.binds]
    running = host.running()
    files = host.files.read_files(_PATTERNS)
    records = read_records(host)
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
        files=files,
        logs=_logs({*trees, *records}),
        guest_hosts=_guest_hosts(host, trees, records) if RESOLVED not in active else {},
        journals=host.facts.journal_links(trees.values()),
        links=host.facts.links(),
        routes=host.facts.routes(),
        routes6=host.facts.routes6(),
        # The kernel goes through all of its tables for these (inet_diag), and only published ports depend on them.
        listeners=host.facts.listeners() if any(machine.publish for machine in machines) else (),
        dns=host.facts.dns(),
        local_dns=host.facts.local_dns(),
        nat=_nat(host, files) if kernel and "nft" in have and paths.NAT_FILE in files else None,
        localnet=_localnet(host, files),
        stale_units=frozenset(
            machine.name
            for machine in machines
            if machine_unit(machine.name) in states and host.units.needs_reload(machine_unit(machine.name))
        ),
        limits=_limits(host, machines, running),
        free_bytes=host.pool.free_bytes(),
        idmap_paths=host.facts.idmap_paths(path for path in sources if os.path.exists(path)),
        missing_binds=frozenset(path for path in sources if not os.path.lexists(path)),
        inner_links=_inner_links(host, machines),
        records=records,
        networks=read_networks(host),
        bases=host.storage.bases(),
        storage={machine.storage: host.storage.choose(machine.storage) for machine in missing},
        loaded=frozenset(states),
        snapshots={name: tuple(found.values()) for name, found in host.storage.all_snapshots().items()},
        disks=_disks(host, machines, trees, records),
    )


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


def write_record(record: Record) -> str:
    """Give the text of a machine's record."""
    content = {
        "addresses": dict(record.addresses),
        "addresses6": dict(record.addresses6),
        "networks": list(record.networks),
        "links": dict(record.links),
        "ports": list(record.ports),
        "foreign": list(record.foreign),
        "made": dict(record.made),
        "storage": record.storage,
        "base": record.base,
        "uid": record.uid,
        "payload": record.payload._asdict() if record.payload else None,
        "disk": record.disk,
        "intent": record.intent,
    }
    return json.dumps(content, indent=1) + "\n"


def write_network(network: Network) -> str:
    """Give the text of a network's record."""
    content = {
        "subnet": str(network.subnet),
        "subnet6": str(network.subnet6) if network.subnet6 else None,
        "mode": network.mode,
        "dhcp": network.dhcp,
        "dns": network.dns,
        "mtu": network.mtu,
        "reach": list(network.reach),
        "origin": network.origin,
        "kind": network.kind,
    }
    return json.dumps(content, indent=1) + "\n"


def read_networks(host: Host) -> dict[str, Network]:
    """Give the networks that machctl made, by their bridges. Raises InvalidFile for a record that is none."""
    found = {}
    for path, text in host.files.read_files([f"{paths.NETWORK_RECORD_DIRECTORY}/*.json"]).items():
        with _reading(path):
            content = json.loads(text)
            subnet6 = content.get("subnet6")
            found[_stem(path)] = Network(
                _stem(path),
                ipaddress.IPv4Network(content["subnet"]),
                ipaddress.IPv6Network(subnet6) if subnet6 else None,
                mode=content.get("mode", "nat"),
                dhcp=content.get("dhcp", True),
                dns=content.get("dns", True),
                mtu=content.get("mtu"),
                reach=tuple(content.get("reach", ())),
                origin=content.get("origin", ""),
                kind=content.get("kind", "bridge"),
            )
    return found


def _systemd(host: Host, machines: list[Machine]) -> int:
    """The version of systemd, where a machine has a link that not every nspawn can make; 0 where nobody asks."""
    if not any(link.name and link.kind in OUTSIDE for machine in machines for link in machine.links):
        return 0
    words = host.tools.run(["systemctl", "--version"], check=False).stdout.split()
    digits = words[1].split(".")[0].split("~")[0] if len(words) > 1 else ""
    return int(digits) if digits.isdigit() else 0


def _inner_links(host: Host, machines: list[Machine]) -> dict[str, frozenset[str]]:
    """What is there in the network namespaces of machines that run and have one of their own."""
    registered = host.registered()
    return {
        machine.name: host.inner_links(registered[machine.name].leader)
        for machine in machines
        if machine.name in registered and machine.network != "host"
    }


def _limits(host: Host, machines: list[Machine], running: dict[str, str]) -> dict[str, Limits]:
    found = {machine.name: host.facts.limits(running[machine.name]) for machine in machines if machine.name in running}
    return {name: limits for name, limits in found.items() if limits is not None}


def _nat(host: Host, files: Mapping[str, str]) -> str:
    """What the kernel has of machctl's tables; the second is there for machines with restrictions only.

    Both in one go nft 1.1.3 does not find.
    """
    bridged = any(path.startswith(paths.NAT_DIRECTORY) and "rule bridge " in text for path, text in files.items())
    found = ""
    for family in ("inet", "bridge") if bridged else ("inet",):
        done = host.tools.run(["nft", "list", "table", family, "machctl"], check=False)
        found += done.stdout if done.returncode == 0 else ""
    return found


def _localnet(host: Host, files: Mapping[str, str]) -> frozenset[str]:
    """The links that 127.0.0.1 is routed over, of those that it has to be."""
    places = (paths.SYSCTL_DIRECTORY, paths.LOCALNET_DIRECTORY)
    wanted = {key for path, text in files.items() if path.startswith(places) for key in read_loopback(text)}
    return frozenset(key.split("/")[3] for key in wanted if host.facts.sysctl(key) == 1)


def _logs(names: set[str]) -> dict[str, str]:
    return {name: paths.bootstrap_log(name) for name in names if os.path.exists(paths.bootstrap_log(name))}


def read_records(host: Host) -> dict[str, Record]:
    """Give what machctl keeps of its machines, by name. Raises InvalidFile for a record that is none."""
    found = {}
    for path, text in host.files.read_files([f"{paths.RECORD_DIRECTORY}/*.json"]).items():
        with _reading(path):
            content = json.loads(text)
            ports = tuple(str(parse_publish(text)) for text in content["ports"])
            found[_stem(path)] = Record(
                _stem(path),
                dict(content["addresses"]),
                ports,
                addresses6=dict(content.get("addresses6", {})),
                networks=tuple(content.get("networks", ())),
                links=dict(content.get("links", {})),
                foreign=tuple(content.get("foreign", ())),
                made=dict(content.get("made", {})),
                storage=content.get("storage", ""),
                base=content.get("base", ""),
                uid=content.get("uid"),
                payload=_payload(content.get("payload")),
                disk=content.get("disk"),
                intent=content.get("intent", ""),
            )
    return found


def _payload(values: dict[str, object] | None) -> Payload | None:
    if values is None:
        return None
    return Payload(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})  # type: ignore[arg-type]


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


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".json")


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, InvalidValue) as error:
        raise InvalidFile(
            f"{path} is not what machctl wrote there: {error}", hint=f"remove it; apply writes it anew: rm {path}"
        ) from error


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
