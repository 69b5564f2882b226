# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines on a bridge beside Docker and beside firewalld, which drop what is forwarded unless it is theirs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import lan
from throwaway import Host, Roads, until

PORT, GUEST_PORT, DEMAND_PORT = 7100, 7000, 7101
NEIGHBOUR = "between neighbours"
LIMIT = 4.0

# policy-rc.d(8) keeps them from being started, systemctl(1) from being started at boot.
INSTALL = """
set -e
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install docker\\.io firewalld >/dev/null
systemctl --quiet disable docker.service docker.socket containerd.service firewalld.service
"""
# Docker leaves its rules and its bridge when it is stopped.
STOP = {
    "docker": """
        systemctl stop docker.socket docker.service containerd.service
        for table in $(nft list tables | sed -nE 's/^table (ip6?) (nat|filter|raw)$/\\1:\\2/p'); do
            nft delete table ${table%:*} ${table#*:}
        done
        ip link delete docker0
    """,
    # Its zones, and machctl's notes of what it has put there, are to outlast it.
    "firewalld": """
        systemctl stop firewalld.service
        rm -f /etc/firewalld/zones/trusted.xml* /etc/firewalld/zones/public.xml* /var/lib/machctl/firewalld*
    """,
}
DROPS = {"docker": "chain FORWARD", "firewalld": "filter_FORWARD"}
"""What says that it is really there."""


@dataclass
class Tried:
    """What came of the cells beside each of them, and what is left of all that."""

    came: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    demanded: dict[str, str] = field(default_factory=dict)
    left: str = ""


@pytest.fixture(scope="session")
def beside(roads: Roads) -> Tried:
    """Give what came of the cells beside each of them, with machines that ran before it was started."""
    host = roads.get("beside").ready().host
    found = Tried()
    try:
        with lan.lan(host), host.only_debian(), host.background("sh", "-c", INSTALL) as installing:
            host.copy("m-bridge", "-p", f"{PORT}:{GUEST_PORT}", "-p", f"{PORT}:{GUEST_PORT}/udp")
            host.machctl("start", "m-bridge")
            host.copy("m-demand")
            host.machctl("publish", "m-demand", f"{DEMAND_PORT}:80", "--on-demand")
            said = installing.communicate(timeout=300)
            assert installing.returncode == 0, said
            for other in STOP:
                try:
                    host.run("systemctl", "start", f"{other}.service")
                    assert DROPS[other] in host.sh("nft list ruleset")
                    found.came[other] = tried(host)
                    found.demanded[other] = demanded(host)
                finally:
                    host.sh(STOP[other], status=None)
    except AssertionError as left:
        if len(found.came) < len(STOP):
            raise
        found.left = str(left)
    return found


def tried(host: Host) -> dict[str, dict[str, str]]:
    """Try all ways from and to the machine, and to its neighbour."""
    neighbour, _ = host.machine("debian")["addresses"]
    cells = [*lan.cells("bridge", PORT), *lan.outward("m-bridge")]
    cells.append({"id": NEIGHBOUR, "at": "machine:m-bridge", "to": neighbour, "port": GUEST_PORT, "protocol": "tcp"})
    servers = {"bridge": ("m-bridge", GUEST_PORT), "neighbour": ("debian", GUEST_PORT)}
    return lan.probe(host, servers, cells, limit=LIMIT)


def demanded(host: Host) -> str:
    """Start a machine by a connection from the LAN, which the host itself answers; give what came."""
    ask = f"ip netns exec lan curl -sS --max-time 20 http://{lan.HERE['ipv4']}:{DEMAND_PORT} 2>&1"
    came = until(lambda: host.sh(ask, status=None), lambda text: "nginx" in text, limit=10)
    host.machctl("stop", "m-demand", status=None)
    return came


@pytest.mark.parametrize("other", STOP)
def test_a_port_on_demand_is_answered_on_the_lan(beside: Tried, other: str) -> None:
    assert "nginx" in beside.demanded[other]


@pytest.mark.parametrize("other", STOP)
@pytest.mark.parametrize("cell", [cell["id"] for cell in lan.cells("bridge", PORT)])
def test_cell(beside: Tried, other: str, cell: str) -> None:
    _, family, source, protocol = cell.split()
    if (family, source, protocol) == ("ipv6", "localhost", "udp"):
        assert "error" in beside.came[other][cell], "the kernel lets nothing that comes from ::1 out of the host"
        return
    assert "answer" in beside.came[other][cell], f"{cell} beside {other}: {beside.came[other][cell]}"
    server, client = beside.came[other][cell]["answer"].split()
    assert server == "bridge"
    if source == "lan":
        assert client == lan.THERE[family], "the client's address is not kept"


@pytest.mark.parametrize("other", STOP)
@pytest.mark.parametrize("cell", [cell["id"] for cell in lan.outward("m-bridge")])
def test_a_machine_reaches_the_lan(beside: Tried, other: str, cell: str) -> None:
    assert beside.came[other][cell] == {"answer": f"out {lan.HERE[cell.split()[1]]}"}


@pytest.mark.parametrize("other", STOP)
def test_neighbours_reach_each_other(beside: Tried, other: str) -> None:
    assert beside.came[other][NEIGHBOUR].get("answer", "").startswith("neighbour ")


def test_nothing_is_left(beside: Tried) -> None:
    assert not beside.left, beside.left
