# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports: how each answers, who has it already, what opens and closes it; and what a machine may reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from machines.cli.verbs import change
from machines.declare.ports import check_ports as check_declared
from machines.declare.values import parse_publish
from machines.errors import InvalidValue, NotFound, Several
from machines.model.ids import spread
from machines.model.link import Attachment
from machines.model.machine import Machine, Publish
from machines.model.observed import Listener
from machines.model.publish import Egress
from machines.operations.firewall import docker_rules
from machines.operations.ports import published, unpublished
from machines.plan import steps
from machines.plan.check import check_machine
from machines.plan.machine import plan_machine
from machines.plan.ports import given_up
from machines.plan.remove import plan_remove
from machines.plan.rename import plan_rename
from machines.render import paths
from machines.render.machine import render_machine
from machines.render.ports import ways
from samples import empty_host, host_with, machine, placed, running, shown

V6 = {"br0": "fd00::2"}
NAT = f"{paths.NAT_DIRECTORY}/machine-web.nft"


def rules(declared: Machine, **values: Any) -> list[str]:
    """The rules of a machine without what goes before and behind each."""
    text = render_machine(declared, placed(addresses6=V6, **values)).get(NAT, "")
    return [
        line.removeprefix("add rule ").rpartition(" comment ")[0]
        for line in text.splitlines()
        if line.startswith("add rule ")
    ]


# --- how a port answers ---


def test_port_of_every_address_is_the_kernels_but_for_loopback() -> None:
    way = ways(Publish(8080, 80), machine(), placed(addresses6=V6))
    assert way.listen == ("127.0.0.1", "[::1]")
    assert way.match4.startswith("meta nfproto ipv4 ")
    assert way.match6.startswith("meta nfproto ipv6 ")
    assert (way.local, way.lost, way.seen) == ("", (), "127.0.0.1 and [::1]")


def test_machine_without_ipv6_has_a_proxy_for_it() -> None:
    assert ways(Publish(8080, 80), machine(), placed()).listen == ("127.0.0.1", "[::]")
    assert ways(Publish(8080, 80), machine(), placed(ipv6_loopback=False)).listen == ("127.0.0.1",)


@pytest.mark.parametrize("port", [Publish(53, 53, protocol="udp"), Publish(8000, 9000, count=3)])
def test_datagrams_and_ranges_are_the_kernels_alone(port: Publish) -> None:
    way = ways(port, machine(), placed(addresses6=V6))
    assert (way.listen, way.local) == ((), "ip daddr 127.0.0.1")
    assert [text.split(":")[0] for text in way.lost] == ["["]
    assert "a proxy passes on single TCP ports only" in way.lost[0]
    files = render_machine(machine(publish=(port,)), placed())
    assert "-net/ipv4/conf/br0/route_localnet = 1" in files[paths.sysctl_file("web")]
    assert not [path for path in files if path.endswith(".socket")]


def test_port_of_one_address() -> None:
    placement = placed(addresses6=V6)
    assert ways(Publish(80, 80, "192.0.2.1"), machine(), placement).match4 == "ip daddr 192.0.2.1"
    assert ways(Publish(80, 80, "2001:db8::1"), machine(), placement).match6 == "ip6 daddr 2001:db8::1"
    assert ways(Publish(80, 80, "2001:db8::1"), machine(), placed()).listen == ("[2001:db8::1]",)
    assert ways(Publish(80, 80, "127.0.0.1"), machine(), placement).listen == ("127.0.0.1",)
    assert ways(Publish(80, 80, "127.0.0.1", "udp"), machine(), placement).local == "ip daddr 127.0.0.1"
    assert "has no IPv6" in ways(Publish(80, 80, "2001:db8::1", "udp"), machine(), placed()).lost[0]


def test_machine_on_demand_is_behind_the_proxy() -> None:
    declared = machine(publish=(Publish(80, 80), Publish(53, 53, protocol="udp")), on_demand=True)
    way = ways(declared.publish[0], declared, placed(addresses6=V6))
    assert (way.listen, way.match4, way.match6) == (("0.0.0.0", "[::]"), "", "")
    assert not [rule for rule in rules(declared) if "tcp dport" in rule]
    assert [rule for rule in rules(declared) if "udp dport 53 dnat" in rule]


