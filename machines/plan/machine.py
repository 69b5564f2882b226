# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that makes one machine what it is declared to be."""

from __future__ import annotations

from collections.abc import Sequence

from machines.declare.write import declared_values
from machines.errors import Conflict
from machines.model.base import Base, Payload
from machines.model.frozen import dataclass
from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.names import bridge_unit, machine_unit
from machines.model.observed import Host, Record
from machines.model.snapshot import Origin
from machines.plan import steps
from machines.plan.nat import is_loaded
from machines.plan.place import place
from machines.plan.steps import Plan, Step
from machines.render import paths
from machines.render.files import Placement, render_bridge, render_guest, render_machine

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
    running: str = ""


def plan_machine(
    machine: Machine,
    host: Host,
    *,
    declaration: str | None = None,
    base: Base | None = None,
    copy: Copy | None = None,
    intent: str = "",
) -> Plan:
    """Give the steps from ``host`` to ``machine``: none where it is as declared.

    ``declaration`` is the text of the machine's own declaration file, where machctl has to write that as well;
    ``base`` or ``copy`` is what its tree is made of if it has none, ``intent`` what is recorded of it.
    Raises Conflict for a file in the way that machctl did not write.
    """
    made_of = copy or base
    storage = copy.origin.storage if copy else "raw" if base and base.kind == "raw" else None
    placement = place(machine, host, payload=made_of.payload if made_of else None, storage=storage)
    guest = render_guest(machine, placement)
    from_base = copy.origin.base if copy else base.id if base else ""
    plan: Plan = _claims(machine, host, placement, from_base, intent)
    missing = machine.name not in host.trees
    if missing and copy:
        plan.append(
            steps.CopyTree(
                reason=NEW, machine=machine.name, source=copy.source, origin=copy.origin, uid=placement.uid,
                forget=copy.forget, running=copy.running, guest_files=guest,
            )
        )  # fmt: skip
    elif missing:
        plan.append(
            steps.MakeTree(
                reason=NEW, machine=machine.name, declared=machine, guest_files=guest,
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
    for network in placement.networks.values():
        wanted |= render_bridge(network, networkd=host.networkd, dns=host.dns)
    writes = _writes(wanted, host, machine=machine.name)
    removals = [
        steps.RemoveFile(reason=STALE, machine=machine.name, path=path)
        for path, text in host.files.items()
        if path not in wanted and paths.owner(path, text) == ("machine", machine.name)
    ]
    plan += writes
    # Before their files go: without them systemd no longer knows that the service belongs to the socket.
    plan += _stopped_sockets(removals, machine)
    plan += removals
    if missing:
        plan.append(steps.PlaceTree(reason=NEW, machine=machine.name, name=machine.name, storage=placement.storage))
    if late:
        record = _record(machine, host, placement, from_base, "")
        plan += [*declare, steps.Keep(reason="its tree is in its place", machine=machine.name, record=record)]
    # A machine that has used up all it may have could not take another file.
    plan += _disk(machine, host, missing=missing)
    if not missing and host.trees[machine.name].kind not in {"raw", "lost"}:
        plan += _guest(machine, guest, host)
    plan += _settle([*writes, *removals], wanted, machine, host, placement)
    plan += _autostart(machine, host)
    return plan


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
                    bridge=bridge,
                    subnet=str(network.subnet),
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
    values = declared_values(machine)
    return {key: values[key] for key in TREE_KEYS if key in values}


def tree_note(machine: Machine, host: Host) -> str:
    """Say which declared values count for a new tree only and have changed since this one was made; "" for none."""
    own = host.records.get(machine.name)
    if machine.name not in host.trees or own is None or not own.made:
        return ""
    values = declared_values(machine)
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


def _guest(machine: Machine, wanted: dict[str, str], host: Host) -> Plan:
    plan: Plan = []
    for path, text in wanted.items():
        old = host.guest_files.get((machine.name, path))
        if old != text:
            plan.append(
                steps.WriteGuestFile(
                    reason=NEW if old is None else DIFFERS,
                    machine=machine.name,
                    path=path,
                    text=text,
                    detail="" if old is None else _difference(old, text),
                )
            )
    for (name, path), text in host.guest_files.items():
        # Whoever's name is in it: a tree that was copied from another machine's has that one's address.
        if name == machine.name and path not in wanted and paths.owner(path, text):
            plan.append(steps.RemoveGuestFile(reason=STALE, machine=name, path=path))
    return plan


def _settle(changes: Plan, wanted: dict[str, str], machine: Machine, host: Host, placement: Placement) -> Plan:
    """What has to be told of the files that changed, and what of them never reached systemd or the kernel.

    The second is looked at by itself: a run may have been killed between a file and its effect.
    """
    changed = [step.path for step in changes if isinstance(step, (steps.WriteFile, steps.RemoveFile))]
    plan: Plan = []
    bridges = [bridge for bridge in placement.networks if any(f"70-machctl-{bridge}." in path for path in changed)]
    if bridges and host.networkd:
        plan.append(steps.ReloadNetworkd(reason=f"files of bridge {', '.join(bridges)} changed", machine=machine.name))
    units = [path for path in changed if path.startswith(paths.UNIT_DIRECTORY)]
    # What systemd has not loaded it reads when somebody asks for it.
    if any(paths.unit_of(path) in host.loaded for path in units):
        plan.append(steps.ReloadUnits(reason="unit files changed", machine=machine.name))
    elif machine.name in host.stale_units:
        plan.append(steps.ReloadUnits(reason="systemd has not read its unit files yet", machine=machine.name))
    plan += _limits(wanted, machine, host)
    for bridge in placement.networks:
        unit = bridge_unit(bridge)
        if bridge not in host.links or unit not in host.active:
            reason = f"bridge {bridge} is not up" if bridge not in host.links else f"{unit} is not active"
            plan.append(steps.StartUnit(reason=reason, machine=machine.name, unit=unit, restart=unit in host.active))
    if any(path.startswith(paths.NAT_DIRECTORY) or path == paths.NAT_FILE for path in changed):
        plan.append(steps.LoadNat(reason="its files changed", machine=machine.name))
    elif placement.networks and host.nat is not None and not is_loaded({**host.files, **wanted}, host.nat):
        reason = "it is not what its files say" if host.nat else "it is not loaded"
        plan.append(steps.LoadNat(reason=reason, machine=machine.name))
    if machine.name in host.running:
        plan += _started_sockets(changed, wanted, machine, host)
    return plan


def _limits(wanted: dict[str, str], machine: Machine, host: Host) -> Plan:
    """Limits of a running machine: reading its files again, systemd leaves the cgroup as it is."""
    if machine.name not in host.running:
        return []
    limits = Limits(machine.memory, machine.cpus)
    have = host.limits.get(machine.name)
    if have is None:
        # This kernel keeps none, or not where they can be read: what changed in the file is all there is to go by.
        path = paths.dropin_file(machine.name)
        reason = "its limits changed" if _limit_lines(host.files.get(path, "")) != _limit_lines(wanted[path]) else ""
    else:
        reason = "the kernel has other limits" if have != limits.rounded() else ""
    return [steps.SetLimits(reason=reason, machine=machine.name, limits=limits)] if reason else []


def _limit_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("MemoryMax=", "CPUQuota="))]


