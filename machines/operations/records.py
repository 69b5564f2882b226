# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machctl keeps of machines and networks in /var/lib/machctl, as JSON."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from machines.declare.values import parse_publish
from machines.errors import InvalidFile, InvalidValue
from machines.model.base import Payload
from machines.model.network import Network
from machines.model.observed import Record
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


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
