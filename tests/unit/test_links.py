# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links of machines: what is said of them, the addresses they get, and how those of running machines follow."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from machines.cli.verbs.net import _kept
from machines.declare.fleet import parse_fleet
from machines.declare.links import format_link, parse_bridge, parse_link, with_addresses
from machines.errors import Conflict, InvalidValue
from machines.model.link import DEFAULT_LINKS, Attachment, inner_names
from machines.model.machine import Machine, Publish
from machines.model.names import bridge_unit, extra_link, own_link
from machines.model.network import Network
from machines.model.observed import Host, Link, Record
from machines.plan import steps
from machines.plan.check_links import check_links
from machines.plan.links import lost_ends
from machines.plan.machine import plan_machine, restart_note
from machines.plan.place import place
from machines.plan.remove import plan_remove
from machines.plan.rename import plan_rename
from machines.render import paths
from machines.render.links import wires
from samples import NETWORK, SUBNET, empty_host, host_with, kinds, machine, running, shown

ULA = ipaddress.IPv6Network("fd00:0:0:7::/64")
DUAL = replace(NETWORK, subnet6=ULA)


def linked(*texts: str, **values: Any) -> Machine:
    """A machine with these links."""
    return machine(links=tuple(map(parse_link, texts)), **values)


@pytest.mark.parametrize(
    "text",
    [
        "bridge:br0", "bridge:br0,vlan=20,ip=10.1.0.5/24,ip=fd00::5/64,gw=10.1.0.1,mac=02:00:00:00:00:05,name=lan0",
        "veth", "veth,ip=10.9.0.2", "zone:lab", "macvlan:eth0,ip=192.0.2.5/24", "ipvlan:eth0", "interface:eth1,name=x",
    ],
)  # fmt: skip
def test_link_is_read_as_it_is_written(text: str) -> None:
    assert format_link(parse_link(text)) == text.removeprefix("bridge:")


def test_bridge_needs_no_kind() -> None:
    assert parse_bridge("br0,vlan=20") == Attachment("bridge", "br0", vlan=20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tap:x", "there is no kind 'tap'"),
        ("zone", "where it leads"),
        ("veth:x", "has no target"),
        ("bridge:sixteen-chars-xx", "the kernel takes 15"),
        ("zone:thirteen-char", "13 characters"),
        ("bridge:br0,vlan=0", "not a VLAN"),
        ("bridge:br0,vlan=4095", "not a VLAN"),
        ("macvlan:eth0,vlan=5", "only a bridge"),
        ("ipvlan:eth0,mac=02:00:00:00:00:05", "MAC address of its parent"),
        ("veth,mac=1:2:3", "not a MAC"),
        ("veth,mac=01:00:00:00:00:05", "no single link's"),
        ("veth,ip=10.1.0.300", "not an address"),
        ("veth,ip=10.1.0.0/24", "whole network"),
        ("veth,ip=10.1.0.255/24", "whole network"),
        ("veth,ip=127.0.0.1", "no link can have"),
        ("veth,ip=10.1.0.5,ip=10.1.0.6", "two IPv4"),
        ("veth,ip=10.1.0.5/24,gw=10.2.0.1", "not in a network"),
        ("veth,name=all", "not a link name"),
        ("veth,colour=red", "not an option"),
        ("veth,vlan", "not an option"),
        ("veth,mac=02:00:00:00:00:05,mac=02:00:00:00:00:06", "given twice"),
    ],
)
def test_bad_link_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says) as raised:
        parse_link(text)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('links = ["veth", "veth"]', "veth of web is given twice"),
        ('bridges = ["br0", "br0"]', "bridge br0 of web is given twice"),
        ('links = ["macvlan:eth0", "ipvlan:eth0"]', "cannot be ipvlan and macvlan at once"),
        ('links = ["macvlan:eth0,ip=192.0.2.5"]', "how long its prefix is"),
        ('links = ["veth,mac=02:00:00:00:00:05", "zone:a,mac=02:00:00:00:00:05"]', "the MAC address"),
        ('links = ["veth,name=up0", "zone:a,name=up0"]', "the name up0"),
        ('network = "host"\nlinks = ["veth"]', "links besides"),
        ('network = "none"\npublish = ["8080:80"]', "publishes ports"),
        ('network = "host"\npublish = ["80:80"]', "none below 1024"),
        ('links = ["macvlan:eth0"]\npublish = ["8080:80"]', "the host passes nothing on by macvlan"),
        ('links = ["bridge:br0,vlan=5"]\npublish = ["8080:80"]', "the host passes nothing on by a VLAN"),
        ('network = "lan"', "'lan' is not what a network can be"),
    ],
)
def test_links_that_do_not_go_together(text: str, says: str) -> None:
    _, errors = parse_fleet({"/etc/machctl/fleet.toml": f'[machines.web]\nsource = "debian"\n{text}\n'})
    assert any(says in error.message for error in errors), errors