def test_rules_lead_to_the_machine() -> None:
    every = "meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8"
    every6 = "meta nfproto ipv6 fib daddr type local ip6 daddr != ::1"
    assert rules(machine(publish=(Publish(8080, 80),))) == [
        f"inet machctl prerouting {every} tcp dport 8080 dnat ip to 10.64.7.2:80",
        f"inet machctl output {every} tcp dport 8080 dnat ip to 10.64.7.2:80",
        f"inet machctl prerouting {every6} tcp dport 8080 dnat ip6 to [fd00::2]:80",
        f"inet machctl output {every6} tcp dport 8080 dnat ip6 to [fd00::2]:80",
    ]
    same = rules(machine(publish=(Publish(8000, 8000, "192.0.2.1", "udp", 3),)))
    assert same[0] == "inet machctl prerouting ip daddr 192.0.2.1 udp dport 8000-8002 dnat ip to 10.64.7.2"
    moved = rules(machine(publish=(Publish(8000, 90, "192.0.2.1", "tcp", 2),)))
    assert moved[0].endswith(
        "tcp dport 8000-8001 dnat ip to tcp dport map { 8000 : 10.64.7.2 . 90, 8001 : 10.64.7.2 . 91 }"
    )


def test_idle_stop_has_the_machine_follow_the_last_connection() -> None:
    declared = machine(publish=(Publish(80, 80),), on_demand=True, idle_stop=600)
    files = render_machine(declared, placed())
    service = files[f"{paths.UNIT_DIRECTORY}/machctl-port-web_80.service"]
    socket = files[f"{paths.UNIT_DIRECTORY}/machctl-port-web_80.socket"]
    assert "Requires=machctl-port-web_80.socket machctl-used@web.target\n" in service
    assert "--exit-idle-time=600s 10.64.7.2:80\n" in service
    assert "BindsTo=" not in socket
    assert "PartOf=machctl-used@web.target\n" in files[paths.dropin_file("web")]
    assert files[paths.sockets_file("web")].endswith("[Unit]\nWants=machctl-port-web_80.socket\n")
    always = render_machine(machine(publish=(Publish(80, 80),)), placed())
    assert paths.sockets_file("web") not in always
    assert "PartOf=" not in always[paths.dropin_file("web")]


def test_a_port_changes_nothing_that_systemd_has_read() -> None:
    before, after = (render_machine(machine(publish=ports), placed()) for ports in ((), (Publish(80, 80),)))
    assert before[paths.dropin_file("web")] == after[paths.dropin_file("web")]
    assert before[paths.settings_file("web")] == after[paths.settings_file("web")]


@pytest.mark.parametrize("name", ["web", "web-2", "a.b"])
def test_port_units_of_one_machine_are_no_others(name: str) -> None:
    path = f"{paths.UNIT_DIRECTORY}/{paths.port_unit(name, Publish(80, 80, '2001:db8::1'), 'socket')}"
    header = paths.machine_header(name, "/x")
    assert paths.owner(path, header) == ("machine", name)
    assert paths.owner(path, paths.machine_header("web-2-x"[: len(name) - 1] or "w", "/x")) is None


# --- what is wrong ---


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"publish": (Publish(80, 80), Publish(80, 81))}, "are the same on the host"),
        ({"publish": (Publish(80, 80, count=5), Publish(84, 1))}, "are the same on the host"),
        ({"publish": (Publish(80, 80), Publish(80, 81, "192.0.2.1"))}, "are the same on the host"),
        ({"publish": (Publish(53, 53, "::1", "udp"),)}, "sends nothing from ::1"),
        ({"publish": (Publish(80, 80),), "network": "host", "links": ()}, "has the network of the host"),
        ({"publish": (Publish(80, 80),), "network": "none", "links": ()}, "has no network"),
        ({"publish": (Publish(80, 80),), "links": (Attachment("macvlan", "e0"),)}, "passes nothing on by macvlan"),
        ({"on_demand": True}, "nothing can start web on demand"),
        ({"on_demand": True, "publish": (Publish(53, 53, protocol="udp"),)}, "nothing can start web on demand"),
        ({"idle_stop": 60, "publish": (Publish(80, 80),)}, "nothing would start it again"),
        ({"isolated": True, "network": "host", "links": ()}, "cannot be isolated with the network of the host"),
        ({"egress": (), "links": (Attachment("macvlan", "eth0"),)}, "limited in what it may reach on macvlan eth0"),
        ({"isolated": True, "links": (Attachment("bridge", "br0", vlan=5),)}, "cannot be isolated on bridge br0"),
    ],
)
def test_what_cannot_be_together(values: dict[str, Any], wanted: str) -> None:
    found = check_declared(dataclasses.replace(machine(), **values))
    assert [error for error in found if wanted in error.message and error.hint]


