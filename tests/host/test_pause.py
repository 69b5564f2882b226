# SPDX-License-Identifier: LGPL-2.1-or-later
"""pause and resume, and machines that are held still while their files are copied."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from throwaway import Host, Road, Roads, until

UNIT = "systemd-nspawn@debian.service"
FREEZE = f"/sys/fs/cgroup/machine.slice/{UNIT}/payload/cgroup.freeze"
FED = "/run/systemd/system/systemd-nspawn@debian.service.d/99-watchdog.conf"


@pytest.fixture(params=["trixie", "bookworm"])
def going(roads: Roads, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The host of a machine, of either Debian, which runs in the end whatever was done to it."""
    road = roads.get(request.param).ready()
    yield road.host
    road.host.machctl("resume", "debian", status=None)
    road.ready()


def ticks(host: Host) -> int:
    """How long the machine's processes have had a processor, in microseconds."""
    shown = host.sh(f"grep usage_usec $(dirname {FREEZE})/cpu.stat")
    return int(shown.split()[1])


def test_a_machine_that_is_paused_does_nothing_and_goes_on_where_it_was(going: Host) -> None:
    leader = going.machine("debian")["leader"]
    going.machctl("exec", "debian", "--", "systemd-run", "--quiet", "--unit=busy", "sh", "-c", "while :; do :; done")
    going.machctl("pause", "debian").says("paused debian")
    before = ticks(going)
    time.sleep(0.5)
    assert (ticks(going), going.state("debian")) == (before, "paused")
    going.machctl("pause", "debian").says("debian is paused already")
    going.machctl("exec", "debian", "--", "true", status=125).says("debian is paused", "machctl resume debian")
    going.machctl("start", "debian", status=5).says("debian is paused", "machctl resume debian")
    going.machctl("status", "debian", status=3)
    # A copy is of how it is; gc is for what nobody wants any more.
    going.machctl("snapshot", "create", "debian", "paused")
    going.machctl("snapshot", "rm", "debian", "paused")
    going.machctl("gc")
    assert going.state("debian") == "paused"
    going.machctl("resume", "debian").says("resumed debian")
    going.machctl("exec", "debian", "--", "systemctl", "stop", "busy")
    assert (going.machine("debian")["leader"], going.state("debian")) == (leader, "running")
    going.machctl("resume", "debian").says("debian is not paused")


@pytest.mark.parametrize(("verb", "done"), [("stop", "stopped"), ("terminate", "terminated"), ("restart", "started")])
@pytest.mark.parametrize("by", ["machctl pause debian", f"systemctl freeze {UNIT}"])
def test_what_ends_a_machine_ends_one_that_is_paused(debian: Road, verb: str, done: str, by: str) -> None:
    host = debian.host
    with host.unchanged():
        host.sh(by)
        assert host.state("debian") == "paused"
        host.machctl("--timeout", "60", verb, "debian").says(f"{done} debian")
        debian.ready()
        assert host.state("debian") == "running"


def test_systemd_stops_one_that_is_paused_in_order(going: Host) -> None:
    going.machctl("pause", "debian")
    began = time.monotonic()
    going.run("systemctl", "stop", UNIT)
    assert time.monotonic() - began < 30
    # Its systemd has ended what ran in it: nspawn tells it to halt.
    assert "halt" in going.sh(f"journalctl --unit {UNIT} --lines 40 -o cat").lower()


def test_one_that_is_being_copied_is_not_told_to_stop(debian: Road) -> None:
    host = debian.host
    lock = "/run/machctl/machine-debian.lock"
    # /proc/locks shows none whose process has ended, as flock(1) would have.
    copy = f"import fcntl, time; file = open('{lock}', 'w'); fcntl.flock(file, 2); time.sleep(600)"
    with host.background("python3", "-c", copy):
        assert until(lambda: host.run("flock", "-n", lock, "true", status=None).status, bool)
        host.sh(f"echo 1 >{FREEZE}")
        host.machctl("stop", "debian", status=5).says("debian is held still while it is copied")
        host.machctl("down", "debian", status=5).says("debian is held still while it is copied")
    host.sh(f"rm -f {lock}")
    # Nobody copies it any more.
    host.machctl("--timeout", "60", "stop", "debian")
    debian.ready()


def test_systemd_leaves_one_alone_that_does_not_move_for_longer_than_its_watchdog_waits(going: Host) -> None:
    going.sh(f"mkdir -p $(dirname {FED}); printf '[Service]\\nWatchdogSec=4s\\n' >{FED}; systemctl daemon-reload")
    try:
        # Only nspawn of a unit that had a watchdog when it started feeds one.
        going.machctl("restart", "debian", "--wait", "ip")
        leader = going.machine("debian")["leader"]
        going.machctl("pause", "debian")
        time.sleep(8)
        going.machctl("resume", "debian")
        assert going.machine("debian")["leader"] == leader
        going.machctl("exec", "debian", "--", "true")
    finally:
        going.sh(f"rm -r $(dirname {FED}); systemctl daemon-reload")
        going.machctl("restart", "debian", "--wait", "ip")


def test_one_that_a_killed_run_held_still_goes_on(debian: Road) -> None:
    host = debian.host
    host.sh(f"echo 1 >{FREEZE}")
    assert host.state("debian") == "running"
    assert "let debian go on" in host.machctl("gc").stdout
    host.machctl("exec", "debian", "--", "true")


def test_its_health_is_not_judged_while_it_is_paused(debian: Road) -> None:
    host = debian.host
    with host.unchanged():
        host.machctl("set", "debian", "health=unit=nginx,interval=1s,retries=1,timeout=1s,start-period=1s")
        try:
            host.machctl("wait", "debian", "healthy", "--timeout", "60")
            host.machctl("pause", "debian")
            time.sleep(4)
            assert host.machine("debian")["health"] == "healthy"
            host.machctl("resume", "debian")
            assert until(lambda: host.machine("debian")["health"], lambda health: health == "healthy") == "healthy"
        finally:
            host.machctl("resume", "debian", status=None)
            host.machctl("set", "debian", "health=")