def test_none_of_its_own_is_the_default_one() -> None:
    text = '[machines.a]\nsource = "debian"\n[machines.b]\nsource = "debian"\nnetwork = "none"\n'
    machines, errors = parse_fleet({"/etc/machctl/fleet.toml": text})
    assert errors == []
    assert (machines["a"].links, machines["b"].links) == (DEFAULT_LINKS, ())


def test_names_inside() -> None:
    found = inner_names(linked("macvlan:eth0", "bridge:br0", "zone:lab,name=z", "interface:eth1", "veth").links)
    assert found == ("mv-eth0", "host1", "z", "eth1", "host4")


@pytest.mark.parametrize(
    ("texts", "inner", "outer"),
    [
        (("bridge:br0", "zone:lab"), ("host0", "host1"), ("vb-web", "vb1-web")),
        (("bridge:br0,name=host1", "zone:lab"), ("host1", "host0"), ("vb1-web", "vb-web")),
        (("bridge:br0,name=host1", "bridge:br1,vlan=5"), ("host1", "host0"), ("vb1-web", "vb0-web")),
        (
            ("bridge:br0", "zone:lab,name=host2", "bridge:br1"),
            ("host0", "host2", "host1"),
            ("vb-web", "vb2-web", "vb1-web"),
        ),
        (("bridge:br0", "zone:lab,name=host0"), ("host1", "host0"), ("vb1-web", "vb-web")),
        (("bridge:br0,name=lan", "zone:lab"), ("lan", "host1"), ("vb3927-web", "vb1-web")),
        (("bridge:br0,name=host1", "zone:lab,name=lan"), ("host1", "lan"), ("vb1-web", "vb3927-web")),
        (("interface:host1", "zone:lab"), ("host1", "host0"), ("", "vb-web")),
    ],
)
def test_link_gets_a_name_that_no_other_has(
    texts: tuple[str, ...], inner: tuple[str, ...], outer: tuple[str, ...]
) -> None:
    declared = linked(*texts)
    found = wires(declared, place(declared, empty_host()))
    assert (tuple(wire.inner for wire in found), tuple(wire.outer for wire in found)) == (inner, outer)


def test_a_link_keeps_its_end_while_others_come_and_go() -> None:
    links = {"host0": "bridge:br0", "lan": "bridge:br1,name=lan", "dmz": "zone:z,name=dmz", "host3": "bridge:br3"}
    every = made(*links.values())
    assert list(every) == list(links)
    assert len(set(every.values())) == len(every)
    for gone in ("lan", "dmz"):
        left = [f"{text},name=host3" if name == "host3" else text for name, text in links.items() if name != gone]
        assert made(*left) == {name: end for name, end in every.items() if name != gone}


def made(*texts: str) -> dict[str, str]:
    declared = linked(*texts)
    return {wire.inner: wire.outer for wire in wires(declared, place(declared, empty_host()))}


def test_links_that_stay_keep_their_names_when_others_come_and_go() -> None:
    links = linked("bridge:br0", "zone:lab").links
    assert _kept(links, (0, 1), (Attachment("veth"),)) == (
        links[0],
        parse_link("zone:lab,name=host1"),
        Attachment("veth"),
    )
    assert _kept(links, (1,)) == (parse_link("zone:lab,name=host1"),)
    named = linked("bridge:br0", "zone:lab,name=host0").links
    assert _kept(named, (0,)) == (parse_link("bridge:br0,name=host1"),)
    # What asks for the name of a link that is there is refused, and takes it from nobody.
    assert inner_names(_kept(links[:1], (0,), (parse_link("veth,name=host0"),))) == ("host0", "host0")


