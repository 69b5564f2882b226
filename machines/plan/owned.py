# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is the same for all machines of a fleet, looked up once: whose files, ports and addresses are whose.

Plans of a fleet are made one after the other from the same host and the same declarations; the last of each is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from machines.declare.links import owned_on_links, same_link
from machines.declare.ports import Published
from machines.declare.values import parse_publish
from machines.model.link import Attachment
from machines.model.machine import Machine
from machines.model.network import Network
from machines.model.observed import Host, Record
from machines.model.publish import Publish
from machines.plan.nat import is_loaded
from machines.render import paths

T = TypeVar("T")
# Whose the IPv4 and the IPv6 addresses on a bridge are.
Taken = tuple[Mapping[str, str], Mapping[str, str]]


class _Last(Generic[T]):
    """What was made of certain objects, as long as it is asked for the very same ones."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._made: list[T] = []

    def get(self, make: Callable[[], T], *of: object) -> T:
        if not self._made or len(self._of) != len(of) or any(a is not b for a, b in zip(self._of, of, strict=True)):
            self._of, self._made = of, [make()]
        return self._made[0]

    def put(self, made: T, *of: object) -> None:
        """Keep what somebody has made of certain objects."""
        self._of, self._made = of, [made]


_files: _Last[dict[tuple[str, str], list[str]]] = _Last()
_folders: _Last[dict[str, list[str]]] = _Last()
_near: _Last[Published] = _Last()
_chosen: _Last[dict[tuple[object, ...], list[str]]] = _Last()
_new: _Last[dict[tuple[str, str], Network]] = _Last()
_own: _Last[set[tuple[int, str]]] = _Last()
_nat: _Last[bool] = _Last()
_taken: _Last[Mapping[str, Taken]] = _Last()


def owned_files(name: str, files: Mapping[str, str]) -> Sequence[str]:
    """Give the files, of these by path, that machctl wrote for machine ``name``."""
    return _files.get(lambda: _by_owner(files), files).get(("machine", name), ())


def files_in(directory: str, files: Mapping[str, str]) -> Sequence[str]:
    """Give the files, of these by path, that lie in a directory itself."""
    return _folders.get(lambda: _by_folder(files), files).get(directory, ())


def _by_folder(files: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in files:
        found.setdefault(path.rpartition("/")[0], []).append(path)
    return found


def _by_owner(files: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for path, text in files.items():
        if owner := paths.owner(path, text):
            found.setdefault(owner, []).append(path)
    return found


def near_ports(port: Publish, declared: Mapping[str, Machine]) -> Iterable[tuple[Machine, Publish]]:
    """Give the declared ports that may collide with ``port``, and whose they are."""
    return _near.get(lambda: Published(declared.values()), declared).near(port)


def new_network(bridge: str, kind: str, host: Host, make: Callable[[], Network]) -> Network:
    """Give the network that everybody on ``bridge`` gets who is asked about while it is not there yet."""
    made = _new.get(dict, host)
    if (bridge, kind) not in made:
        made[bridge, kind] = make()
    return made[bridge, kind]


def taken_on(bridge: str, records: Mapping[str, Record]) -> Taken:
    """Give the machines that have the IPv4 and the IPv6 addresses on a bridge, by address."""
    return _taken.get(lambda: _by_bridge(records), records).get(bridge, ({}, {}))


def with_record(records: Mapping[str, Record], record: Record) -> dict[str, Record]:
    """Give the records with that of another machine, or with another one of a machine."""
    changed = {**records, record.name: record}
    if record.name not in records:
        # A fleet's machines are planned one after the other, each with the records of those before it.
        taken = dict(_taken.get(lambda: _by_bridge(records), records))
        for bridge, (four, six) in _by_bridge({record.name: record}).items():
            had, had6 = taken.get(bridge, ({}, {}))
            taken[bridge] = ({**had, **four}, {**had6, **six})
        _taken.put(taken, changed)
    return changed


def _by_bridge(records: Mapping[str, Record]) -> Mapping[str, Taken]:
    found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for name, record in records.items():
        for bridge, address in record.addresses.items():
            found.setdefault(bridge, ({}, {}))[0][address] = name
        for bridge, address in record.addresses6.items():
            found.setdefault(bridge, ({}, {}))[1][address] = name
    return found


def on_same_link(link: Attachment, what: str, declared: Mapping[str, Machine]) -> Iterable[str]:
    """Name the declared machines that chose the same on the network that ``link`` is on."""
    return _chosen.get(lambda: _by_link(declared), declared).get(same_link(link, what), ())


def _by_link(declared: Mapping[str, Machine]) -> dict[tuple[object, ...], list[str]]:
    found: dict[tuple[object, ...], list[str]] = {}
    for name, machine in declared.items():
        for _, link, what in owned_on_links(machine):
            names = found.setdefault(same_link(link, what), [])
            if name not in names:
                names.append(name)
    return found


def own_ports(host: Host, declared: Mapping[str, Machine]) -> set[tuple[int, str]]:
    """Give the ports on which an active socket unit of a machine listens, by declaration or by record."""
    return _own.get(lambda: _listening(host, declared), host.records, host.active, declared)


def _listening(host: Host, declared: Mapping[str, Machine]) -> set[tuple[int, str]]:
    ports = [(name, port) for name, machine in declared.items() for port in machine.publish]
    ports += [(name, parse_publish(text)) for name, record in host.records.items() for text in record.ports]
    return {(port.host, port.protocol) for name, port in ports if paths.port_unit(name, port, "socket") in host.active}


def nat_loaded(host: Host) -> bool:
    """Tell whether the kernel has the table as the files have it."""
    return _nat.get(lambda: is_loaded(host.files, host.nat or ""), host.files, host.nat)
