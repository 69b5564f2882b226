# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that takes a machine away, whole or half made."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.toml import declares_only
from machines.errors import Conflict
from machines.model.base import IMPORTED
from machines.model.command import apply_command
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import bridge_unit, machine_unit, update_timer
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.firewalld import plan_left_open
from machines.plan.links import link_parents, stop_waiting
from machines.plan.ports import plan_unrouted, port_units
from machines.plan.steps import Plan
from machines.render import paths

RM = "the machine is removed"


def plan_remove(
    name: str, host: Host, declared: Mapping[str, Machine], *, reason: str = RM, bridges: bool = True
) -> Plan:
    """Give the steps after which nothing of machine ``name`` is left, nor a bridge that only it was on.

    Without ``bridges`` those are left to the caller. The log of its bootstrap goes only if the machine does for good:
    after a failure somebody wants to read it.

    Raises Conflict when the machine is declared in a file together with others, machines or networks, which people
    have to edit.
    """
    plan: Plan = []
    own, record = declared.get(name), host.records.get(name)
    if record and record.intent != "remove":
        # From here on whoever finds it finishes this.
        going = replace(record, intent="remove")
        plan.append(steps.Claim(reason=reason, machine=name, record=going))
    ports = port_units(name, host)
    if ports:
        # Before it stops: a connection could start it again.
        plan.append(steps.ClosePorts(reason=reason, machine=name, units=ports))
    if name in host.running:
        plan.append(steps.StopMachine(reason="it is running", machine=name, name=name, terminate=True))
    elif machine_unit(name) in host.active:
        # It is on its way up: nobody has registered it yet.
        plan.append(steps.StopUnit(reason="it is starting", machine=name, unit=machine_unit(name)))
    if host.enabled.get(name):
        plan.append(steps.DisableUnit(reason=reason, machine=name, unit=machine_unit(name)))
    files = [path for path, text in host.files.items() if paths.owner(path, text) == ("machine", name)]
    files += [path for path in host.files if path.startswith(f"{paths.adopted_directory(name)}/")]
    ejected = [path for path, text in host.files.items() if text.startswith(f"{paths.ejected_header(name)}\n")]
    plan += [
        steps.StopUnit(reason=reason, machine=name, unit=paths.unit_of(path))
        for path in ejected
        if path.startswith(paths.UNIT_DIRECTORY) and paths.unit_of(path).endswith(("-network.service", ".socket"))
    ]
    files += [path for path in [*ejected, paths.ejected_file(name)] if path in host.files]
    settings = paths.settings_file(name)
    if own is None and name in host.trees and settings in host.files and settings not in files:
        # machined removes the settings of an image with it (systemd#15900), whoever wrote them.
        files.append(settings)
    if own is not None:
        text = host.files.get(own.origin)
        # What else the file says need not be a machine, nor be right.
        shared = text is not None and not declares_only(text, "machines", name)
        if own.group:
            command = apply_command(own.origin, "--prune")
            raise Conflict(
                f"machine {name} is one of the replicas of {own.group}, declared in {own.origin}",
                hint=f"lower replicas of [machines.{own.group}] there, then run: {command}",
            )
        if shared or own.origin.endswith("/fleet.toml"):
            raise Conflict(
                f"machine {name} is declared in {own.origin}, together with others",
                hint=f"take [machines.{name}] out of that file, then run machctl rm {name} again",
            )
        files.append(own.origin)
    plan += _forget_updates(name, host, reason=reason)
    kept = (paths.health_file(name), paths.results_file(name), paths.rollout_file(name), paths.redirect_file(name))
    files += [path for path in kept if path in host.files]
    plan += [steps.RemoveFile(reason=reason, machine=name, path=path) for path in files]
    if paths.device_directory(name) in host.files.get(paths.dropin_file(name), ""):
        # It goes with every stop, but not with a host that lost its power.
        plan.append(steps.RemoveLeftover(reason=reason, machine=name, path=paths.device_directory(name)))
    if name in host.journals:
        plan.append(steps.RemoveFile(reason="its journal was linked there", machine=name, path=host.journals[name]))
    if name in host.logs and reason == RM:
        plan.append(steps.RemoveFile(reason=reason, machine=name, path=host.logs[name]))
    layered = name in host.trees and host.trees[name].kind in {"overlay", "lost"}
    layer = name if layered or (record and record.storage == "overlay") else ""
    if name in host.trees or layer:
        # What lies in the place of a tree that never came there is somebody else's.
        path = host.trees[name].path if name in host.trees else paths.layer(name)
        plan.append(steps.RemoveTree(reason=reason, machine=name, path=path, layer=layer))
    if name in host.snapshots:
        plan.append(
            steps.RemoveSnapshots(
                reason=reason, machine=name, names=tuple(found.name for found in host.snapshots[name])
            )
        )
    # What systemd knows of a mount it forgets with the mount.
    units = [path for path in files if path.startswith(paths.UNIT_DIRECTORY) and not path.endswith(".mount")]
    # Whoever was killed at this may have removed the files and told nobody.
    again = record is not None and record.intent == "remove" and machine_unit(name) in host.loaded
    if again or any(paths.unit_of(path) in host.loaded for path in units):
        # The unit of a machine goes with it; what a target wants stays.
        alone = {paths.unit_of(path) for path in units} == {machine_unit(name)}
        forgotten = (machine_unit(name),) if alone else ()
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=name, units=forgotten))
    if record:
        # The record goes last of what is the machine's: as long as it is there, a killed run can be finished.
        plan.append(steps.RemoveFile(reason=reason, machine=name, path=paths.machine_record(name)))
    if record and _is_its_alone(record, host):
        plan.append(steps.RemoveBase(reason="it was for this machine alone", base=record.base))
    plan += _foreign_links(name, own, host, declared, reason=reason)
    if bridges:
        plan += plan_unused(host, gone={name}, machine=name, nat_changed=changes_nat(plan))
        plan += plan_unrouted(host, plan, machine=name)
        plan += plan_left_open(host, plan, machine=name)
    return plan


