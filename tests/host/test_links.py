# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every kind of link: the machine boots, has its address and is reached at it, with networkd and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import lan
from throwaway import Host, Roads, until

HOSTS = {"networkd": "trixie", "none": "static"}
LONG = "links-of-a-long-name"
OTHER = "lan2"
"""A second cable to the other host, that is moved into a machine."""


@dataclass(frozen=True)
class Kind:
    """What create is told, what the link is called inside, the address it has if that is chosen, and who reaches it."""

    words: tuple[str, ...]
    inner: str = "host0"
    address: str = ""
    source: str = "host"
    name: str = "links"


KINDS = {
    "bridge": Kind(("--bridge", "br0")),
    "two bridges": Kind(
        ("--bridge", "br0", "--bridge", "lbr1,ip=10.197.0.5/24,mac=02:00:00:00:00:05"), "host1", "10.197.0.5"
    ),
    "chosen": Kind(("--bridge", "lbr1", "--ip", "10.197.0.7/24", "--ip", "fd97::7/64"), "host0", "10.197.0.7"),
    "named": Kind(("--bridge", "lbr1,name=up0",), "up0"),
    "veth": Kind(("--veth",)),
    "long veth": Kind(("--veth",), name=LONG),
    "zone": Kind(("--zone", "lab")),
    "long zone": Kind(("--bridge", "br0", "--zone", "lab"), "host1", name=LONG),
    "macvlan": Kind(("--macvlan", f"{lan.LINK},ip=192.0.2.10/24"), f"mv-{lan.LINK}", "192.0.2.10", "lan"),
    "macvlan beside": Kind(
        ("--veth", "--macvlan", f"{lan.LINK},ip=192.0.2.11/24"), f"mv-{lan.LINK}", "192.0.2.11", "lan"
    ),
    "interface": Kind(("--interface", f"{OTHER},ip=198.51.100.10/24"), OTHER, "198.51.100.10", "lan"),
    "host": Kind(("--host-network",), "", lan.HERE["ipv4"]),
    "none": Kind(("--no-network",), ""),
}  # fmt: skip

CABLE = f"""
ip link add {OTHER} type veth peer name lan3 netns lan
ip -n lan address add 198.51.100.1/24 dev lan3
ip -n lan link set lan3 up
"""


