# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine made by hand becomes one of machctl's while it runs; one of machctl's goes on without machctl."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from throwaway import Host, Road, until

pytestmark = pytest.mark.usefixtures("unchanged")

UNIT = "systemd-nspawn@hand.service"
SETTINGS = """\
# mine
[Exec]
Hostname=handmade
LimitNOFILE=4096
[Files]
BindReadOnly=/srv/hand:/var/www/html
[Network]
VirtualEthernet=yes
Bridge=lan
Port=8088:80
"""
DROPIN = "[Unit]\nDescription=My machine\n[Service]\nMemoryMax=512M\n"
STATIC = "[Match]\nName=host0\n[Network]\nAddress=198.51.100.7/24\nGateway=198.51.100.1\nLinkLocalAddressing=no\n"


@pytest.fixture
def hand(debian: Road) -> Iterator[Host]:
    """A machine that somebody made by hand on a bridge of others, and that runs."""
    host = debian.host
    host.sh("ip link add lan type bridge; ip address add 198.51.100.1/24 dev lan; ip link set lan up")
    host.place_tree(host.base_tree(), "hand")
    host.write("/var/lib/machines/hand/etc/systemd/network/10-lan.network", STATIC)
    host.write("/srv/hand/index.html", "handmade page\n")
    host.write("/etc/systemd/nspawn/hand.nspawn", SETTINGS)
    host.write(f"/etc/systemd/system/{UNIT}.d/override.conf", DROPIN)
    host.sh(f"systemctl daemon-reload; machinectl enable hand; systemctl start {UNIT}")
    yield host
    host.machctl("rm", "--force", "hand", status=None)
    host.sh(f"rm -rf /srv/hand /etc/systemd/system/{UNIT}.d; systemctl daemon-reload; ip link del lan")


def leader(host: Host, name: str) -> str:
    return host.sh('machinectl show "$1" --property=Leader --value', name)


def page(host: Host, url: str = "http://198.51.100.7") -> str:
    """Give what it answers, once it does."""
    return until(lambda: host.run("curl", "-sS", "--max-time", "3", url, status=None).stdout, bool)


@contextlib.contextmanager
def without_machctl(host: Host) -> Iterator[None]:
    """machctl is not installed meanwhile."""
    there = "/usr/local/lib/machctl /usr/local/bin/machctl /usr/local/lib/systemd/system"
    host.sh(f"for path in {there}; do mv $path $path.away; done; systemctl daemon-reload")
    try:
        yield
    finally:
        host.sh(f"for path in {there}; do mv $path.away $path; done; systemctl daemon-reload")


def test_by_hand_to_machctl_and_to_systemd_alone(hand: Host) -> None:
    assert page(hand) == "handmade page\n"
    before = leader(hand, "hand")
    said = hand.machctl("adopt", "hand", "--dry-run", "--json").json()
    assert [each["what"] for each in said[0]["unmapped"]] == ["LimitNOFILE=4096", "Description=My machine"]
    assert hand.read("/etc/systemd/nspawn/hand.nspawn") == SETTINGS
    hand.machctl("adopt", "hand").says(
        "LimitNOFILE=4096", "override.conf", "next start", "/var/lib/machctl/adopted/hand"
    )
    hand.machctl("plan", "hand", "--detailed-exitcode")
    assert leader(hand, "hand") == before
    declared = hand.read("/etc/machctl/fleet.d/hand.toml")
    for line in ('bridges = ["lan"]', 'memory = "512M"', 'hostname = "handmade"', "autostart = true"):
        assert f"{line}\n" in declared
    hand.machctl("restart", "hand")
    hand.machctl("plan", "hand", "--detailed-exitcode")
    assert hand.inside("hand", "hostname") == "handmade"
    assert page(hand) == "handmade page\n"
    assert page(hand, "http://10.0.2.100:8088") == "handmade page\n"
    shown = hand.sh(f"systemctl show {UNIT} --property=MemoryMax,Description")
    assert set(shown.splitlines()) == {"MemoryMax=536870912", "Description=My machine"}
    hand.machctl("eject", "hand")
    assert not hand.exists("/etc/machctl/fleet.d/hand.toml")
    with without_machctl(hand):
        hand.sh(f"systemctl restart {UNIT}")
        assert page(hand) == "handmade page\n"
    hand.machctl("plan", "--detailed-exitcode")


def test_a_machine_of_machctls_goes_on_alone_and_comes_back(debian: Road) -> None:
    host = debian.host
    words = ("create", "debian", "alone", "--bridge", "net9", "-p", "8089:80", "--package", "nginx-light")
    host.machctl(*words, "--start", "--wait", "ip")
    address, *_ = host.machine("alone")["addresses"]
    before = leader(host, "alone")
    host.machctl("eject", "alone").says("/var/lib/machctl/guests/alone")
    assert leader(host, "alone") == before
    host.machctl("plan", "--detailed-exitcode")
    with without_machctl(host):
        host.sh("systemctl stop systemd-nspawn@alone machine-alone-network; ip link del net9 2>/dev/null || true")
        host.sh("systemctl start systemd-nspawn@alone")
        for url in (f"http://{address}", "http://127.0.0.1:8089", "http://10.0.2.100:8089"):
            assert "nginx" in page(host, url)
    host.machctl("adopt", "alone")
    host.machctl("restart", "alone")
    assert "nginx" in page(host, f"http://{address}")
    host.machctl("rm", "--force", "alone")
    host.sh("test ! -e /sys/class/net/net9 || ip link del net9")


def test_units_do_what_they_are_for_although_they_may_do_little(debian: Road) -> None:
    host = debian.host
    host.sh("systemctl start machctl-gc machctl-snapshot@debian machctl-snapshot@debian machctl-snapshot@nosuch")
    (taken,) = [row["name"] for row in host.machctl("snapshot", "ls", "debian", "--json").json()]
    assert taken.startswith("auto-")
    host.machctl("snapshot", "rm", "debian", taken)