def _stopped_sockets(changes: Sequence[Step], machine: Machine) -> Plan:
    units = [step.path.rsplit("/", 1)[1] for step in changes if isinstance(step, steps.RemoveFile)]
    return [
        steps.StopUnit(reason=STALE, machine=machine.name, unit=unit)
        for unit in units
        if unit.endswith(".socket") or (unit.startswith("machctl-port-") and unit.endswith(".service"))
    ]


def _started_sockets(changed: list[str], wanted: dict[str, str], machine: Machine, host: Host) -> Plan:
    """Published ports of a running machine follow at once: their sockets are no part of the machine itself."""
    plan: Plan = []
    for path in wanted:
        unit = path.rsplit("/", 1)[1]
        if not unit.endswith(".socket"):
            continue
        if path in changed or unit not in host.active:
            reason = "its port is published" if path in changed else "nothing listens on its port"
            plan.append(steps.StartUnit(reason=reason, machine=machine.name, unit=unit, restart=True))
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
    late = (paths.NSPAWN_DIRECTORY,)
    return sorted(
        {
            step.machine
            for step in plan
            if step.machine in host.running
            and (
                isinstance(step, (steps.WriteGuestFile, steps.RemoveGuestFile))
                or (isinstance(step, steps.WriteFile) and step.path.startswith(late))
            )
        }
    )
