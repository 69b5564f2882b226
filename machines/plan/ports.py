# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports: who has which, and the steps that open and close them on a host that runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from machines.declare.values import parse_publish
from machines.errors import Conflict, MachctlError, Unsupported
from machines.model.frozen import replace
from machines.model.machine import Machine, Publish
from machines.model.observed import Host, Listener
from machines.plan import steps
from machines.plan.claims import files_after
from machines.plan.owned import near_ports, own_ports, owned_files
from machines.plan.steps import Plan, Step
from machines.render import paths
from machines.render.placement import Placement
from machines.render.ports import ways

STALE = "no longer declared"


def close_ports(removals: Sequence[Step], machine: str) -> Plan:
    """Give the step that stops units of ports whose files go.

    It comes before that: without them systemd no longer knows that the service belongs to the socket.
    """
    units = tuple(
        step.path.rsplit("/", 1)[1]
        for step in removals
        if isinstance(step, steps.RemoveFile) and is_port_unit(step.path)
    )
    return [steps.ClosePorts(reason=STALE, machine=machine, units=units)] if units else []


def given_up(plan: Plan) -> tuple[Plan, Plan]:
    """Give the steps that stop units of ports whose files the plan removes, and the plan without these units.

    Ports that a machine keeps are closed only when it is about to stop.
    """
    gone = {step.path.rpartition("/")[2] for step in plan if isinstance(step, steps.RemoveFile)}
    first: Plan = []
    rest: Plan = []
    for step in plan:
        if not isinstance(step, steps.ClosePorts):
            rest.append(step)
            continue
        for into, moves in ((first, True), (rest, False)):
            units = tuple(unit for unit in step.units if (unit in gone) == moves)
            into += [replace(step, units=units)] if units else []
    return first, rest


def port_units(name: str, host: Host) -> tuple[str, ...]:
    """Give the units of a machine's published ports that there are."""
    owned = owned_files(name, host.files)
    return tuple(path.rsplit("/", 1)[1] for path in owned if is_port_unit(path))


def is_port_unit(path: str) -> bool:
    """Tell whether a file is the unit of a published port."""
    return path.startswith(f"{paths.UNIT_DIRECTORY}/machctl-port-")


def open_ports(
    changed: Collection[str], wanted: Mapping[str, str], machine: Machine, host: Host, *, bridges: Collection[str]
) -> Plan:
    """Give the steps after which the ports of a machine answer that runs, or that is started by them.

    ``bridges`` are up by then, be they there yet or not.
    """
    plan: Plan = []
    text = wanted.get(paths.sysctl_file(machine.name), "")
    for key in read_loopback(text):
        link = key.split("/")[3]
        if (link in host.links or link in bridges) and link not in host.localnet:
            reason = "a port is published on 127.0.0.1 that no proxy passes on"
            plan.append(steps.SetSysctl(reason=reason, machine=machine.name, name=key, value=1))
    sockets = {path: path.rsplit("/", 1)[1] for path in wanted if path.endswith(".socket")}
    if not (machine.on_demand or machine.name in host.running):
        # Those of a machine that was started on demand until now.
        idle = tuple(unit for unit in sockets.values() if unit in host.active)
        reason = "it is not started on demand any more"
        return plan + ([steps.ClosePorts(reason=reason, machine=machine.name, units=idle)] if idle else [])
    again = tuple(unit for path, unit in sockets.items() if path in changed and unit in host.active)
    closed = tuple(unit for unit in sockets.values() if unit not in host.active)
    for units, restart, reason in ((again, True, "its port is published otherwise"), (closed, False, "")):
        if units:
            new = any(path in changed for path, unit in sockets.items() if unit in units)
            why = reason or ("its port is published" if new else "nothing listens on its port")
            plan.append(steps.OpenPorts(reason=why, machine=machine.name, units=units, restart=restart))
    return plan


def read_loopback(text: str) -> list[str]:
    """Give the keys of a machine's file for sysctl.d(5)."""
    return [line.split("=")[0].strip(" -") for line in text.splitlines() if line.startswith("-")]


