# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that makes one machine what it is declared to be."""

from __future__ import annotations

from machines.declare.write import declared_values
from machines.errors import Conflict
from machines.model.base import Base, Payload
from machines.model.frozen import dataclass
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host, Record
from machines.model.snapshot import Origin
from machines.plan import steps
from machines.plan.claims import with_claims
from machines.plan.firewalld import FIREWALLD, plan_opened
from machines.plan.limits import plan_limits
from machines.plan.links import link_parents, link_targets, plan_links, stop_waiting
from machines.plan.names import plan_names
from machines.plan.networks import ask_here, drop_stale, load_nat, network_files, settle
from machines.plan.owned import nat_loaded, owned_files
from machines.plan.place import place
from machines.plan.ports import close_ports, is_port_unit, open_ports
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.links import LINK_SETTINGS
from machines.render.machine import render_machine
from machines.render.placement import Placement

NEW = "declared and not there yet"
DIFFERS = "differs from what is declared"
STALE = "no longer declared"

# What a bootstrap is given; nothing of it can be changed in a tree that people have worked in since.
TREE_KEYS = ("source", "checksum", "mirror", "keyring", "variant", "packages", "storage", "ssh-keys")


@dataclass(frozen=True)
class Copy:
    """Another machine, or a snapshot of one, that a new machine's tree is copied from; as steps.CopyTree has it."""

    source: str
    origin: Origin
    payload: Payload | None = None
    forget: bool = True
    held: str = ""


def plan_machine(
    machine: Machine,
    host: Host,
    *,
    declaration: str | None = None,
    base: Base | None = None,
    copy: Copy | None = None,
    intent: str = "",
    names: bool = True,
) -> Plan:
    """Give the steps from ``host`` to ``machine``: none where it is as declared.

    ``declaration`` is the text of the machine's own declaration file, where machctl has to write that as well;
    ``base`` or ``copy`` is what its tree is made of if it has none, ``intent`` what is recorded of it. Without
    ``names`` what keeps those is left to the caller, who has all machines before him.
    Raises Conflict for a file in the way that machctl did not write.
    """
    made_of = copy or base
    storage = copy.origin.storage if copy else "raw" if base and base.kind == "raw" else None
    placement = place(machine, host, payload=made_of.payload if made_of else None, storage=storage)
    from_base = copy.origin.base if copy else base.id if base else ""
    plan: Plan = _claims(machine, host, placement, from_base, intent)
    missing = machine.name not in host.trees
    if missing and copy:
        plan.append(
            steps.CopyTree(
                reason=NEW, machine=machine.name, source=copy.source, origin=copy.origin, uid=placement.uid,
                forget=copy.forget, held=copy.held,
            )
        )  # fmt: skip
    elif missing:
        plan.append(
            steps.MakeTree(
                reason=NEW, machine=machine.name, declared=machine,
                storage=placement.storage, uid=placement.uid, base=base.id if base else "",
            )
        )  # fmt: skip
    declare: Plan = []
    if declaration is not None and host.files.get(machine.origin) != declaration:
        declare.append(_write(machine.origin, declaration, host, machine=machine.name))
    # What is declared, apply makes of its source: a copy of something else has to be there before.
    late = missing and intent == "new"
    plan += [] if late else declare
    wanted = render_machine(machine, placement)
    wanted |= network_files(placement.networks.values(), host)
    writes = _writes(wanted, host, machine=machine.name)
    removals = [
        steps.RemoveFile(reason=STALE, machine=machine.name, path=path)
        for path in owned_files(machine.name, host.files)
        if path not in wanted
    ]
    plan += writes
    plan += drop_stale(placement.networks.values(), wanted, host, machine=machine.name)
    # Before their files go: without them systemd no longer knows that the service belongs to the socket.
    plan += close_ports(removals, machine.name)
    plan += removals
    if missing:
        plan.append(steps.PlaceTree(reason=NEW, machine=machine.name, name=machine.name, storage=placement.storage))
    if late:
        record = _record(machine, host, placement, from_base, "")
        plan += [*declare, steps.Keep(reason="its tree is in its place", machine=machine.name, record=record)]
    # A machine that has used up all it may have could not take another file.
    plan += _disk(machine, host, missing=missing)
    plan += _settle([*writes, *removals], wanted, machine, host, placement)
    plan += _autostart(machine, host)
    return plan + plan_names(host, with_claims(host, plan), machine=machine.name) if names else plan