def test_other_protocols_and_addresses_are_no_collision() -> None:
    ports = (
        Publish(80, 80),
        Publish(80, 80, protocol="udp"),
        Publish(81, 80, "192.0.2.1"),
        Publish(81, 80, "192.0.2.2"),
    )
    assert check_declared(machine(publish=ports)) == []


@pytest.mark.parametrize(
    ("port", "listener", "taken"),
    [
        (Publish(80, 80), Listener("0.0.0.0", 80), True),
        (Publish(80, 80), Listener("::", 80), True),
        (Publish(80, 80), Listener("192.0.2.9", 80), True),
        (Publish(80, 80), Listener("0.0.0.0", 80, "udp"), False),
        (Publish(53, 53, protocol="udp"), Listener("127.0.0.53", 53, "udp"), False),
        (Publish(53, 53, protocol="udp"), Listener("127.0.0.1", 53, "udp"), True),
        (Publish(53, 53, "127.0.0.53", "udp"), Listener("127.0.0.53", 53, "udp"), True),
        (Publish(80, 80, count=10), Listener("0.0.0.0", 89), True),
        (Publish(80, 80, count=10), Listener("0.0.0.0", 90), False),
        (Publish(80, 80, "192.0.2.1"), Listener("192.0.2.2", 80), False),
    ],
)
def test_port_that_a_process_has(port: Publish, listener: Listener, *, taken: bool) -> None:
    wanted = machine(publish=(port,))
    host = host_with(machine(), listeners=(listener,))
    found = [error.message for error in check_machine(wanted, host, {"web": wanted})]
    assert bool(found) == taken
    assert all("is taken: a process of this host listens on it" in message for message in found)


def test_port_that_another_machine_has_is_refused_with_a_free_one() -> None:
    db = machine("db", publish=(Publish(8000, 80, count=4),))
    wanted = machine(publish=(Publish(8003, 80),))
    host = host_with(db, machine())
    (error,) = check_machine(wanted, host, {"db": db, "web": wanted})
    assert (error.message, error.hint) == (
        "port 8003 belongs to machine db",
        "publish another port of the host: --publish 8004:80",
    )


# --- live ---


def live(before: Machine, after: Machine) -> list[steps.Step]:
    """The plan that publishes other ports of a running machine."""
    return plan_machine(after, running(host_with(before), "web"))


def test_port_of_a_running_machine_opens_at_once_and_systemd_reads_nothing_again() -> None:
    plan = live(machine(), machine(publish=(Publish(80, 80), Publish(81, 80))))
    assert shown(plan)[-2:] == [
        "load the nft table inet machctl",
        "start machctl-port-web_80.socket machctl-port-web_81.socket",
    ]
    assert "reload systemd" not in shown(plan)


def test_port_of_a_running_machine_closes_before_its_units_go() -> None:
    plan = shown(live(machine(publish=(Publish(80, 80), Publish(81, 80))), machine(publish=(Publish(81, 80),))))
    stop = plan.index("stop machctl-port-web_80.socket machctl-port-web_80.service")
    assert plan.index(f"remove {paths.UNIT_DIRECTORY}/machctl-port-web_80.socket") > stop
    assert "reload systemd" not in plan


def test_sockets_of_a_machine_on_demand_listen_while_it_does_not_run() -> None:
    declared = machine(publish=(Publish(80, 80),), on_demand=True)
    assert "start machctl-port-web_80.socket" in shown(plan_machine(declared, host_with(declared)))
    always = machine(publish=(Publish(80, 80),))
    assert not [step for step in plan_machine(always, host_with(always)) if isinstance(step, steps.OpenPorts)]


