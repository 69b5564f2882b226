# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which flows of UDP go on as rules of before had it, and that they are ended once with the table that is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.errors import MachctlError
from machines.model.flow import Flow
from machines.model.machine import Machine, Publish
from machines.model.observed import Record
from machines.operations.execute import execute
from machines.plan import steps
from machines.plan.nat import is_loaded
from machines.plan.rollout import old_ports, stand_in_of
from machines.render import paths
from machines.render.leads import Lead, changed_ports, is_stale, read_leads, udp_rules
from machines.render.ports import port_files
from machines.render.redirect import redirect_rules, redirect_text
from samples import machine, placed

HOST, HOST6 = "192.0.2.1", "2001:db8::1"
DNS = Publish(53, 5300, protocol="udp")
PLAIN = Publish(9000, 9000, protocol="udp")


def udp(*ports: Publish, name: str = "web") -> Machine:
    return machine(name, publish=ports)


def files(*machines: Machine) -> dict[str, str]:
    """What nft is told of machines, the first of which has address 2 of each family."""
    texts: dict[str, str] = {}
    for index, each in enumerate(machines, 2):
        placement = placed(addresses={"br0": f"10.64.7.{index}"}, addresses6={"br0": f"fd00:7::{index}"})
        texts |= port_files(each, placement, header="#")
    return {path: text for path, text in texts.items() if path.startswith(paths.NAT_DIRECTORY)}


def leads(*machines: Machine) -> tuple[Lead, ...]:
    return read_leads(udp_rules(files(*machines)))


WEB, WEB6, DB = "10.64.7.2", "fd00:7::2", "10.64.7.3"


def test_rules_of_udp_are_read_back() -> None:
    many = udp(DNS, PLAIN, Publish(80, 80), Publish(70, 170, count=3, protocol="udp"), Publish(60, 60, HOST, "udp"))
    assert [lead for lead in leads(many) if lead.family == "ip"] == [
        Lead("ip", "", 53, 53, WEB, 5300),
        Lead("ip", "127.0.0.1", 53, 53, WEB, 5300),
        Lead("ip", "", 9000, 9000, WEB, 9000),
        Lead("ip", "127.0.0.1", 9000, 9000, WEB, 9000),
        Lead("ip", "", 70, 72, WEB, 170),
        Lead("ip", "127.0.0.1", 70, 72, WEB, 170),
        Lead("ip", HOST, 60, 60, WEB, 60),
    ]
    assert [lead for lead in leads(many) if lead.family == "ip6"] == [
        Lead("ip6", "", 53, 53, WEB6, 5300),
        Lead("ip6", "", 9000, 9000, WEB6, 9000),
        Lead("ip6", "", 70, 72, WEB6, 170),
    ]
    assert read_leads(udp_rules({f"{paths.NAT_DIRECTORY}/bridge-a.nft": RESOLVER})) == ()


RESOLVER = (
    'add rule inet machctl resolver iifname "a" ip daddr 10.0.0.1 udp dport 53 dnat ip to 127.0.0.53 comment "a-1"'
)


@pytest.mark.parametrize(
    ("flow", "stale"),
    [
        (Flow(HOST, 53, WEB, 5300), True),
        (Flow("127.0.0.1", 53, WEB, 5300), True),
        (Flow(HOST6, 53, WEB6, 5300), True),
        # What it goes on publishing, what somebody else leads there, what is asked elsewhere and of the host.
        (Flow(HOST, 9000, WEB, 9000), False),
        (Flow(HOST, 53, WEB, 53), False),
        (Flow(HOST, 54, WEB, 5300), False),
        (Flow(HOST, 53, "172.17.0.2", 5300), False),
        (Flow("9.9.9.9", 53, "9.9.9.9", 53), False),
        (Flow(HOST, 53, HOST, 53, local=True), False),
    ],
)
def test_a_flow_of_a_port_that_is_published_no_more_is_stale(flow: Flow, stale: bool) -> None:
    before, now = leads(udp(DNS, PLAIN)), leads(udp(PLAIN))
    assert changed_ports(before, now) == {"ip": {53}, "ip6": {53}}
    assert is_stale(flow, before, now) is stale
    assert not is_stale(flow, now, now)


