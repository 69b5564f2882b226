# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only one machine or network of a fleet can have: subnets, addresses, MAC addresses, ports of the host."""

from __future__ import annotations

import asyncio

import pytest

from acting import REPORTER, create, declare, web
from fakes import FakeHost
from machines.declare.fleet import parse_fleet
from machines.errors import InvalidFile, Several
from machines.model.machine import Publish
from machines.operations.checking import check_files
from machines.operations.declared import declared_machines
from machines.operations.down import plan_down
from machines.operations.fleetplan import fleet_plan
from machines.operations.garbage import collect_garbage

NETWORKS = """
[networks.aa]
subnet = "10.60.0.0/24"
subnet6 = "fd00:1::/64"
[networks.four]
ipv6 = false
[defaults]
source = "debian"
"""


def wrong(text: str, *more: str) -> list[str]:
    files = {"/a": text, **{f"/b{number}": each for number, each in enumerate(more)}}
    return [error.message for error in check_files(files).errors]


def machines(*links: str) -> str:
    return NETWORKS + "".join(f"[machines.m{number}]\n{each}\n" for number, each in enumerate(links))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ('subnet = "10.0.0.0/24"', "10.0.0.0/24 overlaps 10.0.0.0/24 of network a, declared in /a"),
        ('subnet = "10.0.0.0/8"', "10.0.0.0/8 overlaps 10.0.0.0/24 of network a, declared in /a"),
        ('subnet = "10.0.0.128/25"', "10.0.0.128/25 overlaps 10.0.0.0/24 of network a, declared in /a"),
        ('subnet6 = "fd00::/48"', "fd00::/48 overlaps fd00:0:0:1::/64 of network a, declared in /a"),
    ],
)
def test_networks_whose_subnets_overlap(second: str, says: str) -> None:
    first = '[networks.a]\nsubnet = "10.0.0.0/24"\nsubnet6 = "fd00:0:0:1::/64"\n'
    key = second.partition(" ")[0]
    assert wrong(f"{first}[networks.b]\n{second}\n") == [f"/a:5: networks.b.{key}: {says}"]
    assert wrong(first, f"[networks.b]\n{second}\n") == [f"/b0:2: networks.b.{key}: {says}"]


def test_each_subnet_within_another_is_told_once() -> None:
    subnets = ("10.1.1.0/24", "10.0.0.0/8", "10.2.0.0/16", "10.2.3.0/24", "11.0.0.0/24")
    text = "".join(f'[networks.n{number}]\nsubnet = "{subnet}"\n' for number, subnet in enumerate(subnets))
    assert [message.partition(",")[0] for message in wrong(text)] == [
        "/a:4: networks.n1.subnet: 10.0.0.0/8 overlaps 10.1.1.0/24 of network n0",
        "/a:6: networks.n2.subnet: 10.2.0.0/16 overlaps 10.0.0.0/8 of network n1",
        "/a:8: networks.n3.subnet: 10.2.3.0/24 overlaps 10.2.0.0/16 of network n2",
    ]


def test_network_that_two_files_declare_is_a_mistake_of_the_fleet() -> None:
    text = '[networks.a]\nsubnet = "10.0.0.0/24"\n'
    said = "/b:1: networks.a: is declared in /a as well"
    assert [error.message for error in parse_fleet({"/a": text, "/b": text})[1]] == [said]
    assert wrong(text, text) == [said.replace("/b", "/b0")]


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("aa,ip=10.99.0.3", "address 10.99.0.3: network aa has the subnet 10.60.0.0/24, and 10.99.0.3 is outside it"),
        ("aa,ip=10.60.0.3/25", "network aa has the subnet 10.60.0.0/24, and 10.60.0.3/25 is outside it"),
        ("aa,ip=10.60.0.1", "address 10.60.0.1: it is the host's own on aa"),
        ("aa,ip=10.60.0.255", "address 10.60.0.255: it stands for all of 10.60.0.0/24"),
        ("aa,ip=10.60.0.0", "address 10.60.0.0: it stands for all of 10.60.0.0/24"),
        ("aa,ip=fd00:1::1", "address fd00:1::1: it is the host's own on aa"),
        ("aa,ip=fd00:2::5", "address fd00:2::5: network aa has the subnet fd00:1::/64, and fd00:2::5 is outside it"),
        ("four,ip=fd00:2::5", "address fd00:2::5: network four has no IPv6"),
    ],
)
def test_address_that_the_network_does_not_have(link: str, says: str) -> None:
    (message,) = wrong(machines(f'bridges = ["machctl0", "{link}"]'))
    assert message.startswith("/a:10: machines.m0.bridges[1]: ")
    assert says in message


