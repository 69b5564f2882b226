# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links of running machines follow what is declared, where the kernel lets them."""

from __future__ import annotations

from collections.abc import Collection

from machines.model.frozen import replace
from machines.model.link import inner_names
from machines.model.machine import Machine
from machines.model.names import IFNAMSIZ, bridge_unit, extra_link, link_network, machine_unit
from machines.model.observed import Host, Link, Record
from machines.plan import steps
from machines.plan.place import place
from machines.plan.steps import Plan
from machines.render.links import Wire, hairpin_end, inner_commands, outer_commands, port_commands, wires
from machines.render.placement import Placement

_INTERFACE = "interface:"

# What nspawn leaves of a machine's name in a name for a link that is too long (shorten_ifname of systemd).
CUT = 8


def link_targets(machine: Machine) -> dict[str, str]:
    """Give what leads where of a machine's links, by what they are called in it, as a record has it."""
    return {
        inner: f"{link.kind}:{link.target}" + (f",vlan={link.vlan}" if link.vlan is not None else "")
        for link, inner in zip(machine.links, inner_names(machine.links), strict=True)
    }


def plan_links(machine: Machine, host: Host, placement: Placement) -> Plan:
    """Give the steps that take away what is no longer declared of a running machine's links, and make what is.

    What was taken off its bridge is put back. Only what machctl has given it goes: a machine's root may make links of
    its own.
    """
    have, own = host.inner_links.get(machine.name), host.records.get(machine.name)
    if have is None or machine.name not in host.running or machine.network == "host" or own is None:
        return []
    wanted, plan = link_targets(machine), list[steps.Step]()
    gone = {inner for inner, target in own.links.items() if inner in have and wanted.get(inner) != target}
    for inner in sorted(gone):
        target = own.links[inner]
        reason = "it is no longer declared" if inner not in wanted else f"it led to {target}"
        parent = target.removeprefix(_INTERFACE) if target.startswith(_INTERFACE) else ""
        plan.append(steps.DetachLink(reason=reason, machine=machine.name, link=inner, parent=parent))
    found = wires(machine, placement)
    for wire in found:
        # What nspawn cut to the length that the kernel takes is there under another name.
        if len(wire.inner) <= IFNAMSIZ and (wire.inner not in have or wire.inner in gone):
            plan.append(_attach(machine.name, wire))
    return plan + _joins(found, gone, machine.name, host)


def _joins(found: list[Wire], gone: Collection[str], machine: str, host: Host) -> Plan:
    """Give the steps that put the host's ends of a running machine's links back on the bridges they were taken off.

    Not of those that are ``gone``, which are made anew. nspawn and the machine's unit put them there as it starts:
    until that has been done nobody else is to.
    """
    unit = machine_unit(machine)
    if host.running[machine] != unit or unit not in host.up:
        return []
    plan: Plan = []
    for wire in (wire for wire in found if wire.inner not in gone):
        outer = _end(wire, machine, host)
        # What is not there yet of machctl's own is made before.
        bridge = host.links.get(wire.bridge)
        if bridge is None and wire.network and wire.network.kind == "bridge":
            bridge = Link(wire.bridge, "bridge")
        if bridge and bridge.kind == "bridge" and outer in host.links and outer not in bridge.ports:
            plan.append(join_bridge(wire, outer, machine, found))
    return plan


def join_bridge(wire: Wire, outer: str, machine: str, found: list[Wire]) -> steps.SetLink:
    """Give the step that puts ``outer``, the host's end of a link among those ``found``, back on its bridge."""
    hairpin = wire.outer == hairpin_end(found)
    return steps.SetLink(
        reason="it is not in its bridge",
        machine=machine,
        link=outer,
        master=wire.bridge,
        port=port_commands(wire, outer, hairpin=hairpin),
    )


def _end(wire: Wire, name: str, host: Host) -> str:
    """Give what the host's end of a link is called, "" where that is not known: nspawn cuts what is too long.

    It has a hash in its place then, by which only one machine of those named alike could be told.
    """
    if len(wire.outer) <= IFNAMSIZ:
        return wire.outer
    if extra_link(name, wire.number) in host.links:
        # It was attached while the machine ran.
        return extra_link(name, wire.number)
    if [other for other in host.running if other[:CUT] == name[:CUT]] != [name]:
        return ""
    ends = [link for link in host.links if link[: CUT + 3] == wire.outer[: CUT + 3] and len(link) == IFNAMSIZ]
    return ends[0] if len(ends) == 1 else ""


def lost_ends(machine: Machine, plan: Plan, host: Host) -> list[str]:
    """Name the ends of a running machine's links that are not there as its rules have them: those keep nothing up.

    So it is where it started with a name that nspawn cut and is isolated since. Those that ``plan`` makes are none.
    """
    have = host.inner_links.get(machine.name)
    if not machine.restricted or have is None or machine.name not in host.running:
        return []
    there = have - {step.link for step in plan if isinstance(step, steps.AttachLink)}
    return [
        f"the end of {wire.inner} on the host"
        for wire in wires(machine, place(machine, host))
        if wire.inner in there and wire.outer and len(wire.outer) <= IFNAMSIZ and wire.outer not in host.links
    ]


def stop_waiting(name: str, host: Host, *, wanted: Collection[str], reason: str) -> Plan:
    """Give the steps that stop what waited for links of others which machine ``name`` led to and no machine wants now.

    ``wanted`` are those that it still leads to. Networks of machctl's own are left to plan_unused().
    """
    own = host.records.get(name)
    left = _targets(own) - {*wanted, *host.networks} if own else set()
    if left:
        left -= {target for record in host.records.values() if record.name != name for target in _targets(record)}
    units = [bridge_unit(target) for target in sorted(left)]
    return [steps.StopUnit(reason=reason, machine=name, unit=unit) for unit in units if unit in host.active]


def link_parents(machine: Machine) -> set[str]:
    """Give the links of the host that a machine's lead to: bridges, those of zones, and interfaces."""
    return {link_network(link, machine.name) or link.target for link in machine.links if link.kind != "veth"}


def _targets(record: Record) -> set[str]:
    """What link_parents() said of a machine when it was recorded."""
    found = set(record.foreign)
    for text in record.links.values():
        kind, _, target = text.partition(",")[0].partition(":")
        if kind != "veth":
            found.add(f"vz-{target}" if kind == "zone" else target)
    return found


def _attach(name: str, wire: Wire) -> steps.AttachLink:
    link = wire.link
    if wire.bridge:
        # Rules have the name that nspawn would give it; one that is too long for anybody else they have not.
        outer = wire.outer if len(wire.outer) <= IFNAMSIZ else extra_link(name, wire.number)
        wire = replace(wire, outer=outer, primary=False)
    make = {
        "macvlan": f"link add link {link.target} name {wire.inner} netns {{leader}} type macvlan mode bridge",
        "ipvlan": f"link add link {link.target} name {wire.inner} netns {{leader}} type ipvlan mode l2",
        "interface": f"link set {link.target} netns {{leader}} name {wire.inner}",
    }.get(link.kind, f"link add {wire.outer} type veth peer name {wire.inner} netns {{leader}}")
    return steps.AttachLink(
        reason="it is declared and not there",
        machine=name,
        link=wire.inner,
        make=make,
        outside=tuple(outer_commands(wire)),
        inside=tuple(inner_commands(wire)),
    )