def changes_nat(plan: Plan) -> bool:
    """Tell whether a plan removes files of the nft table."""
    return any(_is_nat(step) for step in plan)


def _is_nat(step: steps.Step) -> bool:
    places = (paths.NAT_DIRECTORY, paths.REDIRECT_DIRECTORY)
    return isinstance(step, steps.RemoveFile) and step.path.startswith(places)


def split_removal(plan: Plan) -> tuple[Plan, Plan]:
    """Give what takes a machine away, and what is left then: for systemd and nft, of which many machines have one."""
    ends = (steps.DisableUnit, steps.ReloadUnits, steps.RemoveBase)
    last = {paths.machine_record(step.machine) for step in plan}
    rest: Plan = [
        step
        for step in plan
        if isinstance(step, ends) or _is_nat(step) or (isinstance(step, steps.RemoveFile) and step.path in last)
    ]
    return [step for step in plan if step not in rest], rest


def _forget_updates(name: str, host: Host, *, reason: str) -> Plan:
    """What was to upgrade its packages at some time, and what one that was killed had kept of it."""
    plan: Plan = []
    if paths.unit_dropin(update_timer(name)) in host.files:
        from machines.plan.schedule import plan_unschedule

        plan += plan_unschedule(update_timer(name), machine=name, reason=reason)
    if text := host.files.get(paths.update_record(name)):
        from machines.plan.update import plan_forget

        plan += plan_forget(name, text, reason=reason)
    return plan


def _is_its_alone(record: Record, host: Host) -> bool:
    base = host.bases.get(record.base)
    others = {other.base for other in host.records.values() if other.name != record.name}
    # A machine that nobody has a record of, and its layer says itself what it is over.
    others |= {tree.base for tree in host.trees.values() if tree.name != record.name}
    others |= {snapshot.base for name, taken in host.snapshots.items() if name != record.name for snapshot in taken}
    return base is not None and base.source.startswith(IMPORTED) and base.id not in others


def _foreign_links(name: str, own: Machine | None, host: Host, declared: Mapping[str, Machine], *, reason: str) -> Plan:
    """What waited for links of others has nothing to wait for any more; the links themselves stay."""
    others = {target for machine in declared.values() if machine.name != name for target in link_parents(machine)}
    plan = stop_waiting(name, host, wanted=others, reason=reason)
    if own is None:
        return plan
    there = {step.unit for step in plan if isinstance(step, steps.StopUnit)}
    left = sorted(link_parents(own) - others - set(host.networks))
    units = [unit for unit in map(bridge_unit, left) if unit in host.active and unit not in there]
    return plan + [steps.StopUnit(reason=reason, machine=name, unit=unit) for unit in units]