def plan_unrouted(host: Host, plan: Plan, *, machine: str = "") -> Plan:
    """Give the steps that have 127.0.0.1 routed no more over links that no file wants that of once ``plan`` is done."""
    if not host.localnet:
        return []
    done = {step.link for step in plan if isinstance(step, steps.RemoveLink)}
    done |= {step.name.split("/")[3] for step in plan if isinstance(step, steps.SetSysctl) and not step.value}
    reason = "no port on 127.0.0.1 needs it any more"
    return [
        steps.SetSysctl(reason=reason, machine=machine, name=loopback_key(link), value=0)
        for link in sorted(host.localnet - done - wanted_loopback(files_after(plan, host.files)))
    ]


def loopback_key(link: str) -> str:
    """Give what of the kernel's settings says that 127.0.0.1 is routed over a link (sysctl.d(5))."""
    return f"net/ipv4/conf/{link}/route_localnet"


def wanted_loopback(files: Mapping[str, str]) -> set[str]:
    """Give the links that 127.0.0.1 has to be routed over."""
    places = (paths.SYSCTL_DIRECTORY, paths.LOCALNET_DIRECTORY)
    keys = (key for path, text in files.items() if path.startswith(places) for key in read_loopback(text))
    return {key.split("/")[3] for key in keys}


def check_ports(
    machine: Machine, host: Host, declared: Mapping[str, Machine], placement: Placement
) -> list[MachctlError]:
    """Give why ports of ``machine`` cannot be published on this host: who has them, or what cannot reach it."""
    errors: list[MachctlError] = []
    for port in machine.publish:
        problem = _taken(machine.name, port, host, declared)
        if problem:
            errors.append(problem)
        way = ways(port, machine, placement)
        if not (way.listen or way.match4 or way.match6 or way.local or way.nspawn):
            hint = "publish it on every address, or put the machine on a network of machctl's"
            errors.append(Unsupported(f"port {port} of {machine.name}: {way.lost[0]}", hint=hint))
    return errors


def _taken(name: str, port: Publish, host: Host, declared: Mapping[str, Machine]) -> MachctlError | None:
    shown = port.shown
    free = "publish another port of the host: --publish {}"
    for other, theirs in near_ports(port, declared):
        if other.name != name and port.collides(theirs):
            return Conflict(
                f"port {shown} belongs to machine {other.name}", hint=free.format(_free(port, host, declared))
            )
    for record in host.records.values():
        if record.name == name or record.name in declared:
            continue
        if any(port.collides(parse_publish(text)) for text in record.ports):
            return Conflict(
                f"port {shown} belongs to machine {record.name}, which is being made",
                hint=free.format(_free(port, host, declared)),
            )
    for listener in host.listeners:
        # Whose it is by declaration has been looked at above; one that lost it gives it up first.
        if _in_the_way(port, listener) and (listener.port, listener.protocol) not in own_ports(host, declared):
            which = shown if port.count == 1 else f"{listener.port} of {shown}"
            option = "t" if port.protocol == "tcp" else "u"
            return Conflict(
                f"port {which} is taken: a process of this host listens on it",
                hint=f"ss -l{option}np 'sport = {listener.port}' names it; or "
                + free.format(_free(port, host, declared)),
            )
    return None


def _in_the_way(port: Publish, listener: Listener) -> bool:
    if listener.protocol != port.protocol or not port.host <= listener.port < port.host + port.count:
        return False
    # A socket on :: takes IPv4 connections as well, unless it says it does not (ipv6(7), IPV6_V6ONLY).
    every = {"::"} if port.address and ":" in port.address else {"::", "0.0.0.0"}
    if port.address is None:
        # Of the loopback addresses a port that is published on all has these two alone: resolved listens on others.
        return not listener.address.startswith("127.") or listener.address == "127.0.0.1"
    return listener.address in {*every, port.address}


def _free(port: Publish, host: Host, declared: Mapping[str, Machine]) -> str:
    """Give the nearest ports behind ``port`` that nobody has, as they are published."""
    taken = {listener.port for listener in host.listeners}
    for published in _published(host, declared):
        taken.update(range(published.host, published.host + published.count))
    first, run = port.host + 1, 0
    for candidate in range(port.host + 1, 65536):
        run = 0 if candidate in taken else run + 1
        if run == port.count:
            first = candidate - port.count + 1
            break
    else:
        first = 1024
    return str(Publish(first, port.guest, port.address, port.protocol, port.count))


def _published(host: Host, declared: Mapping[str, Machine]) -> Iterable[Publish]:
    for machine in declared.values():
        yield from machine.publish
    for record in host.records.values():
        yield from (parse_publish(text) for text in record.ports)
