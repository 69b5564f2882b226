# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports of machines: publish and unpublish as edits of a declaration, and who answers where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from machines.declare.fleet import check_machine
from machines.declare.values import parse_publish
from machines.errors import NotFound, raise_all
from machines.model.frozen import replace
from machines.model.link import Attachment
from machines.model.machine import Machine, Publish
from machines.model.names import own_link
from machines.model.observed import Record
from machines.model.source import Source
from machines.operations.declared import readable_machines
from machines.operations.records import read_networks, read_records
from machines.render import paths
from machines.render.placement import Placement
from machines.render.ports import targets, ways

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def published(ports: Sequence[Publish], *, on_demand: bool, idle_stop: int | None) -> Callable[[Machine], Machine]:
    """Give the edit of a machine that publishes ``ports`` as well. It raises all that is wrong with them together."""

    def edit(machine: Machine) -> Machine:
        made = replace(
            machine,
            publish=(*machine.publish, *(port for port in ports if port not in machine.publish)),
            on_demand=machine.on_demand or on_demand or idle_stop is not None,
            idle_stop=machine.idle_stop if idle_stop is None else idle_stop,
        )
        raise_all(check_machine(made))
        return made

    return edit


def unpublished(texts: Sequence[str]) -> Callable[[Machine], Machine]:
    """Give the edit of a machine that publishes the ports no more that ``texts`` name, by the host's alone or in full.

    It raises NotFound for one that it does not publish.
    """
    wanted = [(text, parse_publish(text)) for text in texts]

    def edit(machine: Machine) -> Machine:
        gone = {port for text, port in wanted for port in _named(text, port, machine)}
        left = tuple(port for port in machine.publish if port not in gone)
        demanded = machine.on_demand and any(port.protocol == "tcp" and port.count == 1 for port in left)
        made = replace(machine, publish=left, on_demand=demanded, idle_stop=machine.idle_stop if demanded else None)
        raise_all(check_machine(made))
        return made

    return edit


def _named(text: str, port: Publish, machine: Machine) -> list[Publish]:
    if port in machine.publish:
        return [port]
    words = text.partition("/")[0]
    alone = ":" not in words
    found = [other for other in machine.publish if alone and other.shown == port.shown]
    if not found:
        have = ", ".join(map(str, machine.publish)) or "nothing"
        raise NotFound(f"machine {machine.name} does not publish {text}", hint=f"it publishes {have}")
    return found


def list_ports(host: Host, name: str | None = None) -> list[dict[str, object]]:
    """Give who answers where on this host: a row for each published port, or those of machine ``name`` alone.

    Raises NotFound for a machine that is not declared, nor was made of a file of its own (apply --file).
    """
    records = read_records(host)
    declared = readable_machines(host, name=name if name and name not in records else "")
    declared = {**{record.name: _as_made(record, host) for record in records.values()}, **declared}
    if name is not None and name not in declared:
        raise NotFound(f"machine {name} is not declared", hint="machctl list shows which machines are")
    opened = {owner: tuple(map(parse_publish, record.ports)) for owner, record in records.items()}
    machines = [
        machine
        for machine in declared.values()
        if (machine.publish or opened.get(machine.name)) and name in {None, machine.name}
    ]
    if not machines:
        return []
    networks, running = read_networks(host), host.running()
    states = host.units.states(["machctl-port-*.socket"])
    ipv6 = host.facts.ipv6_loopback()
    rows = []
    for machine in sorted(machines, key=lambda machine: machine.name):
        record = records.get(machine.name, Record(machine.name))
        placement = Placement(
            networks={name: networks[name] for name in record.addresses if name in networks},
            addresses=record.addresses,
            addresses6=record.addresses6,
            ipv6_loopback=ipv6,
        )
        have = opened.get(machine.name, ())
        for port in dict.fromkeys([*machine.publish, *have]):
            active = states.get(paths.port_unit(machine.name, port, "socket")) == "active"
            row = _row(port, machine, placement, running=machine.name in running, listening=active)
            if port not in have:
                why = [f"all: it is not open yet (machctl apply {machine.name})"]
                row |= {"state": "closed", "kernel": [], "proxy": [], "not": why}
            elif port not in machine.publish:
                row["not"] = [f"it is no longer declared (machctl apply {machine.name} closes it)"]
            rows.append(row)
    return rows


def _as_made(record: Record, host: Host) -> Machine:
    """Give what its record says of a machine that is declared nowhere on this host."""
    name = record.name
    links = tuple(
        Attachment("veth") if own_link(name) == each else Attachment("bridge", each) for each in record.addresses
    )
    return Machine(
        name, Source("image", name), "", publish=tuple(map(parse_publish, record.ports)), links=links,
        on_demand=bool(record.ports) and host.files.read_text(paths.sockets_file(name)) is not None,
    )  # fmt: skip


def _row(port: Publish, machine: Machine, placement: Placement, *, running: bool, listening: bool) -> dict[str, object]:
    way = ways(port, machine, placement)
    by_kernel = running and bool(way.match4 or way.match6 or way.local or way.nspawn)
    by_proxy = bool(way.listen) and listening and (running or machine.on_demand)
    lost = list(way.lost)
    if not running and not (machine.on_demand and by_proxy):
        lost = [f"all: {machine.name} is not running"]
    elif way.listen and not listening:
        lost.append(f"{' '.join(way.listen)}: its socket does not listen (machctl apply {machine.name})")
    state = "open" if running and (by_kernel or by_proxy) else "on demand" if by_proxy else "closed"
    return {
        "name": machine.name,
        "port": port.shown,
        "address": port.address or "*",
        "protocol": port.protocol,
        "host": port.host,
        "guest": port.guest,
        "count": port.count,
        "targets": [target for target in targets(machine, placement) if target],
        "state": state,
        "kernel": [
            *([port.address or "IPv4"] if way.match4 else []),
            *([port.address or "IPv6"] if way.match6 else []),
            *([port.address or "127.0.0.1"] if way.local else []),
            *(["nspawn"] if way.nspawn else []),
        ],
        "proxy": [address.strip("[]") for address in way.listen],
        "on_demand": machine.on_demand,
        "idle_stop": machine.idle_stop,
        "not": lost,
        "masked": way.seen,
    }
