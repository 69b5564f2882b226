# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with NetworkManager, and one whose only name server is its own: machines have their network all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lan
from throwaway import Host, Roads, until

CONF = "/etc/NetworkManager/conf.d"
LONG = "a-name-nspawn-cuts"
# It answers at 127.0.0.1 alone, as the one of NetworkManager does.
DNSMASQ = (
    "dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --listen-address=127.0.0.1 "
    "--server=10.0.2.3 --address=/probe.example/192.0.2.77 --user=root --pid-file=/run/dnsmasq.pid"
)
INSTALL = f"""
mkdir -p {CONF}
# The host's uplink is others' work, as in their own words.
printf '[keyfile]\\nunmanaged-devices=interface-name:tap0;interface-name:{lan.LINK}\\n' >{CONF}/10-uplink.conf
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install network-manager dnsmasq-base >/dev/null
cp /etc/resolv.conf /root/resolv.conf
"""
PURGE = f"""
cp /root/resolv.conf /etc/resolv.conf
pkill --pidfile /run/dnsmasq.pid
machctl apply >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge network-manager dnsmasq-base >/dev/null
machctl apply >/dev/null
ls {CONF}/70-* 2>/dev/null
rm -rf /etc/NetworkManager /var/lib/NetworkManager
"""
# A question by TCP as well: answers that are too long for UDP are asked for again that way.
ASK = """
import socket, sys
question = b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x05probe\\x07example\\0\\0\\x01\\0\\x01"
with socket.create_connection((sys.argv[1], 53), 5) as server:
    server.sendall(len(question).to_bytes(2, "big") + question)
    print(socket.inet_ntoa(server.recv(512)[-4:]))
"""


@pytest.fixture(scope="module")
def managed(roads: Roads) -> Iterator[Host]:
    """A host without networkd into which NetworkManager came; it is in the end as it was."""
    host = roads.get("static").ready().host
    with host.only_debian():
        try:
            host.sh(INSTALL)
            assert "reload NetworkManager" in str(host.machctl("apply"))
            host.copy("other", "--veth", "--zone", "lab", "--start", "--wait", "ip")
            yield host
        finally:
            left = host.sh(PURGE, status=None)
    assert left == "", "what NetworkManager was told goes when it is gone"


def managed_by(host: Host) -> dict[str, str]:
    """Give what NetworkManager manages, but for the loopback link, and its state."""
    lines = host.sh("nmcli -t -f DEVICE,STATE device").splitlines()
    states = dict(line.split(":", 1) for line in lines)
    return {name: state for name, state in states.items() if state != "unmanaged" and name != "lo"}


def links(host: Host) -> list[str]:
    """Give the links of machines, with what is in which bridge and all addresses but those the kernel chooses."""
    lines = host.sh("ip -o link show; ip -o address show scope global").splitlines()
    return sorted(line.split("link/")[0].split(" qdisc")[0] for line in lines if " tap0" not in line)


def test_network_manager_leaves_links_of_machines_alone(managed: Host) -> None:
    host = managed
    assert managed_by(host) == {}
    before = links(host)
    for what in ("systemctl restart NetworkManager", "nmcli networking off", "nmcli networking on"):
        host.sh(what)
        assert managed_by(host) == {}, what
        assert links(host) == before, what
        assert "nginx" in host.get("http://127.0.0.1:8080"), what
    host.machctl("restart", "other", "--wait", "ip")
    assert managed_by(host) == {}
    addresses = [address for address in host.machine("other")["addresses"] if ":" not in address]
    assert len(addresses) == 3
    for address in addresses:
        assert until(lambda address=address: "nginx" in host.get(f"http://{address}"), bool, limit=5)  # type: ignore[misc]
    assert host.machctl("apply").stderr == "nothing to do\n"
    assert "NetworkManager leaves the links of machines alone" in host.machctl("doctor", status=None).stdout


def test_what_network_manager_did_before_it_was_told_apply_makes_good(managed: Host) -> None:
    host = managed
    host.sh(f"rm {CONF}/70-machctl-br0.conf && systemctl reload NetworkManager && nmcli networking off")
    said = host.machctl("doctor", "--json", status=None).json()
    assert [finding["level"] for finding in said if finding["check"] == "networkmanager"] == ["warning"]
    host.machctl("apply")
    assert managed_by(host) == {}
    assert host.machctl("apply").stderr == "nothing to do\n"
    host.sh("nmcli networking on")
    host.machctl("doctor", "debian", "--fix", status=None)
    host.machctl("doctor", "other", "--fix", status=None)
    assert "nginx" in host.get("http://127.0.0.1:8080")


def test_machines_ask_the_server_that_the_host_alone_can_ask(managed: Host) -> None:
    host = managed
    host.sh(f"{DNSMASQ} && echo nameserver 127.0.0.1 >/etc/resolv.conf")
    assert "127.0.0.1 of this host answers" in host.machctl("doctor", status=None).stdout
    host.machctl("apply")
    assert host.machctl("apply").stderr == "nothing to do\n"
    host.copy(LONG, "--egress", "53/udp")
    host.machctl("restart", "debian", "--wait", "ip")
    host.machctl("start", LONG, "--wait", "ip")
    for name in ("debian", LONG):
        found = until(lambda name=name: host.inside(name, "getent hosts probe.example", status=None), bool, limit=10)  # type: ignore[misc]
        assert found.startswith("192.0.2.77"), name
    gateway = host.machctl("network", "show", "br0", "--json").json()["gateway"]
    leader = str(host.machine("debian")["leader"])
    asked = host.run("nsenter", "--target", leader, "--net", "python3", "-c", ASK, gateway)
    assert asked.stdout.strip() == "192.0.2.77"
    assert {finding["level"] for finding in host.machctl("doctor", "debian", "--json").json()} == {"ok"}


def test_a_machine_whose_name_nspawn_cuts_has_its_network_while_it_boots(managed: Host) -> None:
    said = managed.inside(LONG, "journalctl --boot --output short-monotonic --no-hostname")
    carrier = next(index for index, line in enumerate(said.splitlines()) if "host0: Gained carrier" in line)
    booted = next(index for index, line in enumerate(said.splitlines()) if "Reached target multi-user" in line)
    assert carrier < booted, said


def test_all_of_it_is_so_after_a_reboot_of_the_host(managed: Host) -> None:
    host = managed
    host.sh("cp /root/resolv.conf /etc/resolv.conf")
    host.machctl("apply")
    host.machctl("enable", "debian")
    host.run("systemctl", "reboot", status=None)
    try:
        assert until(lambda: host.state("debian"), lambda state: state == "running") == "running"
        assert until(lambda: host.sh("systemctl is-active NetworkManager", status=None), lambda s: s == "active")
        assert managed_by(host) == {}
        assert "nginx" in until(lambda: host.get("http://127.0.0.1:8080"), bool)
        assert not host.machctl("apply", "debian").stdout
    finally:
        host.machctl("disable", "debian")