@pytest.mark.parametrize(
    "link", ["aa,ip=10.60.0.3", "aa,ip=10.60.0.3/24,ip=fd00:1::7", "four,ip=10.9.0.5", "aa,vlan=5,ip=10.99.0.3/24",
             "other,ip=10.99.0.3"],
)  # fmt: skip
def test_address_that_may_be_right(link: str) -> None:
    assert wrong(machines(f'bridges = ["{link}"]')) == []


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("bridges = ['aa,ip=10.60.0.3']", "bridges = ['aa,ip=10.60.0.3/24']", "address 10.60.0.3 of m1 is that of m0"),
        ("bridges = ['aa,ip=fd00:1::7']", "links = ['bridge:aa,ip=fd00:1:0::7']", "address fd00:1::7 of m1 is that"),
        ("links = ['zone:z,ip=10.1.0.5/24']", "bridges = ['vz-z,ip=10.1.0.5/24']", "address 10.1.0.5 of m1 is that"),
        (
            "bridges = ['aa,mac=02:00:00:00:00:05']",
            "bridges = ['aa,mac=02-00-00-00-00-05']",
            "MAC address 02:00:00:00:00:05 of m1 is that of m0",
        ),
        ("links = ['macvlan:e,ip=10.1.0.5/24']", "links = ['ipvlan:e,ip=10.1.0.5/24']", "address 10.1.0.5 of m1"),
        ("links = ['veth,ip=10.1.0.5/24']", "links = ['veth,ip=10.1.0.9/25']", "10.1.0.0/25 overlaps 10.1.0.0/24"),
        (
            "links = ['veth,ip=10.1.0.5']",
            "links = ['veth,ip=10.1.0.5']",
            "10.1.0.5/32 overlaps 10.1.0.5/32 of the veth",
        ),
        ("publish = ['8080:80']", "publish = ['127.0.0.1:8000-8200:1000-1200']", "is one of m0, declared in /a"),
    ],
)
def test_what_two_machines_cannot_both_have(first: str, second: str, says: str) -> None:
    (message,) = wrong(machines(first, second))
    assert message.startswith(f"/a:12: machines.m1.{second.partition(' ')[0]}[0]: ")
    assert says in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bridges = ['aa,ip=10.60.0.3']", "bridges = ['aa,ip=10.60.0.4']"),
        ("bridges = ['b,ip=10.1.0.3']", "bridges = ['c,ip=10.1.0.3']"),
        ("bridges = ['aa,mac=02:00:00:00:00:05']", "bridges = ['four,mac=02:00:00:00:00:05']"),
        ("bridges = ['b,vlan=5,ip=10.1.0.3/24']", "bridges = ['b,vlan=6,ip=10.1.0.3/24']"),
        ("links = ['zone:b,ip=10.1.0.3']", "bridges = ['b,ip=10.1.0.3']"),
        ("links = ['veth,mac=02:00:00:00:00:05']", "links = ['veth,mac=02:00:00:00:00:05']"),
        ("links = ['veth,ip=10.1.0.5']", "links = ['veth,ip=10.1.0.6']"),
        ("publish = ['127.0.0.1:80:80']", "publish = ['127.0.0.2:80:80', '127.0.0.1:80:80/udp']"),
    ],
)
def test_what_two_machines_can_have(first: str, second: str) -> None:
    assert wrong(machines(first, second)) == []


