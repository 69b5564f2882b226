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
from machines.errors import InvalidFile, InvalidValue
from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host as Observed
from machines.model.observed import Record
from machines.model.tree import Tree
from machines.plan.check import TOOLS
from machines.render import paths

_PATTERNS = (
    FLEET_FILE,
    f"{FLEET_DIRECTORY}/*.toml",
    f"{paths.NSPAWN_DIRECTORY}/*.nspawn",
    f"{paths.UNIT_DIRECTORY}/machctl-port-*",
    f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/50-machctl.conf",
    f"{paths.NETWORK_DIRECTORY}/70-machctl-*",
    f"{paths.NAT_DIRECTORY}/*.nft",
    paths.NAT_FILE,
)

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def observe(host: Host, machines: Iterable[Machine] = ()) -> Observed:
    """Look at everything a plan for ``machines`` can depend on."""
    machines = list(machines)
    trees = host.pool.trees()
    tools = {*TOOLS, "mmdebstrap", "debootstrap"}
    have = frozenset(tool for tool in tools if host.tools.which(tool))
    booted = host.booted()
    states = host.units.states(["systemd-networkd.service", "machctl-*", "systemd-nspawn@*"]) if booted else {}
    active = frozenset(unit for unit, state in states.items() if state in {"active", "activating"})
    sources = [bind.source for machine in machines for bind in machine.binds]
    running = host.running()
    records = read_records(host)
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
        listeners=host.facts.listeners(),
        dns=host.facts.dns(),
        nat=_nat(host) if "nft" in have else "",
        stale_units=frozenset(
            machine.name for machine in machines if booted and host.units.needs_reload(machine_unit(machine.name))
        ),
        limits=_limits(host, machines, running),
        free_bytes=host.pool.free_bytes(),
        idmap_paths=host.facts.idmap_paths(path for path in sources if os.path.exists(path)),
        missing_binds=frozenset(path for path in sources if not os.path.lexists(path)),
        records=records,
        networks=read_networks(host),
    )


def write_record(record: Record) -> str:
    """Give the text of a machine's record."""
    content = {
        "addresses": dict(record.addresses),
        "ports": list(record.ports),
        "foreign": list(record.foreign),
        "made": dict(record.made),
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
            )
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


def _guest_files(host: Host, machines: list[Machine], trees: dict[str, Tree]) -> dict[tuple[str, str], str]:
    found = {}
    for machine in machines:
        tree = trees[machine.name]
        if tree.kind == "raw":
            continue
        for index in range(max(len(machine.bridges), 4)):
            path = paths.guest_network_file(f"host{index}")
            text = host.guests.read_file(tree.path, path)
            if text is not None:
                found[machine.name, path] = text
    return found
