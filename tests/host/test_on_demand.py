# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that start at the first connection to a port of theirs, and stop when nobody is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lan
from throwaway import Host, Roads, until

PORT = 7400
IDLE = 3
"""Seconds after the last connection; long enough for a look at what runs."""

ROUNDS = 7
"""More in a short time than systemd lets a service start by itself (systemd.unit(5), StartLimitBurst=)."""

MANY = 20
SERVER = "nginx"
PROCESSES = "ps -e --no-headers -o args | grep -vE '^\\[|^ps |^sort|grep|sh -c|^systemd-userwork|^\\(' | sort"


@pytest.fixture(scope="module", params=("trixie", "static"))
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with a machine that starts on demand, and a LAN; in the end as it was."""
    host = roads.get(request.param).ready().host
    with lan.lan(host), host.only_debian():
        host.copy("lazy", "-p", f"{PORT}:80", "--on-demand", "--idle-stop", f"{IDLE}s")
        yield host


def url(source: str, port: int = PORT) -> str:
    address = {
        "lan": lan.HERE["ipv4"],
        "lan6": f"[{lan.HERE['ipv6']}]",
        "localhost": "127.0.0.1",
        "localhost6": "[::1]",
    }
    return f"http://{address[source]}:{port}"


def fetch(host: Host, source: str) -> str:
    """Ask a stopped machine's port, from the LAN or from the host itself."""
    where = ("ip", "netns", "exec", "lan") if source.startswith("lan") else ()
    return host.run(*where, "curl", "-sS", "--globoff", "--max-time", "20", url(source)).stdout


def stop(host: Host) -> None:
    host.machctl("stop", "lazy", status=None)
    assert host.state("lazy") == "stopped"


@pytest.mark.parametrize("source", ["lan", "lan6", "localhost", "localhost6"])
def test_the_first_connection_starts_it(host: Host, source: str) -> None:
    stop(host)
    assert SERVER in fetch(host, source)
    assert host.state("lazy") == "running"


def test_it_stops_when_nobody_is_left_and_frees_what_it_had(host: Host) -> None:
    assert SERVER in fetch(host, "lan")
    group = host.sh("systemctl show -P ControlGroup systemd-nspawn@lazy")
    assert until(lambda: host.state("lazy"), lambda state: state == "stopped", limit=20 + IDLE) == "stopped"
    assert not host.exists(f"/sys/fs/cgroup{group}") or not host.sh(f"cat /sys/fs/cgroup{group}/cgroup.procs")
    assert not host.sh("systemctl --failed --plain --no-legend")
    # And it starts again.
    assert SERVER in fetch(host, "lan")


def test_it_stays_while_somebody_is_connected(host: Host) -> None:
    assert SERVER in fetch(host, "lan")
    ask = r"printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3"
    kept = f"exec 3<>/dev/tcp/{lan.HERE['ipv4']}/{PORT}; sleep {IDLE + 4}; {ask}"
    said = host.run("ip", "netns", "exec", "lan", "bash", "-c", kept).stdout
    assert SERVER in said
    assert host.state("lazy") == "running"


def test_each_first_connection_is_answered(host: Host) -> None:
    for _ in range(ROUNDS):
        stop(host)
        assert "nginx" in host.sh(f"curl -sS --max-time 20 {url('lan')}")


def test_twenty_idle_ones_are_no_process(host: Host) -> None:
    stop(host)
    names = [f"lazy{number}" for number in range(MANY)]
    before = host.sh(PROCESSES)
    flags = '--package nginx-light --on-demand -p "$((port += 1)):80"'
    create = f"port=7500; for name; do machctl -q create debian $name {flags} || exit; done"
    host.sh(create, *names, timeout=300)
    assert host.sh(PROCESSES) == before
    assert len(host.sh("systemctl list-sockets --no-legend 'machctl-*lazy[0-9]*'").splitlines()) >= MANY
    assert SERVER in host.get("http://127.0.0.1:7510")
    assert host.state("lazy9") == "running"
    running = host.machctl("list", "lazy?*", "--json").json()
    assert [row["name"] for row in running if row["state"] == "running"] == ["lazy9"]