def test_sockets_close_when_a_machine_that_does_not_run_is_on_demand_no_more() -> None:
    before, after = (machine(publish=(Publish(80, 80),), on_demand=on) for on in (True, False))
    listening = frozenset({"machctl-bridge@br0.service", "machctl-port-web_80.socket"})
    plan = shown(plan_machine(after, host_with(before, active=listening)))
    assert plan[-1] == "stop machctl-port-web_80.socket"
    assert f"remove {paths.sockets_file('web')}" in plan


def test_a_rename_closes_the_ports_before_the_new_name_opens_them() -> None:
    declared = machine(publish=(Publish(80, 80),), on_demand=True)
    listening = frozenset({"machctl-bridge@br0.service", "machctl-port-web_80.socket"})
    plan = shown(plan_rename("web", "www", host_with(declared, active=listening), {"web": declared}))
    stop = plan.index("stop machctl-port-web_80.socket machctl-port-web_80.service")
    assert stop < plan.index("start machctl-port-www_80.socket")


def test_a_machine_that_goes_is_not_started_by_a_last_connection() -> None:
    declared = machine(publish=(Publish(80, 80),), on_demand=True)
    plan = shown(plan_remove("web", running(host_with(declared), "web"), {"web": declared}))
    stop = plan.index("stop machctl-port-web_80.socket machctl-port-web_80.service")
    assert stop < plan.index("terminate web")


def test_what_is_not_started_on_demand_any_more_systemd_forgets() -> None:
    before = machine(publish=(Publish(80, 80),), on_demand=True)
    plan = shown(plan_machine(machine(), host_with(before)))
    gone = plan.index(f"remove {paths.sockets_file('web')}")
    assert gone < plan.index("reload systemd")


def test_loopback_is_routed_where_that_is_needed_and_not_yet_so() -> None:
    declared = machine(publish=(Publish(53, 53, protocol="udp"),))
    assert "set net/ipv4/conf/br0/route_localnet to 1" in shown(plan_machine(declared, host_with(declared)))
    assert plan_machine(declared, host_with(declared, localnet=frozenset({"br0"}))) == []
    # Of a bridge that the same plan makes, too, and once it has.
    new = shown(plan_machine(declared, empty_host()))
    assert new.index("start machctl-bridge@br0.service") < new.index("set net/ipv4/conf/br0/route_localnet to 1")


# --- the verbs' edits ---


def test_publish_adds_and_unpublish_takes_away() -> None:
    one, two = parse_publish("8080:80"), parse_publish("53:5300/udp")
    made = published([one, two, one], on_demand=False, idle_stop=None)(machine(publish=(one,)))
    assert made.publish == (one, two)
    assert unpublished(["53/udp"])(made).publish == (one,)
    assert unpublished(["8080:80", "53:5300/udp"])(made).publish == ()
    with pytest.raises(NotFound, match="does not publish 81"):
        unpublished(["81"])(made)
    with pytest.raises(NotFound, match="does not publish 8080:81"):
        unpublished(["8080:81"])(made)


def test_idle_stop_means_on_demand_and_goes_with_the_last_port() -> None:
    made = published([parse_publish("80")], on_demand=False, idle_stop=600)(machine())
    assert (made.on_demand, made.idle_stop) == (True, 600)
    left = unpublished(["80"])(made)
    assert (left.publish, left.on_demand, left.idle_stop) == ((), False, None)


def test_publish_says_what_is_wrong_before_anything_is_done() -> None:
    with pytest.raises((InvalidValue, Several), match="the same on the host"):
        published([parse_publish("80:80"), parse_publish("80:81")], on_demand=False, idle_stop=None)(machine())


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("isolated=yes", {"isolated": True}),
        ("isolated=", {"isolated": False}),
        ("egress=none", {"egress": ()}),
        ("egress=443,53/udp", {"egress": (Egress(443, 443), Egress(53, 53, "udp"))}),
        ("egress=", {"egress": None}),
    ],
)
def test_restrictions_can_be_set(assignment: str, wanted: dict[str, object]) -> None:
    assert change._changes([assignment]) == wanted