@pytest.fixture(scope="module", params=HOSTS)
def linked(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host with another one on its LAN; it is in the end as it was."""
    host = roads.get(HOSTS[request.param]).ready().host
    with host.unchanged(), lan.lan(host):
        host.sh(CABLE)
        try:
            yield host
        finally:
            for name in ("links", LONG):
                host.machctl("rm", "--force", name, status=None)
            host.sh(f"ip link delete {OTHER}", status=None)


def links(host: Host, name: str) -> dict[str, dict[str, Any]]:
    """Give what `net ls` has of a machine's links, by what they are called in it."""
    return {str(row["link"] or ""): row for row in host.machctl("net", "ls", name, "--json").json()}


def answers(host: Host, address: str, source: str) -> bool:
    """Tell whether an address answers, within what networkd takes to make a link its own."""
    way = "ip netns exec lan " if source == "lan" else ""
    ping = f"{way}ping -c 1 -W 1 {address} >/dev/null 2>&1 && echo yes"
    return until(lambda: host.sh(ping, status=None).strip(), lambda seen: seen == "yes", limit=8) == "yes"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_machine_boots_has_its_address_and_is_reached(linked: Host, kind: Kind) -> None:
    name = kind.name
    linked.machctl("create", "debian", name, "--package", "nginx-light", *kind.words, "--start")
    try:
        linked.machctl("plan", name, "--detailed-exitcode")
        before = linked.machctl("ip", name, "--json").json()
        found = [address for row in before for address in row["addresses"]]
        wanted = [kind.address] if kind.address else links(linked, name).get(kind.inner, {}).get("addresses", [])
        assert bool(wanted) is (kind.inner != "" or kind.address != "")
        assert kind.inner == "" or set(wanted) <= set(found)
        for address in wanted:
            assert until(lambda address=address: answers(linked, address, kind.source), bool), (address, found)
        assert {"machine": name} == {key: row[key] for row in before[:1] for key in ("machine",)} or not before
        listed = linked.machine(name)["addresses"]
        assert sorted(listed) == sorted(found)
        linked.machctl("restart", name)
        assert linked.machctl("ip", name, "--json").json() == before
    finally:
        linked.machctl("rm", "--force", name, status=None)


def test_links_come_and_go_while_it_runs(linked: Host) -> None:
    linked.machctl("rm", "--force", "links", status=None)
    linked.machctl("create", "debian", "links", "--package", "nginx-light", "--veth", "--start")
    unit = linked.sh("systemctl show systemd-nspawn@links --property=MainPID")
    linked.machctl("net", "attach", "links", "lbr2", "zone:lab", f"macvlan:{lan.LINK},ip=192.0.2.12/24").says(
        "attached"
    )
    linked.machctl("net", "attach", "links", f"interface:{OTHER},ip=198.51.100.12/24")
    there = links(linked, "links")
    assert set(there) == {"host0", "host1", "host2", f"mv-{lan.LINK}", OTHER}
    assert answers(linked, there["host1"]["addresses"][0], "host")
    assert answers(linked, there["host2"]["addresses"][0], "host")
    assert answers(linked, "192.0.2.12", "lan")
    assert answers(linked, "198.51.100.12", "lan")
    linked.machctl("plan", "--detailed-exitcode")
    linked.machctl("net", "detach", "links", "lbr2", f"macvlan:{lan.LINK}", OTHER)
    assert set(links(linked, "links")) == {"host0", "host2"}
    assert linked.sh("ls /sys/class/net").split().count(OTHER) == 1
    assert "lbr2" not in linked.sh("ls /sys/class/net").split()
    linked.machctl("plan", "--detailed-exitcode")
    assert linked.sh("systemctl show systemd-nspawn@links --property=MainPID") == unit
    linked.machctl("restart", "links")
    after = links(linked, "links")
    assert {inner: row["addresses"] for inner, row in after.items()} == {
        inner: there[inner]["addresses"] for inner in ("host0", "host2")
    }
    linked.machctl("net", "detach", "links", "host9", status=4).says("host0")
    linked.machctl("rm", "--force", "links")


def test_links_that_were_taken_off_their_bridges_are_put_back(linked: Host) -> None:
    linked.machctl("rm", "--force", "links", status=None)
    linked.machctl("create", "debian", "links", "--bridge", "br0", "--bridge", "lbr2", "--start", "--wait", "ip")
    unit = linked.sh("systemctl show systemd-nspawn@links --property=MainPID")
    there = links(linked, "links")
    ends = linked.sh("ls /sys/class/net/br0/brif /sys/class/net/lbr2/brif")
    hairpin = "bridge -d link show dev vb-links | grep -o 'hairpin [a-z]*'"
    kept = linked.sh(hairpin)
    for end in (end for end in ends.split() if end.startswith("vb") and end.endswith("-links")):
        linked.sh(f"ip link set {end} nomaster")
    planned = linked.machctl("plan").stdout
    assert "put vb-links back on br0" in planned
    assert "back on lbr2" in planned
    linked.machctl("apply")
    assert linked.machctl("plan", "--detailed-exitcode").status == 0
    assert linked.sh("ls /sys/class/net/br0/brif /sys/class/net/lbr2/brif") == ends
    assert linked.sh(hairpin) == kept
    assert linked.sh("systemctl show systemd-nspawn@links --property=MainPID") == unit
    assert answers(linked, there["host0"]["addresses"][0], "host")
    linked.machctl("rm", "--force", "links")


def test_a_link_that_comes_after_the_first_went_has_a_name_of_its_own(linked: Host) -> None:
    linked.machctl("rm", "--force", "links", status=None)
    linked.machctl("create", "debian", "links", "--bridge", "br0", "--bridge", "lbr2", "--start", "--wait", "ip")
    kept = links(linked, "links")["host1"]["addresses"]
    linked.machctl("net", "detach", "links", "host0")
    linked.machctl("net", "attach", "links", "zone:lab")
    there = links(linked, "links")
    assert set(there) == {"host0", "host1"}
    assert (there["host0"]["target"], there["host1"]["target"]) == ("lab", "lbr2")
    assert there["host1"]["addresses"] == kept
    linked.machctl("restart", "links", "--wait", "ip")
    after = links(linked, "links")
    assert {inner: row["addresses"] for inner, row in after.items()} == {
        inner: row["addresses"] for inner, row in there.items()
    }
    assert linked.machctl("plan", "--detailed-exitcode").status == 0
    linked.machctl("rm", "--force", "links")


def test_named_links_keep_their_ends_while_others_come_and_go(linked: Host) -> None:
    linked.machctl("rm", "--force", "links", status=None)
    words = ["--link", "bridge:br0", "--link", "bridge:lbr2,name=lan", "--link", "zone:lab,name=dmz"]
    linked.machctl("create", "debian", "links", *words, "--start", "--wait", "ip")
    kept = links(linked, "links")["dmz"]
    assert kept["state"] == "up"
    linked.machctl("net", "detach", "links", "lan")
    linked.machctl("net", "attach", "links", "bridge:lbr2")
    linked.machctl("net", "attach", "links", "veth,name=host1")
    there = links(linked, "links")
    assert there["dmz"] == kept
    assert {name for name, row in there.items() if row["state"] == "up"} == {"host0", "host1", "host2", "dmz"}
    linked.machctl("rm", "--force", "links")


def test_one_whose_name_is_cut_is_isolated_once_apply_is_done(linked: Host) -> None:
    name = "a-rather-long-machine-name"
    linked.machctl("rm", "--force", "links", name, status=None)
    linked.machctl(
        "create", "debian", "links", "--bridge", "br0", "--package", "nginx-light", "--start", "--wait", "ip"
    )
    linked.machctl("create", "debian", name, "--bridge", "br0", "--start", "--wait", "ip")
    (address, *_) = links(linked, "links")["host0"]["addresses"]
    reach = ("exec", name, "--", "timeout", "2", "bash", "-c", f"echo >/dev/tcp/{address}/80")
    assert until(lambda: linked.machctl(*reach, status=None).status, lambda status: status == 0) == 0
    linked.sh(f"echo 'isolated = true' >> /etc/machctl/fleet.d/{name}.toml")
    linked.machctl("apply")
    linked.machctl("wait", name, "ip")
    linked.machctl(*reach, status=124)
    linked.machctl("plan", "--detailed-exitcode")
    linked.machctl("rm", "--force", "links", name)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--bridge", "br0", "--ip", "10.197.0.9"), 5, "outside"),
        (("--bridge", "lbr9", "--ip", "10.0.2.9"), 5, "a route of this host has 10.0.2.0/24"),
        (("--macvlan", "eth9"), 4, "no interface eth9"),
        (("--bridge", lan.LINK), 5, "not a bridge"),
        (("--bridge", "br0,vlan=4095"), 2, "not a VLAN"),
        (("--bridge", "br0,mac=01:00:00:00:00:05"), 2, "MAC"),
        (("--bridge", "br0", "--bridge", "br0"), 2, "given twice"),
        (("--zone", "a-long-zone-12"), 2, "14 characters"),
        (("--macvlan", f"{lan.LINK},ip=192.0.2.5"), 2, "192.0.2.5/24"),
        (("--host-network", "-p", "80:80"), 2, "none below 1024"),
        (("--host-network", "--veth"), 2, "links besides"),
        (("--macvlan", lan.LINK, "-p", "8088:80"), 2, "passes nothing on by macvlan"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    linked: Host, words: tuple[str, ...], status: int, says: str
) -> None:
    linked.machctl("rm", "--force", "links", status=None)
    before = linked.snapshot()
    linked.machctl("create", "debian", "links", *words, status=status).says(says)
    assert linked.snapshot() == before