def _disk(machine: Machine, host: Host, *, missing: bool) -> Plan:
    have = None if missing else host.disks.get(machine.name)
    if machine.disk == have:
        return []
    reason = "its disk is limited" if have is None else "its disk has another limit"
    return [steps.SetDisk(reason=reason, machine=machine.name, size=machine.disk)]


def _claims(machine: Machine, host: Host, placement: Placement, base: str, intent: str) -> Plan:
    own = host.records.get(machine.name)
    plan: Plan = []
    for bridge, network in placement.networks.items():
        if bridge not in host.networks:
            plan.append(
                steps.ClaimNetwork(
                    reason=f"there is no bridge {bridge} yet",
                    machine=machine.name,
                    network=network,
                )
            )
    record = _record(machine, host, placement, base, intent)
    if own != record:
        reason = DIFFERS if own else NEW
        plan.append(steps.Claim(reason=reason, machine=machine.name, record=record))
    return plan


def _record(machine: Machine, host: Host, placement: Placement, base: str, intent: str) -> Record:
    own = host.records.get(machine.name)
    there = machine.name in host.trees
    return Record(
        machine.name,
        dict(placement.addresses),
        ports=tuple(sorted(map(str, machine.publish))),
        foreign=tuple(bridge for bridge in machine.bridges if bridge not in placement.networks),
        addresses6=dict(placement.addresses6),
        networks=tuple(bridge for bridge in placement.networks if bridge not in placement.addresses),
        links=link_targets(machine),
        made=_made(machine, host),
        storage=placement.storage,
        base=base if not there else own.base if own and own.base else host.trees[machine.name].base,
        uid=placement.uid,
        payload=placement.payload,
        disk=machine.disk,
        intent=intent or (own.intent if own and own.intent.startswith("throwaway") else ""),
    )


def _made(machine: Machine, host: Host) -> dict[str, object]:
    """What of the declaration went into the tree: as it is now for a tree that is about to be made, else as it was."""
    own = host.records.get(machine.name)
    if machine.name in host.trees:
        return dict(own.made) if own else {}
    values = declared_values(machine, only=TREE_KEYS)
    return {key: values[key] for key in TREE_KEYS if key in values}


def tree_note(machine: Machine, host: Host) -> str:
    """Say which declared values count for a new tree only and have changed since this one was made; "" for none."""
    own = host.records.get(machine.name)
    if machine.name not in host.trees or own is None or not own.made:
        return ""
    values = declared_values(machine, only=TREE_KEYS)
    changed = [key for key in TREE_KEYS if own.made.get(key) != values.get(key)]
    return f"{', '.join(changed)} changed since its tree was made, which stays as it is" if changed else ""


def _writes(wanted: dict[str, str], host: Host, *, machine: str) -> Plan:
    foreign = [path for path in wanted if path in host.files and paths.owner(path, host.files[path]) is None]
    if foreign:
        raise Conflict(
            f"{foreign[0]} is there already and machctl did not write it",
            hint="move it away, then run the same command again",
        )
    return [_write(path, text, host, machine=machine) for path, text in wanted.items() if host.files.get(path) != text]


def _write(path: str, text: str, host: Host, *, machine: str) -> steps.WriteFile:
    old = host.files.get(path)
    if old is None:
        return steps.WriteFile(reason=NEW, machine=machine, path=path, text=text)
    return steps.WriteFile(reason=DIFFERS, machine=machine, path=path, text=text, detail=_difference(old, text))


