# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that calls a machine by another name; a run that is killed anywhere in it is finished by the next."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.fleet import own_file
from machines.declare.inherit import moved
from machines.declare.toml import declares_only
from machines.errors import Conflict, MachctlError, raise_all
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.names import machine_unit, own_link, update_timer
from machines.model.observed import Host, Record
from machines.model.tree import Tree
from machines.plan import steps
from machines.plan.bridges import remove_bridge
from machines.plan.claims import closed_like
from machines.plan.machine import plan_machine
from machines.plan.ports import port_units
from machines.plan.steps import Plan
from machines.render import paths


def check_rename(old: str, new: str, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give what stands in the way of calling machine ``old`` by the name ``new``, whether it runs or not."""
    errors: list[MachctlError] = []
    own, record = declared.get(old), host.records.get(old)
    if own is None and record and new not in declared:
        errors.append(
            Conflict(
                f"machine {old} is not declared any more",
                hint=f"write {own_file(old)} again ({paths.machine_record(old)} says what it was made of), "
                "then rename it",
            )
        )
    if own is not None and own.group:
        errors.append(
            Conflict(
                f"machine {old} is one of the replicas of {own.group}, which are called like it",
                hint=f"rename [machines.{own.group}] in {own.origin}: all of them are made anew then",
            )
        )
    elif own is not None and (own.origin != own_file(old) or _shared(own, host)):
        why = "which is not its own file" if own.origin != own_file(old) else "together with others"
        errors.append(
            Conflict(
                f"machine {old} is declared in {own.origin}, {why}",
                hint=f"call it [machines.{new}] there, then run machctl rename {old} {new} again",
            )
        )
    if paths.update_record(old) in host.files:
        errors.append(
            Conflict(
                f"an update of machine {old} was killed, and is to be taken back",
                hint="machctl gc does that; then rename it",
            )
        )
    return errors


def plan_rename(old: str, new: str, host: Host, declared: Mapping[str, Machine]) -> Plan:
    """Give the steps after which machine ``old`` is called ``new``.

    What is about to happen is recorded under the old name first, and that record goes last. Raises Conflict when the
    machine is declared in a file together with others.
    """
    reason = f"{old} is renamed to {new}"
    own, record = declared.get(old), host.records.get(old)
    # Whoever renamed it in a file of several has said so already.
    renamed = declared.get(new) if own is None and new not in host.trees else None
    raise_all(check_rename(old, new, host, declared))
    plan: Plan = []
    if record:
        going = replace(record, intent=f"rename {new}")
        plan.append(steps.Claim(reason=reason, machine=old, record=going))
    if host.enabled.get(old):
        plan.append(steps.DisableUnit(reason=reason, machine=old, unit=machine_unit(old)))
    storage = record.storage if record else ""
    plan.append(steps.RenameTree(reason=reason, machine=new, old=old, new=new, storage=storage))
    if paths.unit_dropin(update_timer(old)) in host.files:
        from machines.plan.schedule import plan_moved

        plan += plan_moved(old, new, host.files[paths.unit_dropin(update_timer(old))], reason=reason)
    gone = [path for path, text in host.files.items() if paths.owner(path, text) == ("machine", old)]
    gone += [path for path in host.files if path.startswith(f"{paths.adopted_directory(old)}/")]
    kept = (paths.health_file(old), paths.results_file(old), paths.rollout_file(old), paths.redirect_file(old))
    gone += [path for path in kept if path in host.files]
    ports = port_units(old, host)
    if ports:
        # Those of a machine that starts on demand listen, and under its new name it has the same.
        plan.append(steps.ClosePorts(reason=reason, machine=old, units=ports))
    if own is not None:
        wanted, text = moved(own, new, host.files)
        plan += closed_like(_declare(wanted, old, record, host, declaration=text), own.origin)
        gone.append(own.origin)
    elif record is None:
        plan += _foreign(old, new, host, reason=reason)
    elif renamed is not None:
        plan += _declare(renamed, old, record, host, declaration=None)
    plan += [steps.RemoveFile(reason=reason, machine=old, path=path) for path in gone]
    if old in host.journals:
        plan.append(steps.RemoveFile(reason=reason, machine=old, path=host.journals[old]))
    if any(paths.unit_of(path) in host.loaded for path in gone if path.startswith(paths.UNIT_DIRECTORY)):
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=old))
    if own_link(old) in host.networks:
        plan += remove_bridge(own_link(old), new, host, reason=reason)
    if record:
        plan.append(steps.RemoveFile(reason=reason, machine=old, path=paths.machine_record(old)))
    if any(path.startswith(paths.NAT_DIRECTORY) for path in gone) or own_link(old) in host.networks:
        plan.append(steps.LoadNat(reason="its files changed", machine=new))
    if record and record.addresses:
        plan.append(steps.KeepNames(reason=reason, machine=new))
    return plan


def _foreign(old: str, new: str, host: Host, *, reason: str) -> Plan:
    """Settings and autostart of a machine that others made go along, as machinectl rename has it."""
    plan: Plan = []
    settings = paths.settings_file(old)
    if settings in host.files and paths.owner(settings, host.files[settings]) is None:
        moved = paths.settings_file(new)
        plan.append(steps.WriteFile(reason=reason, machine=new, path=moved, text=host.files[settings]))
        plan.append(steps.RemoveFile(reason=reason, machine=old, path=settings))
    if host.enabled.get(old):
        plan.append(steps.EnableUnit(reason=reason, machine=new, unit=machine_unit(new)))
    return plan


def plan_unfinished(record: Record, host: Host, declared: Mapping[str, Machine]) -> Plan:
    """Give the steps that finish a rename that was killed, or forget it.

    That is where the machine was started under its old name since, or the new one has become another machine's.
    """
    old, new = record.name, record.intent.removeprefix("rename ")
    both = old in host.trees and new in {*host.trees, *host.running}
    neither = old not in host.trees and new not in host.trees
    if old in host.running or both or neither:
        kept = replace(record, intent="")
        return [steps.Claim(reason=f"it was to be {new}, and stays what it is", machine=old, record=kept)]
    return plan_rename(old, new, host, declared)


def _declare(wanted: Machine, old: str, record: Record | None, host: Host, *, declaration: str | None) -> Plan:
    """What makes the new name a machine, as if the old one had never had its address and its ports."""
    records = {name: other for name, other in host.records.items() if name != old}
    networks, claim = dict(host.networks), list[steps.Step]()
    before, after = own_link(old), own_link(wanted.name)
    if before in networks:
        # Its veth to the host is called like the machine, and so is the network that it is.
        networks[after] = replace(networks.pop(before), bridge=after)
        claim.append(steps.ClaimNetwork(reason="it has another name", machine=wanted.name, network=networks[after]))
    if record:
        moved = {before: after}
        records[wanted.name] = replace(
            record,
            name=wanted.name,
            intent="",
            addresses={moved.get(bridge, bridge): address for bridge, address in record.addresses.items()},
            addresses6={moved.get(bridge, bridge): address for bridge, address in record.addresses6.items()},
        )
    trees = {name: tree for name, tree in host.trees.items() if name != old}
    if old in host.trees:
        trees[wanted.name] = Tree(wanted.name, paths.tree(wanted.name), host.trees[old].kind)
    view = replace(host, records=records, trees=trees, networks=networks)
    if wanted.name in records:
        claim += [steps.Claim(reason="it has another name", machine=wanted.name, record=records[wanted.name])]
    made = plan_machine(wanted, view, declaration=declaration)
    return [*claim, *(step for step in made if not isinstance(step, (steps.Claim, steps.KeepNames)))]


def _shared(machine: Machine, host: Host) -> bool:
    """Tell whether its file says more than what the machine is: networks, other machines, one with a mistake in it."""
    text = host.files.get(machine.origin)
    return text is not None and not declares_only(text, "machines", machine.name)