@pytest.mark.parametrize(
    ("flow", "stale"),
    [
        # Asked before anybody answered there, and gone on with since.
        (Flow(HOST, 53, HOST, 53, local=True), True),
        (Flow(HOST6, 53, HOST6, 53, local=True), True),
        (Flow("127.0.0.1", 53, "127.0.0.1", 53, local=True), True),
        # Name servers of others, and what an address of loopback answers that no port is published on.
        (Flow("9.9.9.9", 53, "9.9.9.9", 53), False),
        (Flow("127.0.0.53", 53, "127.0.0.53", 53, local=True), False),
        (Flow(HOST, 53, "172.17.0.2", 53), False),
        (Flow(HOST, 9000, HOST, 9000, local=True), False),
    ],
)
def test_a_flow_to_the_host_is_stale_once_its_port_is_published(flow: Flow, stale: bool) -> None:
    assert is_stale(flow, (), leads(udp(DNS))) is stale


def test_a_flow_follows_its_port_to_another_machine() -> None:
    both = udp(DNS), udp(name="db")
    moved = udp(), udp(DNS, name="db")
    before, now = leads(*both), leads(*moved)
    assert is_stale(Flow(HOST, 53, WEB, 5300), before, now)
    assert not is_stale(Flow(HOST, 53, DB, 5300), before, now)


def test_a_range_that_grows_leaves_flows_of_it_alone() -> None:
    before = leads(udp(Publish(70, 170, count=2, protocol="udp")))
    now = leads(udp(Publish(70, 170, count=3, protocol="udp")))
    assert not is_stale(Flow(HOST, 71, WEB, 171), before, now)
    assert is_stale(Flow(HOST, 72, HOST, 72, local=True), before, now)


def test_a_stand_in_comes_before_its_machine() -> None:
    one = udp(DNS)
    record = Record("web", {"br0": WEB}, ports=(str(DNS),), addresses6={"br0": WEB6})
    placement = placed(addresses={"br0": "10.9.9.9"}, addresses6={"br0": "fd09::9"})
    rules = redirect_rules(one, stand_in_of(one, "web-next"), old_ports(record), record, placement)
    texts = files(one) | {paths.redirect_file("web"): redirect_text("web", "web-next", rules)}
    before, now = leads(one), read_leads(udp_rules(texts))
    for flow in (Flow(HOST, 53, WEB, 5300), Flow(HOST6, 53, WEB6, 5300), Flow(WEB, 5300, WEB, 5300)):
        assert is_stale(flow, before, now)
    for flow in (Flow(HOST, 53, "10.9.9.9", 5300), Flow(WEB, 5300, "10.9.9.9", 5300)):
        assert not is_stale(flow, before, now)
        assert is_stale(flow, now, before)


# --- when they are ended ---


class Tracked(FakeHost):
    """A host that notes what flows are looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, Collection[int]]] = []
        self.links.drop_flows = self._drop_flows

    def publish(self, *ports: Publish) -> None:
        self.files.texts |= {paths.NAT_FILE: "add rule", **files(udp(*ports))}

    def _drop_flows(self, ports: Mapping[str, Collection[int]], stale: Callable[[Flow], bool]) -> None:
        self.call("end flows")
        self.asked.append(ports)


def load(host: FakeHost, **values: Any) -> None:
    asyncio.run(execute([steps.LoadNat(reason="", **values)], host, reporter=REPORTER))


def test_flows_are_ended_behind_the_table_and_where_udp_is_led_otherwise_only() -> None:
    host = Tracked()
    host.publish(Publish(80, 80), DNS)
    load(host)
    assert host.done == ["nft -f", "end flows"]
    host.publish(DNS)
    load(host)
    assert len(host.asked) == 1
    host.publish(PLAIN)
    load(host)
    assert host.asked[1] == {"ip": {53, 9000}, "ip6": {53, 9000}}
    load(host, drop=True)
    assert host.asked[2] == {"ip": {9000}, "ip6": {9000}}
    assert paths.LED_FILE not in host.files.texts


def test_a_run_that_was_killed_before_it_ended_flows_is_made_up_for() -> None:
    host = Tracked()
    host.publish(DNS)
    load(host)
    host.publish(PLAIN)
    host.failing = {"nft -f"}
    with pytest.raises(MachctlError):
        load(host)
    # Loaded by what systemd does at boot, or by a run that got no further.
    host.nat = "\n".join(host.files.texts.values())
    assert not is_loaded(host.files.texts, host.nat)
    host.failing = set()
    load(host)
    assert host.asked[1] == {"ip": {53, 9000}, "ip6": {53, 9000}}
    assert is_loaded(host.files.texts, host.nat)


def test_a_kernel_that_tracks_nothing_keeps_no_table_from_being_loaded() -> None:
    host = Tracked()
    host.failing = {"end flows"}
    host.publish(DNS)
    load(host)
    assert paths.LED_FILE in host.files.texts
