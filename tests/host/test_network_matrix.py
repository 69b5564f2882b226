# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who reaches a machine's port: every kind of link, with networkd and without, from everywhere, by every protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pytest

import lan
from throwaway import Host, Roads

HOSTS = {"networkd": "trixie", "none": "static"}
MACVLAN = {"ipv4": "192.0.2.10", "ipv6": "2001:db8:1::10"}
"""The addresses of the machine that is on the LAN itself."""

KINDS = {
    "bridge": ("--bridge", "br0"),
    "veth": ("--veth",),
    "zone": ("--zone", "lab"),
    "macvlan": ("--macvlan", f"{lan.LINK},ip={MACVLAN['ipv4']}/24,ip={MACVLAN['ipv6']}/64"),
    "host": ("--host-network",),
}
GUEST_PORT = 7000
PORTS = {kind: 7100 + number for number, kind in enumerate(KINDS)}
PORTS["macvlan"] = GUEST_PORT
PUBLISHED = ("bridge", "veth", "zone")
NOT_PUBLISHED = {"macvlan": "the host passes nothing on by macvlan", "host": "it has the network of the host"}
"""Kinds of link that no port can be published on, and what create says of that."""

REFUSED = {
    "[bvz]* * ipv6 localhost udp": "the kernel lets nothing that comes from ::1 out of the host",
    "macvlan * * host *": "a macvlan does not talk to the interface below it",
    "macvlan * * machine *": "a macvlan does not talk to the interface below it, nor to whom the host routes",
    "macvlan * * localhost *": "the host cannot pass anything on to a macvlan",
}
"""Cells that are not reached, as KIND HOST FAMILY SOURCE PROTOCOL, and why."""

LIMIT = 4.0
"""Seconds until a cell is taken for unreachable: a new IPv6 address is tentative for the first two."""


@dataclass
class Matrix:
    """What came of the cells of a host, and what machctl said."""

    manager: str
    came: dict[str, dict[str, str]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    ports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left: str = ""


def cells() -> Iterator[dict[str, Any]]:
    """Give the cells of a host."""
    for kind, port in PORTS.items():
        yield from lan.cells(kind, port, MACVLAN if kind == "macvlan" else None)


def create(host: Host, kind: str, matrix: Matrix) -> None:
    """Make the machine of a kind of link; where it can have no port, see what is said of that first."""
    words = ("create", "debian", f"m-{kind}", "--package", "nginx-light", *KINDS[kind])
    ports = ("-p", f"{PORTS[kind]}:{GUEST_PORT}", "-p", f"{PORTS[kind]}:{GUEST_PORT}/udp")
    if kind not in PUBLISHED:
        done = host.machctl(*words, *ports, status=None)
        assert done.status in {2, 5}, done
        matrix.refusals[kind] = done.stderr
        ports = ()
    host.machctl(*words, *ports)


@pytest.fixture(scope="session", params=HOSTS)
def matrix(request: pytest.FixtureRequest, roads: Roads) -> Matrix:
    """All cells of a host, tried at once; the host is in the end as it was."""
    host = roads.get(HOSTS[request.param]).ready().host
    found = Matrix(request.param)
    names = {kind: f"m-{kind}" for kind in KINDS}
    try:
        with lan.lan(host), host.only_debian():
            for kind in KINDS:
                create(host, kind, found)
            host.machctl("start", *names.values())
            found.ports = {kind: host.machctl("port", names[kind], "--json").json() for kind in PUBLISHED}
            servers = {kind: (name, PORTS[kind] if kind == "host" else GUEST_PORT) for kind, name in names.items()}
            found.came = lan.probe(host, servers, [*cells(), *lan.outward("m-bridge")], limit=LIMIT)
    except AssertionError as left:
        if not found.came:
            raise
        found.left = str(left)
    return found


@pytest.mark.parametrize("cell", [cell["id"] for cell in cells()])
def test_cell(matrix: Matrix, cell: str) -> None:
    kind, family, source, protocol = cell.split()
    came = matrix.came[cell]
    row = f"{kind} {matrix.manager} {family} {source} {protocol}"
    if why := next((why for pattern, why in REFUSED.items() if fnmatch(row, pattern)), None):
        assert "error" in came, f"{row} is reached, though {why}: {came}"
        return
    assert "answer" in came, f"{row}: {came['error']}"
    server, client = came["answer"].split()
    assert server == kind
    if source == "lan":
        assert client == lan.THERE[family], f"{row}: the client's address is not kept"


@pytest.mark.parametrize("cell", [cell["id"] for cell in lan.outward("m-bridge")])
def test_a_machine_reaches_the_lan_with_the_hosts_address(matrix: Matrix, cell: str) -> None:
    assert matrix.came[cell] == {"answer": f"out {lan.HERE[cell.split()[1]]}"}


@pytest.mark.parametrize("kind", NOT_PUBLISHED)
def test_create_says_why_a_port_cannot_be(matrix: Matrix, kind: str) -> None:
    assert NOT_PUBLISHED[kind] in matrix.refusals[kind]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_port_says_who_answers_where_and_where_not(matrix: Matrix, kind: str) -> None:
    tcp, udp = matrix.ports[kind]
    assert (tcp["port"], udp["port"]) == (f"{PORTS[kind]}", f"{PORTS[kind]}/udp")
    assert tcp["not"] == []
    (why,) = udp["not"]
    assert why.startswith("[::1]: the kernel sends nothing from there")


def test_nothing_is_left(matrix: Matrix) -> None:
    assert not matrix.left, matrix.left
