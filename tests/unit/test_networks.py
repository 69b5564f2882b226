# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks: how they are declared, what stands in their way, and the plan that makes and removes them."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.declare.fleet import parse_fleet
from machines.declare.networks import (
    check_network,
    own_network_file,
    parse_mtu,
    parse_networks,
    parse_subnet,
    parse_subnet6,
    write_network,
)
from machines.errors import Conflict, InvalidValue
from machines.model.network import (
    DeclaredNetwork,
    Network,
    choose_address,
    choose_address6,
    choose_subnet,
    choose_subnet6,
)
from machines.model.observed import Host, Link
from machines.plan import steps
from machines.plan.bridges import enabled_path
from machines.plan.machine import plan_machine
from machines.plan.networks import (
    as_done,
    check_networks,
    plan_network,
    plan_remove_network,
    plan_undeclared,
    resolve,
)
from machines.render import paths
from machines.render.networks import render_bridge
from samples import empty_host, kinds, machine, shown

V4 = ipaddress.IPv4Network
V6 = ipaddress.IPv6Network
FILE = "/etc/machctl/fleet.d/network-lab.toml"


def declared(name: str = "lab", **values: Any) -> DeclaredNetwork:
    return DeclaredNetwork(**{"name": name, "origin": own_network_file(name), **values})


def made(network: DeclaredNetwork, host: Host | None = None) -> Host:
    host = host or empty_host()
    return as_done(host, plan_network(resolve(network, host), host, declaration=write_network(network)))


def read(text: str) -> DeclaredNetwork:
    networks, errors = parse_networks({FILE: text})
    assert errors == []
    return networks["lab"]


ANY = st.builds(
    DeclaredNetwork,
    name=st.sampled_from(["lab", "a.b-c_1", "x"]),
    origin=st.just(FILE),
    mode=st.sampled_from(["nat", "routed", "isolated"]),
    subnet=st.sampled_from([None, V4("10.1.0.0/24"), V4("192.168.0.0/29"), V4("172.16.0.0/16")]),
    subnet6=st.sampled_from([None, V6("fd00:1::/64")]),
    dhcp=st.booleans(),
    dns=st.booleans(),
    mtu=st.sampled_from([None, 1280, 9000]),
    reach=st.sampled_from([(), ("other",), ("other", "third")]),
)


@given(ANY)
def test_what_is_written_is_read_back(network: DeclaredNetwork) -> None:
    found, errors = parse_networks({FILE: write_network(network)})
    assert errors == []
    assert found == {network.name: network}


def test_network_without_ipv6_is_read_back() -> None:
    network = declared(ipv6=False)
    assert read(write_network(network)) == network


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("subnet = '10.1.0.1/24'", "'10.1.0.1/24' is not a subnet"),
        ("subnet = '10.1.0.0/30'", "has a prefix of 30 bits"),
        ("subnet = '127.0.0.0/24'", "is not one that hosts can have"),
        ("subnet = '224.0.0.0/24'", "is not one that hosts can have"),
        ("subnet = 'fd00::/64'", "is not a subnet"),
        ("subnet6 = 'fe80::/64'", "is not one that hosts can have"),
        ("subnet6 = '10.1.0.0/24'", "is not a subnet"),
        ("mode = 'bridged'", "'bridged' is no mode of a network"),
        ("mtu = 100", "'100' is not an MTU"),
        ("mtu = 1000", "is too small for IPv6"),
        ("mtu = true", "must be a number"),
        ("dhcp = 'yes'", "must be true or false"),
        ("reach = ['lab']", "reaches itself anyway"),
        ("reach = ['a/b']", "is not a network name"),
        ("ipv6 = false\nsubnet6 = 'fd00:1::/64'", "has a subnet6 and no IPv6"),
        ("subnets = '10.1.0.0/24'", "is not a key of this table"),
    ],
)
def test_error_says_file_key_and_value(line: str, says: str) -> None:
    networks, errors = parse_networks({FILE: f"[networks.lab]\n{line}\n"})
    assert networks == {}
    assert len(errors) == 1
    assert re.match(rf"{FILE}:[12]: networks\.lab", errors[0].message)
    assert says in errors[0].message
    # Whoever reads the machines in that file hears of it as well.
    assert [error.message for error in parse_fleet({FILE: f"[networks.lab]\n{line}\n"})[1]] == [errors[0].message]