def test_link_that_comes_after_the_first_went_leaves_the_other_alone() -> None:
    host = live(linked("bridge:br0", "zone:lab"), "host1", links={"br0": Link("br0", "bridge")})
    plan = plan_machine(linked("zone:lab,name=host1", "bridge:br1"), host)
    (step,) = [step for step in plan if isinstance(step, steps.AttachLink)]
    assert (step.link, step.make) == ("host0", "link add vb-web type veth peer name host0 netns {leader}")


def test_address_of_the_command_line_is_the_first_links() -> None:
    first, second = with_addresses((Attachment("veth"), Attachment("zone", "lab")), ("10.9.0.2", "fd00::2/64"))
    assert (first.addresses, second.addresses) == (("10.9.0.2", "fd00::2/64"), ())
    with pytest.raises(InvalidValue, match="two IPv4"):
        with_addresses((first,), ("10.9.0.3",))


# --- addresses ---


def test_chosen_address_is_had_and_makes_the_subnet_of_a_new_network() -> None:
    found = place(linked("bridge:new,ip=10.9.8.7/24,ip=fd09::7/64"), empty_host(machine_id="x"))
    assert found.networks["new"].subnet == ipaddress.IPv4Network("10.9.8.0/24")
    assert found.networks["new"].subnet6 == ipaddress.IPv6Network("fd09::/64")
    assert (found.addresses, found.addresses6) == ({"new": "10.9.8.7"}, {"new": "fd09::7"})


def test_both_families_have_the_same_number() -> None:
    host = empty_host(networks={"br0": DUAL}, records={"db": Record("db", {"br0": "10.64.7.2"})})
    found = place(machine(), host)
    assert (found.addresses["br0"], found.addresses6["br0"]) == ("10.64.7.3", "fd00:0:0:7::3")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("10.64.8.2", "outside it"),
        ("10.64.7.5/25", "outside it"),
        ("10.64.7.1", "the host's own"),
        ("10.64.7.255", "stands for all"),
        ("10.64.7.2", "belongs to machine db"),
        ("fd00:0:0:7::1", "the host's own"),
        ("fd00::5", "outside it"),
    ],
)
def test_address_that_cannot_be_had(address: str, says: str) -> None:
    host = empty_host(networks={"br0": DUAL}, records={"db": Record("db", {"br0": "10.64.7.2"})})
    with pytest.raises(Conflict, match=says):
        place(machine(links=(Attachment("bridge", "br0", addresses=(address,)),)), host)


def test_chosen_subnet_that_somebody_has() -> None:
    declared = linked("bridge:new,ip=10.64.7.9/24")
    with pytest.raises(Conflict, match="network br0 has"):
        place(declared, empty_host(networks={"br0": NETWORK}))
    with pytest.raises(Conflict, match="a route of this host has"):
        place(declared, empty_host(routes={ipaddress.IPv4Network("10.64.0.0/16"): "tun0"}))
    with pytest.raises(Conflict, match="has no IPv6"):
        place(linked("bridge:br0,ip=fd00::5"), empty_host(networks={"br0": NETWORK}))


@pytest.mark.parametrize("address", ["10.1.0.4/31", "fd00::5/127", "10.1.0.4/4", "fd00::5/16"])
def test_subnet_of_a_chosen_address_that_no_network_can_have(address: str) -> None:
    with pytest.raises(Conflict, match="with a prefix of"):
        place(linked(f"bridge:new,ip={address}"), empty_host())


def test_link_in_a_vlan_has_no_address_of_the_network() -> None:
    found = place(linked("bridge:br0,vlan=20,ip=10.1.0.5/24"), empty_host(networks={"br0": NETWORK}))
    assert (set(found.networks), found.addresses) == ({"br0"}, {})


def test_veth_and_zone_are_networks_of_their_own() -> None:
    found = place(linked("veth", "zone:lab"), empty_host())
    assert {name: network.kind for name, network in found.networks.items()} == {"ve-web": "veth", "vz-lab": "zone"}
    assert own_link("a-very-long-name") == "ve-c247f340"


# --- what the host cannot make ---


def checked(host: Host, *texts: str) -> str:
    return " ".join(error.message for error in check_links(linked(*texts), host, {}))


