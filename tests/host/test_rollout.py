# SPDX-License-Identifier: LGPL-2.1-or-later
"""A rollout of replicas that are asked all the time: no request fails, whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import lan
from throwaway import Host, Roads, until

FILE = "/etc/machctl/fleet.toml"
FLEET = """\
[machines.shop]
source = "debian:trixie"
packages = ["nginx-light"]
bridges = ["br0"]
replicas = 2
publish = ["841{index}:80"]
binds = ["/srv/one:/var/www/html:ro"]
autostart = true
health = { http = "80/index.html", interval = "2s", start-period = "2s", retries = 1 }
"""
SITES = "for site; do mkdir -p /srv/$site; test $site = broken || echo $site >/srv/$site/index.html; done"
STATE = "/var/lib/machctl/rollouts/shop-1.json"
PID = "/run/asking.pid"
RATE = 10.0


@pytest.fixture
def host(roads: Roads) -> Iterator[Host]:
    host = roads.get("trixie").ready().host
    with host.only_debian(), lan.lan(host):
        host.sh(SITES, "one", "two", "broken")
        host.write(FILE, FLEET)
        lan.put(host, "probe.py", "asking.py")
        try:
            host.machctl("apply")
            yield host
        finally:
            host.sh(f"rm -rf {FILE} /srv/one /srv/two /srv/broken")


def site(host: Host, name: str) -> None:
    host.sh(f"sed -i 's,/srv/[a-z]*,/srv/{name},' {FILE}")


@contextlib.contextmanager
def asked(host: Host) -> Iterator[dict[str, Any]]:
    """Ask both replicas meanwhile, fifty times a second each: from the LAN, and from this host."""
    ways = [("lan", lan.HERE["ipv4"]), ("lan", lan.HERE["ipv6"]), ("", lan.HERE["ipv4"])]
    ways += [("", lan.LOOPBACK[family]) for family in lan.FAMILIES]
    cells = [
        {"id": f"{index} {at or 'host'} {to}", "at": at, "to": to, "port": 8410 + index, "rate": RATE}
        for index in (1, 2)
        for at, to in ways
    ]
    host.write("/root/cells.json", json.dumps(cells))
    told: dict[str, Any] = {}
    script = f"echo $$ >{PID}; exec python3 -B /root/asking.py 200 </root/cells.json"
    with host.background("sh", "-c", script) as process:
        assert until(lambda: host.exists(PID), bool)
        yield told
        host.sh(f"kill $(cat {PID}); rm {PID}")
        said, wrong = process.communicate(timeout=30)
        assert said, wrong
        told.update(json.loads(said))


def test_no_request_fails(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with asked(host) as told:
        site(host, "two")
        host.machctl("rollout", "shop").says("shop-1: rolled out", "shop-2: rolled out")
        assert host.machctl("rollout", "shop").stderr == "nothing to do\n"

        # A broken version never answers anybody.
        site(host, "broken")
        host.machctl("rollout", "shop", status=1).says("shop-1 is left as it is", "404", "the files still say")
        assert not host.state("shop-1-next")

        host.machctl("rollout", "undo", "shop").says("shop-1: what it was before", "the files still say")
        assert host.machctl("plan", "--detailed-exitcode", status=10).stdout.count("/srv/one") == 2

        # Killed while the machine is being replaced: whoever comes next goes on.
        site(host, "two")
        wait = f"""until grep -q '"phase": "replacing"' {STATE}; do :; done"""
        host.sh(f"machctl rollout shop --force >/dev/null 2>&1 & {wait}; kill -KILL $!; wait $!; true")
        (row,) = host.machctl("rollout", "status", "shop-1", "--json").json()
        assert (row["phase"], row["step"], row["stand_in"]) == ("interrupted", "replacing", "shop-1-next")
        host.machctl("rollout", "shop")
        assert host.machctl("plan", "--detailed-exitcode").stderr == "nothing to do\n"
    with capsys.disabled():
        sys.stdout.write(
            "\n{count} requests beside rollouts, {lost} lost, the slowest {slowest:.2f} s\n".format(**told)
        )
    assert not told["lost"], told["failed"]
    for cell, seen in told["answers"].items():
        assert [said for said, _ in seen] == ["one", "two", "one", "two"], cell
    assert not {name for name in host.machctl("list", "-o", "name").stdout.split() if name.endswith("-next")}
    assert not host.exists("/run/machctl/nat")

    # What who was killed was writing.
    host.machctl("gc")

    # Without a rollout the ports close with their machine, however it ends.
    unit = "machctl-port-shop-2_8412.socket"
    assert host.sh(f"systemctl is-active {unit}") == "active"
    host.machctl("exec", "shop-2", "--", "systemctl", "poweroff", status=None)
    assert until(lambda: host.sh(f"systemctl is-active {unit}", status=None), "inactive".__eq__) == "inactive"
