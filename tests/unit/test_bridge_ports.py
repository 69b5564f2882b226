# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links of running machines that somebody took off their bridges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machines.declare.links import parse_link
from machines.model.machine import Machine
from machines.model.names import extra_link, machine_unit
from machines.model.observed import Host, Link
from machines.plan import steps
from machines.plan.machine import plan_machine
from samples import host_with, machine, running


def linked(*texts: str) -> Machine:
    """A machine with these links."""
    return machine(links=tuple(map(parse_link, texts)))


def live(declared: Machine, *inner: str, **values: Any) -> Host:
    """A host on which ``declared`` runs and has these links."""
    return running(host_with(declared, inner_links={"web": frozenset({"lo", *inner})}, **values), "web")


def ports(host: Host, **bridges: tuple[str, ...]) -> Host:
    """``host``, whose machine has started, with these ports on bridges, and the ends of links that are on none."""
    ends = {name: Link(name, "") for name in ("vb-web", extra_link("web", 5923))}
    found = {name: Link(name, "bridge", ports) for name, ports in bridges.items()}
    return replace(host, links={**ends, **found}, up=frozenset({machine_unit("web")}))


def joins(declared: Machine, host: Host) -> list[steps.SetLink]:
    return [step for step in plan_machine(declared, host) if isinstance(step, steps.SetLink)]


def test_links_that_were_taken_off_their_bridges_are_put_back() -> None:
    declared = linked("bridge:br0", "bridge:lan0,vlan=20,name=x")
    extra = extra_link("web", 5923)
    host = live(declared, "host0", "x")
    assert joins(declared, ports(host, br0=("vb-web",), lan0=("eth0", extra))) == []
    first, second = joins(declared, ports(host, br0=(extra,), lan0=("vb-web",)))
    assert (str(first), first.reason) == ("put vb-web back on br0", "it is not in its bridge")
    assert first.port == ("-ip link set vb-web type bridge_slave hairpin on",)
    # A port that leaves its bridge leaves its VLAN.
    assert str(second) == f"put {extra} back on lan0"
    assert second.port == (f"bridge vlan add dev {extra} vid 20 pvid untagged", f"bridge vlan del dev {extra} vid 1")
    # Those of machctl's that are gone are made before.
    assert [step.master for step in joins(declared, ports(host))] == ["br0", "lan0"]


def test_links_of_a_machine_that_is_just_starting_are_left_to_its_start() -> None:
    declared = linked("bridge:br0")
    host = ports(live(declared, "host0"), br0=())
    assert len(joins(declared, host)) == 1
    assert joins(declared, replace(host, up=frozenset())) == []
    assert joins(declared, replace(host, running={})) == []
    assert joins(declared, replace(host, running={"web": "run-u7.service"})) == []
    assert joins(declared, replace(host, links={"br0": host.links["br0"]})) == []


def test_a_link_that_is_made_anew_is_not_put_back() -> None:
    host = ports(live(linked("veth"), "host0"), br0=())
    assert joins(linked("bridge:br0"), host) == []


def test_an_end_whose_name_nspawn_cut_is_known_where_no_other_machine_is_named_alike() -> None:
    declared = replace(linked("bridge:br0"), name="frontend-of-all")
    host = host_with(declared)
    host = replace(
        running(host, declared.name),
        up=frozenset({machine_unit(declared.name)}),
        inner_links={declared.name: frozenset({"lo", "host0"})},
        links={"br0": Link("br0", "bridge"), "vb-frontendAbCd": Link("vb-frontendAbCd", "")},
    )
    assert [str(step) for step in joins(declared, host)] == ["put vb-frontendAbCd back on br0"]
    alike = replace(host, running={**host.running, "frontend-2": "systemd-nspawn@frontend-2.service"})
    assert joins(declared, alike) == []