@pytest.mark.parametrize(
    ("key", "same", "says", "hint", "own"),
    [
        ("bridges", "aa,ip=10.60.0.3", "10.60.0.3 cannot be that", "=10.60.0.1{index}", "aa,ip=10.60.0.1{index}"),
        ("bridges", "aa,ip=fd00:1::7", "address fd00:1::7 cannot be", "ip=fd00:1::1{index}", "aa,ip=fd00:1::1{index}"),
        ("bridges", "b,mac=02:00:00:00:00:05", "cannot be that of", "0:0{index}", "b,mac=02:00:00:00:00:0{index}"),
        ("links", "veth,ip=10.1.0.5/24", "cannot be that of the veths of all", "{index}", "veth,ip=10.{index}.0.5/24"),
        ("publish", "8080:80", "port 8080:80 cannot be that of all", "808{index}:80", "808{index}:80"),
    ],
)  # fmt: skip
def test_what_replicas_cannot_all_have(key: str, same: str, says: str, hint: str, own: str) -> None:
    found = check_files({"/a": machines(f"replicas = 3\n{key} = ['{same}']")}).errors
    assert says in found[0].message
    assert found[0].message.startswith(f"/a:11: machines.m0.{key}[0]: ")
    assert hint in found[0].hint
    assert wrong(machines(f"replicas = 3\n{key} = ['{own}']")) == []


def test_what_a_profile_gives_to_two_is_told_where_it_stands() -> None:
    text = NETWORKS + "[profiles.p]\npublish = [\n'80',\n'81']\n[machines.m]\nprofiles = ['p']\npublish = ['82']\n"
    (message,) = wrong(text + "[machines.n]\nprofiles = ['p']\n[machines.o]\npublish = ['81']\n")[:1]
    assert message == "/a:11: profiles.p.publish[0]: port 80:80 of n is one of m, declared in /a"


def test_plan_says_what_check_says() -> None:
    host = FakeHost()
    declare(host, "a", 'publish = ["8080:80"]', 'bridges = ["lab,ip=10.1.0.5"]')
    declare(host, "b", 'publish = ["8080:81"]', 'bridges = ["lab,ip=10.1.0.5"]')
    host.files.texts["/etc/machctl/fleet.d/net.toml"] = (
        '[networks.lab]\nsubnet = "10.1.0.0/24"\n[networks.other]\nsubnet = "10.1.0.0/16"\n'
    )
    with pytest.raises(Several) as caught:
        fleet_plan([], host, verb="plan")
    assert caught.value.exit_code == 8
    checked = check_files(host.files.read_files(host.declarations)).errors
    assert sorted(error.message for error in caught.value.errors) == sorted(error.message for error in checked)
    assert len(checked) == 3
    assert all(isinstance(error, InvalidFile) for error in checked)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ('binds = [\n"/a:/x",\n"/b:/x:ro"]', "/a:11: machines.m0.binds[1]: /x of m0 is given twice, by binds"),
        (
            'binds = ["/a:/x"]\ntmpfs = ["/x"]',
            "/a:10: machines.m0.tmpfs[0]: /x of m0 is given twice, by binds and tmpfs",
        ),
        (
            'binds = ["/a:/dev/x"]\ndevices = ["/dev/x"]',
            "/a:10: machines.m0.devices[0]: /dev/x of m0 is given twice, by binds and devices",
        ),
    ],
)
def test_a_place_that_is_given_twice_is_told_once_where_it_is(said: str, wanted: str) -> None:
    text = '[defaults]\nsource = "debian"\n'
    lines = "\n" * 5
    assert wrong(f"{text}{lines}[machines.m0]\n{said}\n") == [wanted]
    (one, two) = wrong(f"{text}{lines}[machines.m0]\nbinds = ['no', '/a:/x', '/b:/x']\n")
    assert one.startswith("/a:9: machines.m0.binds")
    assert two.startswith("/a:9: machines.m0.binds")


@pytest.mark.usefixtures("as_root")
def test_what_makes_no_machine_goes_on_where_two_want_the_same(host: FakeHost) -> None:
    create(host, web(publish=(Publish(8080, 80),)))
    # So it is where a rename was killed that had written the one and not yet removed the other.
    declare(host, "site", 'publish = ["8080:80"]')
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert plan_down(["web"], host)[0] == {}
    with pytest.raises(InvalidFile, match="port 8080:80 of web is one of site"):
        declared_machines(host)
