# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines, hosts and plans to test with."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any

from machines.declare.write import write_machine
from machines.model.base import Base, Payload
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.names import bridge_unit, machine_unit
from machines.model.network import Network
from machines.model.observed import Host, Link, Record
from machines.model.source import Source
from machines.model.tree import Tree
from machines.plan.check_host import TOOLS
from machines.plan.links import link_targets
from machines.plan.names import guest_lines, host_lines, with_block
from machines.plan.networks import network_files
from machines.plan.place import place
from machines.plan.steps import Plan, Step
from machines.render import paths
from machines.render.machine import render_machine
from machines.render.placement import Placement

TRIXIE = Source("debian", "trixie")
SUBNET = ipaddress.IPv4Network("10.64.7.0/24")
NETWORK = Network("br0", SUBNET)
BRIDGE = Link("br0", "bridge")
BASE = Base("0123456789ab-1", "0123456789ab", "debian:trixie", created=1.0, size=250 * 2**20, files=9000)
PAYLOAD = Payload(("/bin/server", "--name", 'the "best" one'), ("PATH=/bin", "MOTTO=a b"), "www", "/srv")


def machine(name: str = "web", **values: Any) -> Machine:
    """A machine on br0, declared in its own file."""
    links = tuple(Attachment("bridge", bridge) for bridge in values.pop("bridges", ("br0",)))
    return Machine(
        **{"name": name, "source": TRIXIE, "origin": f"/etc/machctl/fleet.d/{name}.toml", "links": links, **values}
    )


def placed(**values: Any) -> Placement:
    """A machine's place on a br0 that machctl makes."""
    return Placement(
        **{"networks": {"br0": NETWORK}, "addresses": {"br0": "10.64.7.2"}, "dns": ("192.0.2.53",), **values}
    )


def empty_host(**values: Any) -> Host:
    """A host that has all it takes and no machines."""
    return Host(
        **{
            "tools": frozenset({*TOOLS, "mmdebstrap", "debootstrap"}),
            "networkd": True,
            "free_bytes": 10 * 2**30,
            "dns": ("192.0.2.53",),
            **values,
        }
    )


def host_with(*machines: Machine, driver: str = "copy", payload: Payload | None = None, **values: Any) -> Host:
    """A host on which ``machines`` are just as declared, on a br0 that machctl made, and systemd has looked at them.

    ``driver`` keeps their trees, ``payload`` is what runs in them in place of an init.
    """
    host = empty_host(
        networks={"br0": NETWORK},
        links={"br0": BRIDGE},
        routes={SUBNET: "br0"},
        active=frozenset({bridge_unit("br0")}),
    )
    for each in machines:
        placement = place(each, dataclasses.replace(host, storage={each.storage: driver}), payload=payload)
        files = {each.origin: write_machine(each)} | render_machine(each, placement)
        files |= network_files(placement.networks.values(), host)
        record = Record(
            each.name,
            dict(placement.addresses),
            ports=tuple(sorted(map(str, each.publish))),
            foreign=tuple(bridge for bridge in each.bridges if bridge not in placement.networks),
            storage=placement.storage,
            base=BASE.id,
            uid=placement.uid,
            payload=payload,
            disk=each.disk,
            addresses6=dict(placement.addresses6),
            networks=tuple(bridge for bridge in placement.networks if bridge not in placement.addresses),
            links=link_targets(each),
        )
        kind = {"btrfs": "subvolume", "overlay": "overlay"}.get(placement.storage, "directory")
        host = dataclasses.replace(
            host,
            files={**host.files, **files},
            trees={**host.trees, each.name: Tree(each.name, f"/var/lib/machines/{each.name}", kind)},
            records={**host.records, each.name: record},
            enabled={**host.enabled, **({each.name: True} if each.autostart else {})},
            loaded=host.loaded | {machine_unit(each.name)},
            disks={**host.disks, **({each.name: each.disk} if each.disk is not None else {})},
        )
    known = with_block("", host_lines(host.records, host.networks, host.hostname))
    inside = {
        name: with_block("", guest_lines(name, host.records, host.networks, host.hostname))
        for name, tree in host.trees.items()
        if tree.kind != "raw"
    }
    files = {**host.files, paths.HOSTS_FILE: known}
    return dataclasses.replace(host, **{"nat": nat_table(host.files), "files": files, "guest_hosts": inside, **values})


def nat_table(files: Mapping[str, str]) -> str:
    """The table of these files once loaded: nft lists its rules in the words they were written in, or in fewer."""
    rules = (text for path, text in files.items() if path.startswith(f"{paths.NAT_DIRECTORY}/"))
    return "\n".join([files.get(paths.NAT_FILE, ""), "table inet machctl {", *rules, "}"])


def running(host: Host, *names: str) -> Host:
    """``host`` with machines running in their own units, and what listens on their ports."""
    sockets = {
        path.rsplit("/", 1)[1]
        for path, text in host.files.items()
        if path.endswith(".socket") and paths.owner(path, text) in [("machine", name) for name in names]
    }
    units = {name: f"systemd-nspawn@{name}.service" for name in names}
    return dataclasses.replace(host, running=units, active=host.active | sockets)


def edited(host: Host, path: str, text: str | None) -> Host:
    """``host`` with another text in a file, or without the file."""
    files: Mapping[str, str] = {name: old for name, old in host.files.items() if name != path}
    return dataclasses.replace(host, files=files if text is None else {**files, path: text})


def shown(plan: Plan) -> list[str]:
    """What a plan does, a line for each step."""
    return [str(step) for step in plan]


def kinds(plan: Plan) -> list[type[Step]]:
    """The kinds of a plan's steps, in order."""
    return [type(step) for step in plan]
