# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that takes a machine away, whole or half made."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.toml import declares_only
from machines.errors import Conflict
from machines.model.base import IMPORTED
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import bridge_unit, machine_unit
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.bridges import plan_unused
from machines.plan.firewalld import plan_left_open
from machines.plan.links import link_parents, stop_waiting
from machines.plan.ports import port_units
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
    if host.enabled.get(name):
        plan.append(steps.DisableUnit(reason=reason, machine=name, unit=machine_unit(name)))
    files = [path for path, text in host.files.items() if paths.owner(path, text) == ("machine", name)]
    settings = paths.settings_file(name)
    if own is None and name in host.trees and settings in host.files and settings not in files:
        # machined removes the settings of an image with it (systemd#15900), whoever wrote them.
        files.append(settings)
    if own is not None:
        text = host.files.get(own.origin)
        # What else the file says need not be a machine, nor be right.
        shared = text is not None and not declares_only(text, "machines", name)
        if shared or own.origin.endswith("/fleet.toml"):
            raise Conflict(
                f"machine {name} is declared in {own.origin}, together with others",
                hint=f"take [machines.{name}] out of that file, then run machctl rm {name} again",
            )
        files.append(own.origin)
    plan += [steps.RemoveFile(reason=reason, machine=name, path=path) for path in files]
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
    if any(paths.unit_of(path) in host.loaded for path in units):
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=name))
    if record:
        # The record goes last of what is the machine's: as long as it is there, a killed run can be finished.
        plan.append(steps.RemoveFile(reason=reason, machine=name, path=paths.machine_record(name)))
    if record and _is_its_alone(record, host):
        plan.append(steps.RemoveBase(reason="it was for this machine alone", base=record.base))
    plan += _foreign_links(name, own, host, declared, reason=reason)
    if bridges:
        nat_changed = any(path.startswith(paths.NAT_DIRECTORY) for path in files)
        plan += plan_unused(host, gone={name}, machine=name, nat_changed=nat_changed)
        plan += plan_left_open(host, plan, machine=name)
    return plan


def _is_its_alone(record: Record, host: Host) -> bool:
    base = host.bases.get(record.base)
    others = {other.base for other in host.records.values() if other.name != record.name}
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