def _difference(old: str, new: str) -> str:
    import difflib

    _, _, *lines = [*difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)] or ["", ""]
    # Texts that differ in the newline at their end only have no line that differs.
    return "\n".join(line for line in lines if not line.startswith("@@")) or "-no newline at the end of the file"


def _settle(changes: Plan, wanted: dict[str, str], machine: Machine, host: Host, placement: Placement) -> Plan:
    """What has to be told of the files that changed, and what of them never reached systemd or the kernel.

    The second is looked at by itself: a run may have been killed between a file and its effect.
    """
    changed = [step.path for step in changes if isinstance(step, (steps.WriteFile, steps.RemoveFile))]
    plan: Plan = []
    removed = [step.path for step in changes if isinstance(step, steps.RemoveFile)]
    # Units of ports that were stopped before their files went systemd has forgotten.
    gone = [path for path in removed if is_port_unit(path)]
    units = [path for path in changed if path.startswith(paths.UNIT_DIRECTORY) and path not in gone]
    # What systemd has not loaded it reads when somebody asks for it; units that a target wants it never forgets.
    if any(paths.unit_of(path) in host.loaded for path in units) or paths.sockets_file(machine.name) in removed:
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=machine.name))
    elif machine.name in host.stale_units:
        plan.append(steps.ReloadUnits(reason="systemd has not read its unit files yet", machine=machine.name))
    plan += plan_limits(wanted, machine, host)
    plan += settle(placement.networks.values(), changed, host, machine=machine.name)
    # None of its own files there differ from what is wanted, or the first is true.
    loaded = not placement.networks or host.nat is None or nat_loaded(host)
    plan += load_nat(changed, host, loaded=loaded, machine=machine.name)
    plan += ask_here(placement.networks.values(), host, machine=machine.name)
    plan += plan_links(machine, host, placement)
    plan += stop_waiting(machine.name, host, wanted=link_parents(machine), reason="it no longer leads there")
    bridges = [bridge for bridge, network in placement.networks.items() if network.kind == "bridge"]
    plan += open_ports(changed, wanted, machine, host, bridges=bridges)
    if machine.health is not None or paths.health_file(machine.name) in host.files:
        from machines.plan.health import plan_probing

        plan += plan_probing(machine, changed, host)
    if FIREWALLD in host.active:
        left = {path: text for path, text in host.files.items() if path not in removed}
        plan += plan_opened(host, {**left, **wanted}, machine=machine.name)
    return plan


def _autostart(machine: Machine, host: Host) -> Plan:
    unit = machine_unit(machine.name)
    enabled = host.enabled.get(machine.name, False)
    if machine.autostart and not enabled:
        return [steps.EnableUnit(reason="autostart is on", machine=machine.name, unit=unit)]
    if not machine.autostart and enabled:
        return [steps.DisableUnit(reason="autostart is off", machine=machine.name, unit=unit)]
    return []


def restart_note(plan: Plan, host: Host) -> list[str]:
    """Name the running machines whose changed settings count from their next start on."""
    return sorted({step.machine for step in plan if step.machine in host.running and _counts_later(step, plan)})


def _counts_later(step: steps.Step, plan: Plan) -> bool:
    """Tell whether what a step changes a running machine has at its next start only: links it is given at once."""
    made = {
        paths.guest_network_file(step.machine, other.link)
        for other in plan
        if isinstance(other, (steps.AttachLink, steps.DetachLink)) and other.machine == step.machine
    }
    if isinstance(step, (steps.WriteFile, steps.RemoveFile)) and step.path.startswith(paths.GUEST_DIRECTORY):
        return step.path not in made
    if not isinstance(step, steps.WriteFile) or not step.path.startswith(paths.NSPAWN_DIRECTORY):
        return False
    return not (made and all(line[1:].startswith(LINK_SETTINGS) for line in step.detail.splitlines()))
