# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that are probed: healthy once nginx answers, restarted when it does not, and nothing left of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from throwaway import Host, Roads, until

FILE = "/etc/machctl/fleet.d/probed.toml"
TABLE = """
[machines.probed.health]
{probe}
interval = "1s"
retries = 2
on-failure = "{action}"
"""
KINDS = ("tcp = 80", 'http = "80/"', 'unit = "nginx"', 'file = "/run/nginx.pid"', 'exec = "test -e /run/nginx.pid"')


@pytest.fixture(scope="module")
def host(roads: Roads) -> Iterator[Host]:
    """A host with one more machine; in the end as it was."""
    host = roads.get("trixie").ready().host
    with host.only_debian():
        host.copy("probed", "--start")
        yield host


def probe(host: Host, text: str, action: str = "none") -> None:
    """Declare how the machine is probed, while it runs, and wait until that finds it healthy."""
    plain = host.read(FILE).partition("\n[machines.probed.health]")[0]
    host.write(FILE, plain + TABLE.format(probe=text, action=action))
    host.machctl("apply", "probed")
    host.machctl("wait", "probed", "healthy", "--timeout", "30")


def health(host: Host) -> dict[str, Any]:
    told: dict[str, Any] = host.machctl("health", "probed", "--json", status=None).json()
    return told


def test_every_kind_of_probe_finds_it_healthy(host: Host) -> None:
    leader = host.machine("probed")["leader"]
    for kind in KINDS:
        probe(host, kind)
        told = health(host)
        assert (told["health"], told["results"][-1]["ok"]) == ("healthy", True), told
    rows = {row["name"]: row for row in host.machctl("list", "--json").json()}
    assert (rows["debian"]["health"], rows["probed"]["health"]) == (None, "healthy")
    assert rows["probed"]["leader"] == leader


def test_what_does_not_answer_is_restarted_and_healthy_again(host: Host) -> None:
    probe(host, 'http = "80/"', "restart")
    leader = host.machine("probed")["leader"]
    host.inside("probed", "systemctl stop nginx")
    seen = until(lambda: host.machine("probed"), lambda now: now["leader"] not in {leader, None})
    assert seen["leader"] not in {leader, None}
    host.machctl("wait", "probed", "healthy", "--timeout", "60")
    said = host.sh("journalctl -u machctl-health@1.service -o cat --no-pager | tail -n 3").splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "machine probed is unhealthy", "machine probed is unhealthy", "machine probed is healthy",
    ]  # fmt: skip


def test_a_machine_that_starts_again_is_probed_anew(host: Host) -> None:
    before = health(host)["since"]
    host.machctl("restart", "probed")
    host.machctl("wait", "probed", "healthy", "--timeout", "60")
    assert health(host)["since"] > before
    host.run("systemctl", "start", "machctl-healthy@probed.service")
    host.machctl("stop", "probed")
    host.machctl("wait", "probed", "stopped", "--timeout", "30")
    assert host.machctl("health", "probed", status=3).stdout.startswith("probed: not running")
    # Nothing is probed any more, nor held to be healthy.
    units = "systemctl list-units --plain --no-legend 'machctl-health*'"
    assert until(lambda: host.sh(units), lambda left: not left) == ""
    host.machctl("wait", "probed", "healthy", "--timeout", "1", status=124).says("does not run")


def test_nothing_is_left_of_a_probe(host: Host) -> None:
    host.machctl("rename", "probed", "other")
    host.machctl("start", "other")
    host.machctl("wait", "other", "healthy", "--timeout", "60")
    host.machctl("rm", "--force", "other")
    left = "-name '*other*' -o -name '*probed*'"
    assert host.sh(f"find /run/machctl /var/lib/machctl/m* /etc/systemd {left}") == ""
    assert not host.exists("/run/machctl/health")
    host.machctl("wait", "debian", "healthy", status=2).says("has no probe", "[machines.debian.health]")