def test_what_the_host_cannot_make_is_said() -> None:
    plain, keeps, cannot = (
        Link("lan0", "bridge", vlans=False),
        Link("lan0", "bridge", vlans=True),
        Link("lan0", "bridge"),
    )
    assert "no interface eth9" in checked(empty_host(), "macvlan:eth9")
    assert "it is a veth link" in checked(empty_host(links={"lan0": Link("lan0", "veth")}), "bridge:lan0")
    assert "does not keep VLANs apart" in checked(empty_host(links={"lan0": plain}), "bridge:lan0,vlan=5")
    assert "keeps no VLANs of bridges apart" in checked(empty_host(links={"lan0": cannot}), "bridge:lan0,vlan=5")
    assert checked(empty_host(links={"lan0": keeps}), "bridge:lan0,vlan=5") == ""
    assert "does not know its subnet" in checked(empty_host(links={"lan0": keeps}), "bridge:lan0,ip=10.1.0.5")
    eth0 = {"eth0": Link("eth0", "")}
    assert "gives a macvlan no other name" in checked(empty_host(links=eth0, systemd=252), "macvlan:eth0,name=x")
    assert checked(empty_host(links=eth0, systemd=257), "macvlan:eth0,name=x") == ""


# --- running machines ---


def live(declared: Machine, *inner: str, **values: Any) -> Host:
    """A host on which ``declared`` runs and has these links."""
    return running(host_with(declared, inner_links={"web": frozenset({"lo", *inner})}, **values), "web")


def test_links_that_are_there_are_left_alone() -> None:
    declared = linked("bridge:br0", "veth")
    assert not [step for step in plan_machine(declared, live(declared, "host0", "host1")) if "link" in str(step)]


def test_an_end_that_rules_name_and_that_is_not_there_wants_a_restart() -> None:
    declared = replace(linked("bridge:br0", "bridge:br1,name=lan"), isolated=True)
    ends = {wire.inner: wire.outer for wire in wires(declared, place(declared, empty_host()))}
    every = {name: Link(name, "") for name in ends.values()}
    host = live(declared, "host0", "lan", links=every)
    assert lost_ends(declared, [], host) == []
    there = replace(host, links={"vb-web": every["vb-web"]})
    assert lost_ends(declared, [], there) == ["the end of lan on the host"]
    made = steps.AttachLink(reason="", machine="web", link="lan", make="", outside=(), inside=())
    assert lost_ends(declared, [made], there) == []
    for other in (replace(there, running={}), replace(there, inner_links={})):
        assert lost_ends(declared, [], other) == []
    assert lost_ends(replace(declared, isolated=False), [], there) == []


def test_link_that_is_declared_is_attached() -> None:
    host = live(linked("bridge:br0"), "host0", links={"br0": Link("br0", "bridge"), "eth0": Link("eth0", "")})
    plan = plan_machine(linked("bridge:br0", "bridge:br0,vlan=20,name=x", "macvlan:eth0", "interface:eth1"), host)
    made = {step.link: step.make for step in plan if isinstance(step, steps.AttachLink)}
    assert made == {
        "x": "link add vb5923-web type veth peer name x netns {leader}",
        "mv-eth0": "link add link eth0 name mv-eth0 netns {leader} type macvlan mode bridge",
        "eth1": "link set eth1 netns {leader} name eth1",
    }
    (vlan,) = [step for step in plan if isinstance(step, steps.AttachLink) and step.link == "x"]
    assert vlan.outside[1] == f"ip link set {extra_link('web', 5923)} master br0 up"
    # A claim is recorded before anything is made, and its file is there before the link.
    paths_written = [getattr(step, "path", "") for step in plan]
    assert paths_written.index(paths.guest_network_file("web", "x")) < kinds(plan).index(steps.AttachLink)


def test_first_link_is_attached_under_the_name_that_rules_have() -> None:
    host = live(linked("veth"), "host0", links={"br0": Link("br0", "bridge")})
    (step,) = [one for one in plan_machine(linked("bridge:br0"), host) if isinstance(one, steps.AttachLink)]
    assert step.make == "link add vb-web type veth peer name host0 netns {leader}"
    assert "ip link set vb-web master br0 up" in step.outside