@pytest.mark.parametrize("name", ["lab/x", "0123456789abcdef", "all", "12"])
def test_name_is_one_of_a_link(name: str) -> None:
    assert check_network(DeclaredNetwork(name))


def test_network_declared_twice_is_named_with_both_files() -> None:
    _, errors = parse_networks({"/a": "[networks.lab]", "/b": "[networks.lab]"})
    assert [error.message for error in errors] == ["/b:1: networks.lab: is declared in /a as well"]


def test_machines_and_networks_stand_in_one_file() -> None:
    text = "[machines.web]\nsource = 'debian:trixie'\nbridges = ['lab']\n[networks.lab]\nsubnet = '10.1.0.0/24'\n"
    machines, errors = parse_fleet({"/x": text})
    assert errors == []
    assert machines["web"].bridges == ("lab",)
    assert parse_networks({"/x": text})[0]["lab"].subnet == V4("10.1.0.0/24")


@pytest.mark.parametrize("text", ["", "10.1.0.0", "10.1.0.0/33", "x/24", "0.0.0.0/8", "240.0.0.0/8", "169.254.0.0/16"])
def test_no_subnet(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_subnet(text)


@pytest.mark.parametrize("text", ["", "::/0", "::1/128", "ff02::/64", "fd00::1/64", "fd00::/16", "fd00::/127"])
def test_no_subnet6(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_subnet6(text)


@pytest.mark.parametrize("text", ["", "575", "65536", "-1500", "1500.5", "1500\u0660", "9" * 5000])
def test_no_mtu(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_mtu(text)


def test_hint_gives_the_subnet_that_was_meant() -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_subnet("10.1.2.3/24")
    assert caught.value.hint == "write it as 10.1.2.0/24"


def test_subnets_are_chosen_where_nobody_is_and_the_same_each_time() -> None:
    assert choose_subnet("lab", []) == choose_subnet("lab", [])
    assert choose_subnet6("lab", "seed", []) == choose_subnet6("lab", "seed", [])
    assert choose_subnet6("lab", "seed", []) != choose_subnet6("lab", "another", [])
    first = choose_subnet6("lab", "seed", [])
    assert not choose_subnet6("lab", "seed", [first]).overlaps(first)
    assert choose_subnet("lab", [V4("10.0.0.0/8")]).subnet_of(V4("172.16.0.0/12"))
    assert choose_subnet("lab", [V4("10.0.0.0/8"), V4("172.16.0.0/12")]).subnet_of(V4("192.168.0.0/16"))


def test_search_for_an_ipv6_subnet_or_address_ends() -> None:
    with pytest.raises(Conflict, match="no free IPv6 subnet"):
        choose_subnet6("lab", "seed", [V6("fd00::/8")])
    network = Network("lab", V4("10.1.0.0/24"), V6("fd00:1::/120"))
    taken = {f"fd00:1::{number:x}" for number in range(2, 255)}
    assert choose_address6(network, "10.1.0.17", taken) == "fd00:1::ff"
    with pytest.raises(Conflict, match="no free IPv6 address"):
        choose_address6(network, "10.1.0.17", {*taken, "fd00:1::ff"})


@given(st.text(max_size=15), st.text(max_size=32))
def test_ipv6_subnet_is_a_unique_local_one(name: str, seed: str) -> None:
    subnet = choose_subnet6(name, seed, [])
    assert subnet.prefixlen == 64
    assert subnet.subnet_of(V6("fd00::/8"))


@pytest.mark.parametrize(
    ("prefix", "offset", "size", "fixed"), [(24, 128, 100, 126), (29, 4, 3, 2), (16, 32768, 100, 0)]
)
def test_fixed_addresses_and_leases_do_not_meet(prefix: int, offset: int, size: int, fixed: int) -> None:
    network = Network("lab", V4(f"10.1.0.0/{prefix}"))
    assert (network.dhcp_offset, network.dhcp_size) == (offset, size)
    assert network.dhcp_offset + network.dhcp_size < network.subnet.num_addresses
    taken: dict[str, str] = {}
    for _ in range(fixed):
        taken[choose_address(network, taken)] = "x"
    if fixed:
        with pytest.raises(Conflict, match=f"{fixed} machines are on it"):
            choose_address(network, taken)


def test_ipv6_address_has_the_number_of_the_ipv4_one() -> None:
    network = Network("lab", V4("10.1.0.0/24"), V6("fd00:1::/64"))
    assert choose_address6(network, "10.1.0.17", ()) == "fd00:1::11"
    assert choose_address6(network, "10.1.0.17", {"fd00:1::11"}) == "fd00:1::12"
    assert choose_address6(Network("lab", V4("10.1.0.0/24")), "10.1.0.17", ()) is None


def test_network_keeps_what_it_has_and_follows_what_is_declared() -> None:
    first = resolve(declared(), empty_host(machine_id="a"))
    host = empty_host(networks={"lab": first}, machine_id="b", routes={first.subnet: "lab"})
    assert resolve(declared(mode="isolated", mtu=1400), host) == dataclasses.replace(first, mode="isolated", mtu=1400)
    assert resolve(declared(subnet=V4("10.9.0.0/24")), host).subnet == V4("10.9.0.0/24")
    assert resolve(declared(ipv6=False), host).subnet6 is None
    assert resolve(declared(), empty_host(ipv6=False)).subnet6 is None


def test_network_is_declared_recorded_and_made() -> None:
    host, network = empty_host(), declared(subnet=V4("10.1.0.0/24"))
    plan = plan_network(resolve(network, host), host, declaration=write_network(network))
    assert shown(plan)[:2] == [f"write {FILE}", "record bridge lab with subnet 10.1.0.0/24"]
    assert shown(plan)[-4:] == [
        "reload systemd-networkd",
        "start machctl-bridge@lab.service",
        "enable machctl-bridge@lab.service",
        "load the nft table inet machctl",
    ]


def test_network_that_is_as_declared_needs_nothing() -> None:
    network = declared(subnet=V4("10.1.0.0/24"))
    host = made(network)
    unit = "/etc/systemd/system/multi-user.target.wants/machctl-bridge@lab.service"
    host = dataclasses.replace(host, files={**host.files, unit: "[Unit]"})
    assert plan_network(resolve(network, host), host) == []
    assert check_networks({"lab": network}, host, ["lab"]) == []
    changed = plan_network(resolve(dataclasses.replace(network, mtu=1400), host), host)
    assert "-mtu None\n+mtu 1400" in [step.detail for step in changed]
    assert "restart machctl-bridge@lab.service" in shown(changed)


@pytest.mark.parametrize("networkd", [True, False])
def test_machine_on_a_declared_network_finds_all_of_it(networkd: bool) -> None:
    host = made(declared(subnet=V4("10.1.0.0/24"), mode="isolated"), empty_host(networkd=networkd))
    plan = plan_machine(machine(bridges=("lab",)), host)
    assert steps.ClaimNetwork not in kinds(plan)
    assert not [line for line in shown(plan) if "lab" in line and line.startswith("write")]
    (claim,) = [step for step in plan if isinstance(step, steps.Claim)]
    assert claim.record.addresses == {"lab": "10.1.0.2"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"routes": {V4("10.1.0.0/16"): "tun0"}}, "overlaps 10.1.0.0/16, to which this host has a route by tun0"),
        ({"networks": {"br0": Network("br0", V4("10.1.0.0/25"))}}, "overlaps 10.1.0.0/25 of network br0"),
        ({"routes6": {V6("fd00::/16"): "wg0"}}, "overlaps fd00::/16, to which this host has a route by wg0"),
        ({"links": {"lab": Link("lab", "bridge")}}, "there is a bridge link lab already"),
        ({"links": {"lab": Link("lab", "veth")}}, "there is a veth link lab already"),
    ],
)
def test_collision_names_who_is_in_the_way(values: dict[str, Any], says: str) -> None:
    network = declared(subnet=V4("10.1.0.0/24"), subnet6=V6("fd00:1::/64"))
    errors = check_networks({"lab": network}, empty_host(**values), ["lab"])
    assert len(errors) == 1
    assert says in errors[0].message


