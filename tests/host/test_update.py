# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages upgraded in a machine: kept where it does its work then, and all of it taken back where it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deb_repository import FOLDER, SOURCE, offer
from throwaway import Host, Roads, until

# On a file system whose owners the kernel can map, as that of a throwaway host itself is not.
POOL, PLACE = "/var/lib/machines/.kept-data", "/srv/data"
DATA = f"{PLACE}/thing"
FILE = "/etc/machctl/fleet.d/app.toml"
RECORD = "/var/lib/machctl/updates/app.json"
HEALTH = """
[machines.app.health]
unit = "thing.service"
interval = "1s"
retries = 2
"""
GOOD = "echo {0} >/run/thing; echo {0} >>/data/log; while :; do sleep 1000 & wait; done"
BAD = "echo ruined >/data/precious; rm -f /data/log; exit 3"


@pytest.fixture(scope="module", params=("trixie", "static"))
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """Hosts that keep trees by btrfs and by overlay, with a machine that runs version 1 of thing."""
    host: Host = roads.get(request.param).ready().host
    with host.only_debian():
        offer(host, "1", GOOD.format(1), postinst="systemctl enable --now thing")
        host.sh(f"mkdir -p {POOL} {PLACE}; mount --bind {POOL} {PLACE}; mkdir {DATA}; echo precious >{DATA}/precious")
        try:
            made(host)
            yield host
        finally:
            host.machctl("rm", "--force", "app", status=None)
            host.sh(f"umount {PLACE}; rm -rf {PLACE} {POOL} {FOLDER}")


def made(host: Host) -> None:
    """Make the machine."""
    host.copy("app", "-v", f"{FOLDER}:/repository:ro", "-v", f"{DATA}:/data", "--start")
    host.inside(
        "app",
        f"rm -rf /etc/apt/sources.list*; echo '{SOURCE.strip()}' >/etc/apt/sources.list;"
        "apt-get -qq update && apt-get -qq install thing >/dev/null",
    )
    host.write(FILE, host.read(FILE) + HEALTH)
    host.machctl("apply", "app")
    host.machctl("wait", "app", "healthy", "--timeout", "30")


def version(host: Host) -> str:
    return host.inside("app", "dpkg-query -W -f '${Version}' thing; cat /run/thing").replace("\n", "")


def snapshots(host: Host) -> list[str]:
    return [row["name"] for row in host.machctl("snapshot", "ls", "app", "--json").json()]


def as_before(host: Host, number: str, log: list[str]) -> None:
    assert version(host) == number * 2
    assert host.read(f"{DATA}/precious") == "precious\n"
    assert host.read(f"{DATA}/log").split()[: len(log)] == log
    assert host.sh(f"ls -A {PLACE}") == "thing"
    host.machctl("wait", "app", "healthy", "--timeout", "30")
    assert not host.exists(RECORD)


def test_what_is_good_stays_and_what_is_not_is_taken_back(host: Host) -> None:
    leader = host.machine("app")["leader"]
    offer(host, "2", GOOD.format(2))
    done = host.machctl("update", "app")
    done.says("thing 1 -> 2", "restarted thing.service", "machctl restore app before-update-")
    assert version(host) == "22"
    # Not more than what ran the old one.
    assert host.machine("app")["leader"] == leader
    kept = snapshots(host)
    assert len(kept) == 1
    host.machctl("update", "app").says("nothing to upgrade")
    assert snapshots(host) == kept

    # By its timer, whose service may do no more than it has to.
    host.machctl("update", "--schedule", "Sun *-*-* 03:00", "app").says("next on Sun", "machctl-update@app.timer")
    assert host.sh("systemctl is-active machctl-update@app.timer") == "active"
    offer(host, "3", BAD, postinst="echo ruined >/data/precious")
    host.sh("systemctl start machctl-update@app.service", status=1)
    said = host.sh("journalctl -u machctl-update@app.service -o cat --no-pager | tail -n 12")
    for words in ("thing.service of machine app has failed", "taken back", "thing 2 -> 3"):
        assert words in said, said
    as_before(host, "2", ["1", "2"])
    assert snapshots(host) == kept
    host.sh("systemctl reset-failed machctl-update@app.service")


def test_one_that_was_killed_is_taken_back_by_whoever_finds_it(host: Host) -> None:
    before = version(host)
    offer(host, "4", GOOD.format(4), postinst="touch /data/here; sleep 1000")
    with host.background("machctl", "update", "app"):
        assert until(lambda: host.exists(f"{DATA}/here"), bool)
        host.sh("pkill -KILL -f '[m]achctl update app'")
    assert host.exists(RECORD)
    offer(host, before[0], GOOD.format(before[0]))
    if "btrfs" in host.options:
        # Who stops it now wants it stopped.
        host.machctl("stop", "app")
        host.machctl("gc")
        assert host.state("app") == "stopped"
        host.machctl("start", "app")
    else:
        host.machctl("restart", "app")
        host.machctl("gc").says("would be lost", "--interrupted keep app")
        host.machctl("update", "app", status=5).says("would be lost", "--interrupted undo app")
        host.machctl("update", "--interrupted", "undo", "app").says("taken back first")
    as_before(host, before[0], ["1"])
    assert not host.exists(f"{DATA}/here")


def test_what_needs_a_restart_waits_for_its_time(host: Host) -> None:
    leader = host.machine("app")["leader"]
    host.write(FILE, host.read(FILE).replace("[machines.app]", '[machines.app]\nhostname = "www"', 1))
    host.machctl("apply", "--schedule", "Sun *-*-* 03:00").says("app: its new settings", "next on Sun")
    assert host.machine("app")["leader"] == leader
    host.machctl("plan").says("next on Sun")
    host.sh("systemctl start machctl-apply-scheduled.service")
    assert host.inside("app", "cat /proc/sys/kernel/hostname") == "www"
    host.machctl("apply", "--schedule", "off")
    host.machctl("plan", "--detailed-exitcode")
    host.machctl("rm", "--force", "app")
    left = "find /etc/systemd /var/lib/systemd/timers -name '*machctl-update*' -o -name '*machctl-apply-sch*'"
    assert host.sh(left) == ""