def test_link_that_is_no_longer_declared_is_detached() -> None:
    host = live(linked("bridge:br0", "interface:eth1", "macvlan:eth0"), "host0", "eth1", "mv-eth0", "wg0")
    host = replace(host, active=host.active | {bridge_unit("eth1"), bridge_unit("eth0")})
    plan = plan_machine(linked("bridge:br0", "macvlan:eth0"), host)
    assert [(step.link, step.parent) for step in plan if isinstance(step, steps.DetachLink)] == [("eth1", "eth1")]
    assert f"stop {bridge_unit('eth1')}" in shown(plan)
    assert f"stop {bridge_unit('eth0')}" not in shown(plan)


def test_link_that_leads_elsewhere_is_made_anew() -> None:
    host = live(linked("veth"), "host0")
    plan = plan_machine(linked("bridge:br0"), host)
    assert kinds(plan).index(steps.DetachLink) < kinds(plan).index(steps.AttachLink)


def test_machine_that_is_removed_waits_for_no_interface() -> None:
    declared = linked("macvlan:eth0")
    host = host_with(declared)
    host = replace(host, active=host.active | {bridge_unit("eth0")})
    assert f"stop {bridge_unit('eth0')}" in shown(plan_remove("web", host, {"web": declared}))
    other = replace(declared, name="db", origin="/etc/machctl/fleet.d/db.toml")
    assert f"stop {bridge_unit('eth0')}" not in shown(plan_remove("web", host, {"web": declared, "db": other}))


def test_port_leads_over_the_first_link_with_an_address() -> None:
    declared = linked("macvlan:eth0", "bridge:br0", publish=(Publish(8080, 80),))
    assert place(declared, empty_host(networks={"br0": Network("br0", SUBNET)})).addresses == {"br0": "10.64.7.2"}


def test_machine_keeps_its_addresses_when_it_is_renamed() -> None:
    declared = linked("veth")
    host = host_with(declared, machine_id="x")
    address = host.records["web"].addresses["ve-web"]
    network = place(declared, host).networks["ve-web"]
    host = replace(host, networks={**host.networks, "ve-web": network})
    plan = plan_rename("web", "site", host, {"web": declared})
    claims = [step.record for step in plan if isinstance(step, steps.Claim) and step.machine == "site"]
    assert claims[0].addresses == {"ve-site": address}
    assert [step.network.subnet for step in plan if isinstance(step, steps.ClaimNetwork)] == [network.subnet]
    assert "remove /var/lib/machctl/networks/ve-web.json" in shown(plan)


def test_link_that_is_given_at_once_waits_for_no_restart() -> None:
    host = live(linked("bridge:br0"), "host0")
    assert restart_note(plan_machine(linked("bridge:br0", "zone:lab"), host), host) == []
    later = linked("bridge:br0", "zone:lab", hostname="other")
    assert restart_note(plan_machine(later, host), host) == ["web"]


def test_machine_with_a_long_name_is_shut_off_from_its_bridge_at_its_next_start() -> None:
    for name, wanted in (("customer-alpha", ["customer-alpha"]), ("web", [])):
        host = running(host_with(machine(name)), name)
        assert restart_note(plan_machine(machine(name, isolated=True), host), host) == wanted


def test_what_a_neighbour_has_is_said() -> None:
    eth0 = empty_host(links={"eth0": Link("eth0", "")})
    other = linked("macvlan:eth0,ip=192.0.2.5/24,mac=02:00:00:00:00:05", name="db")
    same = linked("macvlan:eth0,ip=192.0.2.5/24")
    (error,) = check_links(same, eth0, {"db": other})
    assert "machine db has 192.0.2.5 there" in error.message
    assert not check_links(linked("macvlan:eth0,ip=192.0.2.6/24"), eth0, {"db": other})


@pytest.mark.parametrize(
    ("text", "mac"),
    [("bridge:br0", "02:6d:0a:40:00:09"), ("bridge:br0,mac=02:00:00:00:00:05", "02:00:00:00:00:05"), ("veth", None)],
)
def test_mac_goes_with_the_address(text: str, mac: str | None) -> None:
    placement = place(linked(text), host_with(networks={"br0": NETWORK}, records={}))
    placement = replace(placement, addresses={"br0": "10.64.0.9"})
    (wire,) = wires(linked(text), placement)
    assert wire.mac == mac
