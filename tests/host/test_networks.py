# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks and names on real hosts: the same whether networkd runs there or not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lan import put
from throwaway import Host, Roads, until

LAB = "/etc/machctl/fleet.d/network-lab.toml"


@pytest.fixture(params=["trixie", "static"])
def box(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with networkd and resolved, and one without either; as it was in the end."""
    host = roads.get(request.param).ready().host
    with host.only_debian():
        yield host
        networks = [row["name"] for row in rows(host) if row["declared"]]
        names = [name for name in host.machctl("list", "-o", "name").stdout.split() if name != "debian"]
        if names:
            host.machctl("rm", "--force", *names)
        if networks:
            host.machctl("network", "rm", *networks)


def rows(host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.machctl("network", "ls", "--json").json()
    return found


def nothing_to_do(host: Host) -> None:
    assert host.machctl("plan", "--detailed-exitcode").stderr == "nothing to do\n"


def addresses(host: Host, link: str) -> set[str]:
    found = json.loads(host.sh(f"ip -j address show {link}"))[0]["addr_info"]
    return {f"{each['local']}/{each['prefixlen']}" for each in found if each["scope"] == "global"}


def resolves(host: Host, machine: str, name: str) -> set[str]:
    """The addresses of a name in a machine, once there are any: resolved looks into /etc/hosts every other second."""
    script = f"getent ahosts {name} | cut -d' ' -f1 | sort -u"
    return set(until(lambda: host.inside(machine, script, status=None).split(), bool, limit=5))


def test_network_is_made_listed_and_removed(box: Host) -> None:
    box.machctl("network", "create", "lab", "--subnet", "10.213.5.0/24", "--mtu", "1400", "--isolated")
    (row,) = [row for row in rows(box) if row["name"] == "lab"]
    assert (row["state"], row["mode"], row["subnet"], row["mtu"]) == ("up", "isolated", "10.213.5.0/24", 1400)
    assert row["subnet6"].startswith("fd")
    assert addresses(box, "lab") == {"10.213.5.1/24", f"{row['gateway6']}/64"}
    assert box.sh("cat /sys/class/net/lab/mtu").strip() == "1400"
    assert box.sh("cat /proc/sys/net/ipv6/conf/lab/accept_ra").strip() == "0"
    nothing_to_do(box)
    box.machctl("network", "create", "lab", status=5).says("network lab is declared in", LAB)
    box.copy("web", "--bridge", "lab")
    box.machctl("network", "rm", "lab", status=5).says("network lab has machines on it: web")
    assert box.machctl("network", "show", "lab", "--json").json()["machines"] == ["web"]
    box.machctl("rm", "web")
    # It is declared, and stays without machines.
    assert "lab" in [row["name"] for row in rows(box)]
    box.machctl("network", "rm", "lab")
    assert not box.exists("/sys/class/net/lab")
    assert "lab" not in [row["name"] for row in rows(box)]
    nothing_to_do(box)


def test_network_follows_its_file(box: Host) -> None:
    box.write(LAB, "[networks.lab]\nsubnet = '10.213.6.0/24'\nipv6 = false\n")
    plan = box.machctl("plan", "--detailed-exitcode", status=10).stdout
    assert "network lab:" in plan
    assert "10.213.6.0/24" in plan
    box.machctl("apply")
    assert addresses(box, "lab") == {"10.213.6.1/24"}
    nothing_to_do(box)
    box.write(LAB, "[networks.lab]\nsubnet = '10.213.7.0/24'\nsubnet6 = 'fd12:7::/64'\nmtu = 1400\n")
    box.machctl("apply")
    wanted = {"10.213.7.1/24", "fd12:7::1/64"}
    assert until(lambda: addresses(box, "lab"), lambda found: found == wanted) == wanted
    assert until(lambda: box.sh("cat /sys/class/net/lab/mtu").strip(), lambda mtu: mtu == "1400") == "1400"
    nothing_to_do(box)
    box.run("rm", LAB)
    box.machctl("apply")
    assert not box.exists("/sys/class/net/lab")
    nothing_to_do(box)


def test_machine_of_another_file_is_brought_along_with_its_own_apply(box: Host) -> None:
    other = "/root/other.toml"
    box.machctl("network", "create", "lab", "--subnet", "10.213.5.0/24")
    box.write(other, "[machines.beside]\nsource = 'debian:trixie'\nbridges = ['lab']\n")
    box.machctl("apply", "-f", other)
    box.machctl("start", "beside")
    box.write(LAB, "[networks.lab]\nsubnet = '10.213.6.0/24'\n")
    # A file with a mistake, in which nothing of this is, is in nobody's way.
    box.write("/etc/machctl/fleet.d/half.toml", "[networks.half]\nmode =\n")
    box.write(other, "[machines.beside]\nsource = 'debian:trixie'\nbridges = ['lab']\nmemory = '400M'\n")
    box.machctl("plan", "-f", other)
    box.sh("rm /etc/machctl/fleet.d/half.toml")
    box.machctl("apply").says("beside: its address is outside of network lab", f"machctl apply -f {other}")
    box.machctl("apply", "-f", other)
    assert "10.213.6." in box.inside("beside", "ip -4 address show")
    nothing_to_do(box)
    box.write(other, "[machines.beside]\nsource = 'debian:trixie'\nbridges = ['lab']\n[networks.lab]\n")
    box.machctl("apply", "-f", other, status=5).says(f"network lab is declared in {LAB} and in {other}")
    box.sh(f"rm {other}")


def test_mistake_in_a_network_is_named_with_its_file(box: Host) -> None:
    box.write(LAB, "[networks.lab]\nsubnet = '10.213.6.1/24'\n")
    box.machctl("plan", status=8).says(LAB, "networks.lab.subnet", "10.213.6.0/24")
    box.run("rm", LAB)


def test_subnet_that_somebody_has_is_refused_before_anything_is_made(box: Host) -> None:
    with box.unchanged():
        box.machctl("network", "create", "lab", "--subnet", "10.0.2.128/25", status=5).says("10.0.2.0/24", "tap0")
        taken = next(row for row in rows(box) if row["name"] == "br0")
        box.machctl("network", "create", "lab", "--subnet", taken["subnet"], status=5).says("of network br0")
        box.machctl("network", "create", "lab", "--subnet6", taken["subnet6"], status=5).says("of network br0")
        box.machctl("network", "create", "tap0", status=5).says("tap0 already, and machctl did not make it")
        box.machctl("network", "create", "lab", "--reach", "nowhere", status=2).says("there is no such network")


def test_bridge_of_others_is_used_as_it_is(box: Host) -> None:
    box.sh("ip link add docker9 type bridge; ip addr add 10.213.9.1/24 dev docker9; ip link set docker9 up")
    try:
        box.machctl("network", "create", "docker9", status=5).says("machctl did not make it", "--bridge docker9")
        box.machctl("network", "create", "lab", "--subnet", "10.213.9.0/24", status=5).says("docker9")
        box.copy("web", "--bridge", "docker9")
        assert addresses(box, "docker9") == {"10.213.9.1/24"}
        assert "docker9" not in [row["name"] for row in rows(box)]
        nothing_to_do(box)
        box.machctl("rm", "web")
        assert addresses(box, "docker9") == {"10.213.9.1/24"}
    finally:
        box.sh("ip link del docker9")


def test_names_lead_everywhere(box: Host) -> None:
    own = box.read("/etc/hosts").splitlines()
    box.copy("web")
    box.machctl("start", "web", "--wait", "ip")
    v4, v6 = sorted(box.machine("web")["addresses"], key=lambda address: ":" in address)
    assert set(box.sh("getent ahosts web.machctl.internal | cut -d' ' -f1 | sort -u").split()) == {v4, v6}
    box.get("http://web/")
    for name in ("web", "web.machctl.internal"):
        assert resolves(box, "debian", name) == {v4, v6}
    for name in ("debian", "web"):
        box.inside("debian" if name == "web" else "web", f"timeout 10 bash -c 'exec 3<>/dev/tcp/{name}/80'")
    host_name = box.sh("uname -n").strip()
    for name in ("host", "host.machctl.internal", host_name):
        assert resolves(box, "web", name)
    # A name of the world outside that this host surely can look up: where its packages come from.
    outside = box.sh("grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list* | head -n 1").partition("//")[2]
    assert resolves(box, "web", outside)
    for database in ("ahostsv4", "ahostsv6"):
        to = box.sh(f"getent {database} host.machctl.internal").split()[0]
        script = f"timeout 10 bash -c 'exec 3<>/dev/tcp/{to}/8099' && echo there"
        with box.background("python3", "-m", "http.server", "--bind", to, "8099"):
            assert until(lambda script=script: box.inside("web", script, status=None), bool) == "there"
    box.machctl("stop", "web")
    box.machctl("rename", "web", "www")
    box.machctl("start", "www", "--wait", "ip")
    assert sorted(box.machine("www")["addresses"], key=lambda address: ":" in address) == [v4, v6]
    assert resolves(box, "debian", "www") == {v4, v6}
    box.inside("debian", "! getent hosts web")
    nothing_to_do(box)
    box.machctl("rm", "--force", "www")
    assert "www" not in box.read("/etc/hosts")
    box.inside("debian", "! grep -q www /etc/hosts")
    left = [line for line in box.read("/etc/hosts").splitlines() if "machctl" not in line]
    assert left == [line for line in own if "machctl" not in line]


def test_addresses_stay_over_restarts(box: Host) -> None:
    before = box.machine("debian")["addresses"]
    assert {":" in address for address in before} == {True, False}
    box.machctl("restart", "debian")
    assert until(lambda: box.machine("debian")["addresses"], lambda now: now == before) == before


def test_address_of_a_removed_machine_leads_to_the_next_at_once(box: Host) -> None:
    neighbours = []
    for name in ("first", "second"):
        box.copy(name)
        box.machctl("start", name, "--wait", "ip")
        address = next(each for each in box.machine(name)["addresses"] if ":" not in each)
        box.sh(f"ping -c 1 -W 5 {address}")
        neighbours.append(box.sh(f"ip neighbour show {address} | cut -d ' ' -f 1-5"))
        assert box.inside(name, "cat /sys/class/net/host0/address") in neighbours[-1]
        box.machctl("rm", "--force", name)
    assert neighbours[0] == neighbours[1]


def test_lines_of_others_stay_byte_by_byte(box: Host) -> None:
    box.sh(
        "cp -p /etc/hosts /root/hosts; printf '192.0.2.9\\tcaf\\351 # mine\\r\\n' >>/etc/hosts; chmod 640 /etc/hosts"
    )
    try:
        box.copy("web")
        assert box.sh("grep -c 'web.machctl.internal' /etc/hosts").strip() == "2"
        box.machctl("rm", "web")
        assert box.sh("grep -a mine /etc/hosts | od -An -c | tr -d ' \\n'") == "192.0.2.9\\tcaf351#mine\\r\\n"
        assert box.sh("stat -c %a /etc/hosts").strip() == "640"
        assert not box.sh("grep -w web /etc/hosts || true")
    finally:
        box.sh("cp -p /root/hosts /etc/hosts")


@contextlib.contextmanager
def uplink(host: Host, *, networkd: bool) -> Iterator[None]:
    """Have a link with a router of IPv6 behind it that advertises itself, on a host that does not forward yet."""
    put(host, "router.py")
    if networkd:
        host.write("/etc/systemd/network/20-up0.network", "[Match]\nName=up0\n[Network]\nLinkLocalAddressing=ipv6\n")
        host.run("networkctl", "reload")
    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.default.accept_ra=1")
    host.sh("ip netns add rtr; ip link add up0 type veth peer name r0 netns rtr; ip -n rtr link set r0 up")
    if not networkd:
        host.sh("ip link set up0 up")
    try:
        with host.background(
            "ip", "netns", "exec", "rtr", "sh", "-c", "sleep 2; exec python3 /root/router.py r0 2001:db8:7:: 5"
        ):
            assert until(lambda: default_route(host), bool)
            yield
    finally:
        host.sh("ip link del up0; ip netns del rtr; rm -f /etc/systemd/network/20-up0.network")
        if networkd:
            host.run("networkctl", "reload")


def default_route(host: Host) -> str:
    return host.sh("ip -6 route show default dev up0")


@pytest.mark.parametrize(
    ("suite", "networkd"), [("static", False), ("uplink", False), ("uplink", True), ("bookworm", True)]
)
def test_host_keeps_the_route_its_router_advertises(roads: Roads, suite: str, *, networkd: bool) -> None:
    host = roads.get(suite).ready().host
    with uplink(host, networkd=networkd):
        host.machctl("network", "create", "lab")
        try:
            assert host.sh("cat /proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
            assert default_route(host)
            # What it was told before is over by then: this is what the router says now.
            host.sh("sleep 7")
            assert default_route(host)
            if networkd:
                host.run("systemctl", "restart", "systemd-networkd")
                assert until(lambda: default_route(host), bool)
        finally:
            host.machctl("network", "rm", "lab")


def test_without_care_the_kernel_would_drop_that_route(roads: Roads) -> None:
    host = roads.get("static").ready().host
    with uplink(host, networkd=False):
        host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
        assert not default_route(host)


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
@pytest.mark.parametrize("how", ["systemctl restart systemd-networkd", "networkctl reload", "stop"])
def test_networkd_leaves_networks_alone(roads: Roads, suite: str, how: str) -> None:
    host = roads.get(suite).ready().host
    before, table = addresses(host, "br0"), host.sh("nft list table inet machctl")
    assert len(before) == 2
    stop = "systemctl stop systemd-networkd.socket systemd-networkd; sleep 1"
    host.sh(stop if how == "stop" else how)
    try:
        assert until(lambda: addresses(host, "br0"), lambda now: now == before) == before
        assert host.sh("nft list table inet machctl") == table
        assert host.inside("debian", "timeout 10 bash -c 'exec 3<>/dev/tcp/host/53' && echo there") == "there"
        if how == "stop":
            # Without it machctl makes the bridges.
            host.machctl("network", "create", "lab", "--subnet", "10.213.5.0/24")
            assert "10.213.5.1/24" in addresses(host, "lab")
            host.machctl("network", "rm", "lab")
    finally:
        host.sh("systemctl start systemd-networkd.socket systemd-networkd")
    assert until(lambda: addresses(host, "br0"), lambda now: now == before) == before
    nothing_to_do(host)


def test_what_a_killed_run_began_of_a_network_the_next_one_finishes(box: Host) -> None:
    put(box, "killed.py")

    def killed(*words: str) -> None:
        assert box.run("python3", "-IS", "/root/killed.py", *words, status=None).status != 0

    create = ("network", "create", "lab", "--subnet", "10.213.5.0/24")
    killed("load", *create)
    assert "lab" not in box.sh("nft list ruleset")
    box.machctl(*create)
    assert "lab" in box.sh("nft list table inet machctl")
    nothing_to_do(box)
    assert "already" in box.machctl(*create, status=5).stderr
    # Between the record with the files and what makes them true.
    box.write(LAB, "[networks.lab]\nsubnet = '10.213.6.0/24'\nmtu = 1400\n")
    killed("restart" if "--networkd" in box.options else "reload", "apply")
    assert "10.213.5.1/24" in addresses(box, "lab")
    box.machctl("apply")
    assert until(lambda: "10.213.6.1/24" in addresses(box, "lab"), bool, limit=5)
    assert "10.213.5.1/24" not in addresses(box, "lab")
    assert until(lambda: box.sh("cat /sys/class/net/lab/mtu"), lambda mtu: mtu == "1400", limit=5) == "1400"
    nothing_to_do(box)
    # What somebody takes away comes back as well.
    box.sh("ip address flush dev lab scope global; nft delete table inet machctl")
    box.machctl("apply")
    assert until(lambda: "10.213.6.1/24" in addresses(box, "lab"), bool, limit=5)
    nothing_to_do(box)
    assert box.get("http://127.0.0.1:8080")
    box.sh("rm /root/killed.py")