# --- restrictions ---


def test_most_machines_have_none() -> None:
    assert rules(machine()) == []


def test_isolated_machine_is_reached_by_nobody_and_reaches_nobody() -> None:
    found = rules(machine(isolated=True))
    assert "inet machctl restricted ip saddr 10.64.7.2 goto refuse" in found
    assert "inet machctl isolated ip daddr 10.64.7.2 goto refuse" in found
    assert 'bridge machctl forward oifname "vb-web" drop' in found
    assert 'bridge machctl prerouting iifname "vb-web" ip saddr != 10.64.7.2 drop' in found


def test_egress_is_allowed_before_the_rest_is_refused() -> None:
    found = rules(machine(egress=(Egress(443, 443), Egress(440, 450), Egress(53, 53, "udp"))))
    refuse = found.index("inet machctl restricted ip saddr 10.64.7.2 goto refuse")
    assert found.index("inet machctl restricted ip saddr 10.64.7.2 tcp dport { 440-450 } accept") < refuse
    assert found.index("inet machctl restricted ip saddr 10.64.7.2 udp dport { 53 } accept") < refuse
    assert not [rule for rule in found if " isolated " in rule]


def test_machines_whose_long_names_begin_alike_are_told_apart() -> None:
    ports = {}
    for name in ("customer-alpha", "customer-beta"):
        made = machine(name, isolated=True)
        text = "\n".join(render_machine(made, placed()).values())
        ports[name] = f"vb0-{spread(name):08x}"
        assert f'oifname "{ports[name]}" drop' in text
        assert f"VirtualEthernetExtra={ports[name]}:host0" in text
        assert f"ip link set {ports[name]} master br0 up" in text
        assert f"ip link set {ports[name]} type bridge_slave hairpin on" in text
        assert "*" not in "".join(line for line in text.splitlines() if line.startswith("add rule bridge"))
    assert len(set(ports.values())) == 2


def test_nspawn_maps_ports_of_a_long_name_on_a_bridge_of_others_too() -> None:
    made = machine("customer-alpha", bridges=("lan0",), publish=(Publish(8080, 80),))
    files = render_machine(made, placed(networks={}, addresses={}))
    assert "Port=tcp:8080:80" in files[paths.settings_file(made.name)]


def test_machine_on_a_veth_is_told_by_it() -> None:
    from machines.model.network import Network
    from samples import SUBNET

    declared = dataclasses.replace(machine(egress=()), links=(Attachment("veth"),))
    network = Network("ve-web", SUBNET, kind="veth")
    text = render_machine(declared, placed(networks={"ve-web": network}, addresses={"ve-web": "10.64.7.2"}))[NAT]
    assert 'restricted iifname "ve-web" goto refuse' in text
    assert "bridge machctl" not in text


def test_dockers_own_networks_stay_its_own() -> None:
    lines = docker_rules(["br-lab", "machctl0"]).splitlines()
    assert lines[:2] == ["*filter", ":MACHCTL - [0:0]"]
    assert lines.index("-A MACHCTL -o br-lab -j ACCEPT") < lines.index("-A MACHCTL -i machctl0 -o br-+ -j RETURN")
    assert lines.index("-A MACHCTL -i machctl0 -o docker0 -j RETURN") < lines.index("-A MACHCTL -i machctl0 -j ACCEPT")
    assert lines[-1] == "COMMIT"


def test_only_ports_whose_units_go_are_given_up_before_anything_else() -> None:
    stop = steps.StopMachine(reason="", machine="web", name="web")
    gone = steps.RemoveFile(reason="", machine="web", path=f"{paths.UNIT_DIRECTORY}/machctl-port-web_81.socket")
    units = ("machctl-port-web_80.socket", "machctl-port-web_81.socket")
    close = steps.ClosePorts(reason="", machine="web", units=units)
    first, rest = given_up([close, stop, gone])
    assert first == [dataclasses.replace(close, units=units[1:])]
    assert rest == [dataclasses.replace(close, units=units[:1]), stop, gone]
    assert given_up([close, stop]) == ([], [close, stop])