def test_two_declarations_that_overlap_are_found_before_either_is_made() -> None:
    networks = {"lab": declared(subnet=V4("10.1.0.0/24")), "all": declared("all0", subnet=V4("10.0.0.0/8"))}
    messages = [error.message for error in check_networks(networks, empty_host(), ["lab"])]
    assert messages == ["subnet 10.1.0.0/24 of network lab overlaps 10.0.0.0/8 of network all"]


def test_two_declarations_that_overlap_are_told_once() -> None:
    networks = {"all": declared("all", subnet=V4("10.0.0.0/8")), "lab": declared(subnet=V4("10.1.0.0/24"))}
    (error,) = check_networks(networks, empty_host(), list(networks))
    assert error.message == "subnet 10.0.0.0/8 of network all overlaps 10.1.0.0/24 of network lab"


def test_own_bridge_is_no_collision() -> None:
    network = declared(subnet=V4("10.1.0.0/24"))
    host = dataclasses.replace(made(network), routes={V4("10.1.0.0/24"): "lab"})
    assert check_networks({"lab": network}, host, ["lab"]) == []


def test_network_to_reach_has_to_be_there() -> None:
    (error,) = check_networks({"lab": declared(reach=("back",))}, empty_host(), ["lab"])
    assert error.message == "network lab is to reach back, and there is no such network"
    lab = declared(reach=("front", "back"), origin="/f")
    host = empty_host(files={"/f": '[networks.lab]\nreach = [\n"front",\n"back"]\n[networks.front]\n'})
    (error,) = check_networks({"lab": lab, "front": declared("front")}, host, ["lab"])
    said = "network lab is to reach back, and there is no such network"
    assert error.message == f"/f:4: networks.lab.reach[1]: {said}"
    assert error.hint == "write [networks.back], run: machctl network create back, or leave it out"


