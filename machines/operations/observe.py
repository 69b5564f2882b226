# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host, looked at once: the snapshot that plans are made from."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from machines.declare.fleet import FLEET_DIRECTORY, FLEET_FILE
from machines.declare.values import parse_publish
from machines.errors import InvalidFile, InvalidValue, MachctlError
from machines.model.base import Payload
from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.model.tree import Tree
from machines.plan.check import PACKAGES, TOOLS
from machines.render import paths

_PATTERNS = (
    FLEET_FILE,
    f"{FLEET_DIRECTORY}/*.toml",
    f"{paths.NSPAWN_DIRECTORY}/*.nspawn",
    f"{paths.UNIT_DIRECTORY}/machctl-port-*",
    f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/50-machctl.conf",
    f"{paths.UNIT_DIRECTORY}/var-lib-mach*.mount",
    f"{paths.NETWORK_DIRECTORY}/70-machctl-*",
    f"{paths.NAT_DIRECTORY}/*.nft",
    paths.NAT_FILE,
)

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def observe(host: Host, machines: Iterable[Machine] = (), *, nat: bool = True) -> Observed:
    """Look at everything a plan for ``machines`` can depend on; at the kernel's NAT table only with ``nat``."""
    machines = list(machines)
    trees = _mounted(host, machines, host.pool.trees())
    tools = {*TOOLS, *PACKAGES, "dnf5"}
    have = frozenset(tool for tool in tools if host.tools.which(tool))
    booted = host.booted()
    patterns = ["systemd-networkd.service", "machctl-*", "systemd-nspawn@*", "var-lib-mach*.mount"]
    states = host.units.states(patterns) if booted else {}
    active = frozenset(unit for unit, state in states.items() if state in {"active", "activating"})
    sources = [bind.source for machine in machines for bind in machine.binds]
    running = host.running()
    records = read_records(host)
    missing = [machine for machine in machines if machine.name not in trees]
    return Observed(
        euid=os.geteuid(),
        booted=booted,
        machined=host.facts.machined_state(),
        networkd="systemd-networkd.service" in active,
        ipv6_loopback=host.facts.ipv6_loopback(),
        tools=have,
        trees=trees,
        running=running,
        enabled=host.facts.enabled_machines(),
        active=active,
        files=host.files.read_files(_PATTERNS),
        guest_files=_guest_files(host, [machine for machine in machines if machine.name in trees], trees),
        logs=_logs({*trees, *records}),
        journals=host.facts.journal_links(trees.values()),
        links=host.facts.links(),
        routes=host.facts.routes(),
        # The kernel goes through all of its tables for these (inet_diag), and only published ports depend on them.
        listeners=host.facts.listeners() if any(machine.publish for machine in machines) else (),
        dns=host.facts.dns(),
        nat=(_nat(host) if machines and "nft" in have else "") if nat else None,
        stale_units=frozenset(
            machine.name
            for machine in machines
            if machine_unit(machine.name) in states and host.units.needs_reload(machine_unit(machine.name))
        ),
        limits=_limits(host, machines, running),
        free_bytes=host.pool.free_bytes(),
        idmap_paths=host.facts.idmap_paths(path for path in sources if os.path.exists(path)),
        missing_binds=frozenset(path for path in sources if not os.path.lexists(path)),
        records=records,
        networks=read_networks(host),
        bases=host.storage.bases(),
        storage={machine.storage: host.storage.choose(machine.storage) for machine in missing},
        loaded=frozenset(states),
        snapshots={name: tuple(found.values()) for name, found in host.storage.all_snapshots().items()},
        disks=_disks(host, machines, trees, records),
    )


def write_record(record: Record) -> str:
    """Give the text of a machine's record."""
    content = {
        "addresses": dict(record.addresses),
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


def write_network(subnet: str) -> str:
    """Give the text of a bridge's record."""
    return json.dumps({"subnet": subnet}, indent=1) + "\n"


def read_networks(host: Host) -> dict[str, ipaddress.IPv4Network]:
    """Give the bridges that machctl made and their subnets. Raises InvalidFile for a record that is none."""
    found = {}
    for path, text in host.files.read_files([f"{paths.NETWORK_RECORD_DIRECTORY}/*.json"]).items():
        with _reading(path):
            found[_stem(path)] = ipaddress.IPv4Network(json.loads(text)["subnet"])
    return found


def _limits(host: Host, machines: list[Machine], running: dict[str, str]) -> dict[str, Limits]:
    found = {machine.name: host.facts.limits(running[machine.name]) for machine in machines if machine.name in running}
    return {name: limits for name, limits in found.items() if limits is not None}


def _nat(host: Host) -> str:
    done = host.tools.run(["nft", "list", "table", "inet", "machctl"], check=False)
    return done.stdout if done.returncode == 0 else ""


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


def _guest_files(host: Host, machines: list[Machine], trees: dict[str, Tree]) -> dict[tuple[str, str], str]:
    found = {}
    for machine in machines:
        tree = trees[machine.name]
        if tree.kind in {"raw", "lost"}:
            continue
        links = [paths.guest_network_file(f"host{index}") for index in range(max(len(machine.bridges), 4))]
        for path in [*links, paths.GUEST_RESOLV_CONF]:
            # What machctl wrote into a layer is there whether that is mounted or not.
            root = f"{paths.layer(machine.name)}/upper" if tree.kind == "overlay" else tree.path
            text = host.guests.read_file(root, path)
            if text is not None:
                found[machine.name, path] = text
    return found
