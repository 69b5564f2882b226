# SPDX-License-Identifier: LGPL-2.1-or-later
"""start, stop, terminate, restart, enable, disable: one machine, several, patterns, a guest that does not listen."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from throwaway import Host, Road, Roads

pytestmark = pytest.mark.usefixtures("unchanged")

UNIT = "systemd-nspawn@{}.service"
# A unit that leaves a note when it is stopped in order.
GOODBYE = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sh -c 'date >/root/goodbye'\n"


@pytest.fixture(scope="module")
def pair(kept: str, roads: Roads) -> Iterator[tuple[str, str]]:
    """Two machines that machctl did not make, both stopped."""
    host = roads.get("trixie").host
    names = ("web1", "web2")
    for name in names:
        host.place_tree(kept, name)
        # Told to stop while it starts, networkd 257 goes on "Processing requests..." until its 90 s are over; and
        # without NotifyReady= a machine counts as started before that.
        units = f"/var/lib/machines/{name}/etc/systemd/system"
        host.sh(f"for unit in service socket; do ln -s /dev/null {units}/systemd-networkd.$unit; done")
    # Once run they have their machine-id, and a journal that is linked to.
    host.machctl("start", *names)
    host.machctl("stop", *names)
    yield names
    host.machctl("rm", "--force", *names)


def leader(host: Host, name: str = "debian") -> int:
    return int(host.machine(name)["leader"] or 0)


def test_starting_a_running_machine_changes_nothing(debian: Road) -> None:
    before = leader(debian.host)
    debian.host.machctl("start", "debian").says("running already")
    assert leader(debian.host) == before


def test_stopping_a_stopped_machine_says_so(debian: Road) -> None:
    debian.host.machctl("stop", "debian")
    debian.host.machctl("stop", "debian", status=3).says("debian", "not running")
    debian.host.machctl("start", "debian", "--wait", "ip")


def test_stop_is_orderly_and_terminate_is_not(debian: Road) -> None:
    host = debian.host
    install = ("exec", "debian", "--", "sh", "-c", "cat >/run/systemd/system/goodbye.service; systemctl start goodbye")
    host.machctl(*install, stdin=GOODBYE)
    host.machctl("terminate", "debian").says("terminated debian")
    assert not host.exists("/var/lib/machines/debian/root/goodbye")
    host.machctl("start", "debian")
    host.machctl(*install, stdin=GOODBYE)
    host.machctl("stop", "debian")
    host.run("rm", "/var/lib/machines/debian/root/goodbye")
    host.machctl("start", "debian", "--wait", "ip")


@pytest.mark.parametrize("words", [("restart", "debian"), ("restart", "--force", "debian"), ("reboot", "debian")])
def test_restart_gives_the_same_machine_anew(debian: Road, words: tuple[str, ...]) -> None:
    before, address = leader(debian.host), debian.address
    debian.host.machctl(*words, "--wait", "ip")
    assert leader(debian.host) != before
    assert debian.address == address
    assert "nginx" in debian.host.get("http://127.0.0.1:8080")


def test_restart_starts_what_does_not_run(debian: Road) -> None:
    debian.host.machctl("stop", "debian")
    debian.host.machctl("restart", "debian", "--wait", "ip")
    assert debian.host.state("debian") == "running"


def test_a_start_is_not_refused_for_those_before_it(debian: Road) -> None:
    # systemd allows five in ten seconds (systemd-system.conf(5), DefaultStartLimitBurst=).
    unit = UNIT.format("debian")
    debian.host.sh(f"for i in 1 2 3 4 5 6; do systemctl restart {unit} || break; done; systemctl stop {unit} || :")
    debian.host.machctl("start", "debian", "--wait", "ip").says("started debian")


def test_machine_dies_with_its_unit_and_the_other_way_round(debian: Road) -> None:
    host = debian.host
    host.sh("systemctl stop systemd-nspawn@debian")
    assert host.state("debian") == "stopped"
    host.sh("systemctl start systemd-nspawn@debian")
    assert host.state("debian") == "running"
    host.sh("machinectl poweroff debian")
    host.sh("until [ $(systemctl is-active systemd-nspawn@debian) = inactive ]; do sleep 0.1; done", timeout=30)
    assert host.state("debian") == "stopped"
    host.machctl("start", "debian", "--wait", "ip")


def test_a_pattern_means_all_that_match(host: Host, pair: tuple[str, str]) -> None:
    began = time.monotonic()
    host.machctl("start", "web*").says("started web1", "started web2")
    assert [host.state(name) for name in pair] == ["running", "running"]
    assert host.machctl("list", "web*", "-o", "name").stdout.split() == list(pair)
    done = host.machctl("stop", "web?")
    done.says("stopped web1", "stopped web2")
    assert [host.state(name) for name in pair] == ["stopped", "stopped"]
    assert time.monotonic() - began < 60


def test_an_unknown_name_among_several_is_found_before_anything_happens(host: Host, pair: tuple[str, str]) -> None:
    done = host.machctl("start", *pair, "web3", status=4)
    done.says("web3")
    assert [host.state(name) for name in pair] == ["stopped", "stopped"]


def test_a_pattern_without_a_match_is_refused(host: Host) -> None:
    host.machctl("start", "nosuch*", status=4).says("nosuch*")


def test_of_several_those_that_can_are_stopped(host: Host, pair: tuple[str, str]) -> None:
    host.machctl("start", "web1")
    done = host.machctl("stop", *pair, status=9)
    done.says("stopped web1", "web2 is not running")
    assert host.state("web1") == "stopped"


def test_one_whose_init_does_not_listen_yet_is_stopped_as_soon_as_it_does(host: Host, pair: tuple[str, str]) -> None:
    init = "/var/lib/machines/web1/usr/lib/systemd/systemd"
    slow = "#!/bin/sh\nsleep 2\nexec /usr/lib/systemd/systemd.kept\n"
    host.run("sh", "-c", f"mv {init} {init}.kept; cat >{init}; chmod +x {init}", stdin=slow)
    try:
        host.machctl("start", "web1")
        host.machctl("--timeout", "30", "stop", "web1").says("stopped web1")
    finally:
        host.sh(f"mv {init}.kept {init}")
    assert host.state("web1") == "stopped"


def test_one_that_cannot_start_does_not_keep_the_others(host: Host, pair: tuple[str, str]) -> None:
    host.sh("mkdir /var/lib/machines/web3")
    try:
        done = host.machctl("start", "web*", status=9)
        done.says("started web1", "started web2", "web3", "journalctl -u systemd-nspawn@web3")
    finally:
        host.machctl("stop", *pair)
        host.machctl("rm", "web3")
        host.sh("systemctl reset-failed systemd-nspawn@web3.service 2>/dev/null || true")


def test_a_guest_that_ignores_poweroff_is_left_running_and_the_hard_way_named(debian: Road) -> None:
    host = debian.host
    hold = "systemctl mask --runtime --now systemd-poweroff.service poweroff.target systemd-halt.service halt.target"
    host.machctl("exec", "debian", "--", "sh", "-c", hold)
    try:
        done = host.machctl("--timeout", "3", "stop", "debian", status=124)
        done.says("debian", "still running", "3 seconds", "stop --force debian")
        assert host.state("debian") == "running"
        assert host.machctl("exec", "debian", "--", "echo", "here").stdout == "here\n"
    finally:
        host.machctl("stop", "--force", "debian").says("terminated debian")
    assert host.state("debian") == "stopped"
    host.machctl("start", "debian", "--wait", "ip")


def test_enable_and_disable(host: Host, debian: Road) -> None:
    unit = UNIT.format("debian")
    host.machctl("enable", "debian").says("enabled debian")
    try:
        assert host.sh(f"systemctl is-enabled {unit} machines.target").split() == ["enabled", "enabled"]
        assert host.machine("debian")["autostart"] is True
        assert "autostart = true" in host.read("/etc/machctl/fleet.d/debian.toml")
        host.machctl("plan", "--detailed-exitcode")
        host.machctl("enable", "debian").says("enabled already")
    finally:
        host.machctl("disable", "debian").says("disabled debian")
    assert host.sh(f"systemctl is-enabled {unit}", status=None) == "disabled"
    assert host.machine("debian")["autostart"] is False


def test_enable_now_and_disable_now(host: Host, pair: tuple[str, str]) -> None:
    host.machctl("enable", "--now", "web1")
    assert host.state("web1") == "running"
    assert host.machine("web1")["autostart"] is True
    host.machctl("disable", "--now", "web1")
    assert host.state("web1") == "stopped"
    assert host.machine("web1")["autostart"] is False


@pytest.mark.parametrize(
    "verb", ["start", "stop", "terminate", "restart", "enable", "disable", "status", "show", "cat"]
)
def test_an_unknown_machine_is_refused_with_what_there_is(host: Host, verb: str) -> None:
    host.machctl(verb, "debain", status=4).says("debain", "did you mean debian")


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        (("stop", "debian"), "stop debian"),
        (("terminate", "debian"), "terminate debian"),
        (("restart", "debian"), "start debian"),
        (("rm", "--force", "debian"), "remove the tree /var/lib/machines/debian"),
        (("create", "debian", "other"), "bootstrap debian:trixie"),
        (("enable", "debian"), "enable systemd-nspawn@debian.service"),
        (("set", "debian", "memory=1G"), "+MemoryMax=1073741824"),
        (("start", "web1"), "start web1"),
    ],
)
def test_dry_run_says_the_steps_and_does_none(
    host: Host, debian: Road, pair: tuple[str, str], words: tuple[str, ...], plan: str
) -> None:
    before = leader(host)
    assert plan in host.machctl("--dry-run", *words).stdout
    assert plan in host.machctl(*words, "--dry-run").stdout
    assert leader(host) == before


def test_time_is_told(debian: Road) -> None:
    assert re.search(r"stopped debian in \d+\.\d s\n", debian.host.machctl("stop", "debian").stderr)
    assert re.search(r"started debian in \d+\.\d s\n", debian.host.machctl("start", "debian", "--wait", "ip").stderr)


def test_quiet_says_nothing(debian: Road) -> None:
    for verb in ("stop", "start"):
        done = debian.host.machctl("-q", verb, "debian")
        assert (done.stdout, done.stderr) == ("", "")