def test_network_that_is_no_longer_declared_stays_for_its_machines() -> None:
    host = made(declared(subnet=V4("10.1.0.0/24"), mode="isolated"))
    host = dataclasses.replace(host, files={**host.files, enabled_path("machctl-bridge@lab.service"): ""})
    claim, disable = plan_undeclared({}, host)["lab"]
    assert isinstance(claim, steps.ClaimNetwork)
    assert claim.network.origin == ""
    assert claim.network.subnet == V4("10.1.0.0/24")
    assert claim.network.mode == "nat"
    assert plan_undeclared({"lab": declared()}, host) == {}
    # Killed in between: it would come up at boot for ever.
    killed = as_done(host, [claim])
    assert plan_undeclared({}, killed) == {"lab": [dataclasses.replace(disable, reason="it is no longer declared")]}
    assert plan_undeclared({}, as_done(killed, [disable])) == {}


def test_removed_network_leaves_nothing() -> None:
    host = made(declared())
    plan = plan_remove_network("lab", host)
    removed = {step.path for step in plan if isinstance(step, steps.RemoveFile)}
    assert set(host.files) <= removed
    assert paths.network_record("lab") in removed
    assert steps.RemoveLink in kinds(plan)


@pytest.mark.parametrize(
    ("values", "lines", "none"),
    [
        ({}, {"DHCPServer=yes", "PoolOffset=128", "PoolSize=100", "DNS=192.0.2.53"}, {"MTUBytes", "EmitRouter"}),
        ({"dhcp": False}, set(), {"DHCPServer", "PoolOffset"}),
        ({"mtu": 1400}, {"MTUBytes=1400"}, set()),
        ({"mode": "isolated"}, {"EmitRouter=no"}, set()),
        ({"subnet6": V6("fd00:1::/64")}, {"Address=10.1.0.1/24", "Address=fd00:1::1/64"}, set()),
    ],
)
def test_networkd_is_told(values: dict[str, Any], lines: set[str], none: set[str]) -> None:
    network = Network("lab", V4("10.1.0.0/24"), **values)
    text = render_bridge(network, networkd=True, dns=("192.0.2.53", "2001:db8::53"))[
        "/etc/systemd/network/70-machctl-lab.network"
    ]
    found = set(text.splitlines())
    assert lines <= found
    assert not [line for line in found if line.split("=")[0] in none]
    assert {"ConfigureWithoutCarrier=yes", "IPv6AcceptRA=no"} <= found
