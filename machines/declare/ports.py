# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong with the published ports of a machine and with what it may reach, each value being right by itself."""

from __future__ import annotations

from collections.abc import Iterable

from machines.errors import InvalidValue, MachctlError
from machines.model.machine import Machine, Publish

PRIVILEGED = 1024
PLACED = ("bridge", "zone", "veth")
# A range of more ports than that is not looked up port by port.
_WIDE = 64


class Published:
    """Ports that machines publish, found by what they are on the host."""

    def __init__(self, machines: Iterable[Machine] = ()) -> None:
        self._near: dict[tuple[str, int], list[tuple[Machine, Publish]]] = {}
        self._wide: list[tuple[Machine, Publish]] = []
        self._all: list[tuple[Machine, Publish]] = []
        for machine in machines:
            for port in machine.publish:
                self.add(machine, port)

    def add(self, machine: Machine, port: Publish) -> None:
        """Note that a machine publishes a port."""
        self._all.append((machine, port))
        if port.count > _WIDE:
            self._wide.append((machine, port))
            return
        for number in range(port.host, port.host + port.count):
            self._near.setdefault((port.protocol, number), []).append((machine, port))

    def near(self, port: Publish) -> Iterable[tuple[Machine, Publish]]:
        """Give those that may collide with ``port``, and whose they are."""
        if port.count > _WIDE:
            return self._all
        ports = range(port.host, port.host + port.count)
        return [*(found for number in ports for found in self._near.get((port.protocol, number), ())), *self._wide]


def check_ports(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with ports and restrictions taken together."""
    name, errors = machine.name, list[MachctlError]()
    for index, port in enumerate(machine.publish):
        errors += [
            InvalidValue(f"ports {other} and {port} of {name} are the same on the host", hint="change one")
            for other in machine.publish[:index]
            if port.collides(other)
        ]
        if port.address == "::1" and (port.protocol != "tcp" or port.count > 1):
            errors.append(
                InvalidValue(
                    f"port {port} of {name}: the kernel sends nothing from ::1 to a machine, and a proxy passes on "
                    "single TCP ports only",
                    hint="publish it on 127.0.0.1 or on every address",
                )
            )
    if machine.publish and (why := _unreachable(machine)):
        errors.append(InvalidValue(f"{name} publishes ports, and {why}", hint="leave the ports out"))
    if machine.on_demand and not can_wake(machine):
        errors.append(
            InvalidValue(
                f"nothing can start {name} on demand", hint="publish a single TCP port of it, as in --publish 8080:80"
            )
        )
    if machine.idle_stop is not None and not machine.on_demand:
        errors.append(
            InvalidValue(
                f"{name} stops when it is idle, and nothing would start it again", hint="start it on demand as well"
            )
        )
    return errors + _check_restricted(machine)


def can_wake(machine: Machine) -> bool:
    """Tell whether a connection to one of its ports can start a machine: systemd listens on single TCP ports."""
    return any(port.protocol == "tcp" and port.count == 1 for port in machine.publish)


def _unreachable(machine: Machine) -> str:
    """Say why the host can pass nothing on to a machine; "" where it can."""
    if machine.network == "host":
        why = "it has the network of the host, where it opens its ports itself"
        if any(port.guest < PRIVILEGED for port in machine.publish):
            # CAP_NET_BIND_SERVICE counts in the user namespace that owns the network (user_namespaces(7)).
            why += f"; having private users, it can open none below {PRIVILEGED} there"
        return why
    if not machine.links:
        return "it has no network"
    if any(link.kind in PLACED and link.vlan is None for link in machine.links):
        return ""
    kinds = sorted({link.kind if link.vlan is None else "a VLAN" for link in machine.links})
    return f"the host passes nothing on by {' and '.join(kinds)}"


def _check_restricted(machine: Machine) -> list[MachctlError]:
    if not machine.isolated and machine.egress is None:
        return []
    what = "isolated" if machine.isolated else "limited in what it may reach"
    if machine.network == "host":
        return [InvalidValue(f"{machine.name} cannot be {what} with the network of the host", hint="leave one out")]
    return [
        InvalidValue(
            f"{machine.name} cannot be {what} on {link.kind} {link.target}: its packets do not come by machctl's rules",
            hint="put it on a bridge, a zone or a veth, without a VLAN",
        )
        for link in machine.links
        if link.kind not in PLACED or link.vlan is not None
    ]
