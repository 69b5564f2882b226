# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plans of an update of a machine's packages: what is kept before, what is done then, and both ways out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from machines.declare.foreign.ini import assignments, fields
from machines.errors import Conflict, Unsupported
from machines.model.machine import Machine
from machines.model.observed import Host, Record
from machines.model.snapshot import Origin, Snapshot, is_timed_name
from machines.model.update import DONE, PREFIX, RESTORED, SAVING, UNDOING, UPGRADING, Update, read_update
from machines.plan import steps
from machines.plan.ports import port_units
from machines.plan.steps import Plan
from machines.plan.updatesteps import (
    DropVolume,
    EndMachine,
    FindUpgrades,
    ForgetUpdate,
    NoteUpdate,
    RestartServices,
    RestoreVolume,
    SaveAll,
    UpgradePackages,
)  # fmt: skip
from machines.render import paths

# Nothing can take the place of these in a machine that runs (dbus-daemon(1) says so of itself).
_WHOLE = ("init.scope", "dbus.service", "dbus-broker.service")
# A session is somebody's, and a command of machctl's own ends by itself.
_NOT_OURS = ("user@", "machctl-exec-")
# For how long what a machine does after a kill is still taken for what belongs to the update.
_FRESH_SECONDS = 3600.0


def check_updatable(machine: Machine | None, record: Record | None, name: str) -> None:
    """Raise Unsupported for a machine whose packages cannot be upgraded in its tree for good."""
    why = ""
    if record is not None and record.payload is not None:
        why = "has no init of its own, and its programs are those of its image"
    elif machine is not None and (machine.read_only or machine.volatile or machine.ephemeral):
        words = {"is read-only": machine.read_only, "forgets what is written to it": True}
        why = next(word for word, given in words.items() if given)
    if why:
        raise Unsupported(
            f"machine {name} {why}, so nothing can be upgraded in it",
            hint=f"have a newer image, and make it anew of that: machctl image refresh; machctl rollout --force {name}",
        )


class Binds(NamedTuple):
    """Directories of the host that a machine writes into: its ``own``, and why others are ``left`` alone, by path."""

    own: tuple[str, ...]
    left: Mapping[str, str]


def written_binds(
    machine: Machine,
    declared: Mapping[str, Machine],
    *,
    settings: Mapping[str, str] = {},
    real: Callable[[str], str] = lambda path: path,
) -> Binds:
    """Give what a machine writes into of the host, in so far as no other machine sees it.

    ``settings`` are the texts of .nspawn files by path: who made them may have declared nothing. ``real`` gives where a
    path leads to.
    """
    seen = {(real(bind.source), other.name) for other in declared.values() for bind in other.binds}
    for path, text in settings.items():
        seen |= {(real(source), path.rpartition("/")[2].removesuffix(".nspawn")) for source in _bound(text)}
    own: dict[str, str] = {}
    left: dict[str, str] = {}
    for source in sorted({bind.source for bind in machine.binds if not bind.read_only}, key=real):
        place = real(source)
        if any(_within(place, outer) for outer in own):
            continue
        others = {
            name for path, name in seen if name != machine.name and (_within(path, place) or _within(place, path))
        }
        if others:
            left[source] = f"{', '.join(sorted(others))} {'sees' if len(others) == 1 else 'see'} it too"
        else:
            own[place] = source
    return Binds(tuple(own.values()), left)


def _bound(text: str) -> list[str]:
    """Give the directories of the host that an .nspawn file has a machine see (systemd.nspawn(5))."""
    binds = (each for each in assignments(text) if each.key in {"Bind", "BindReadOnly"})
    sources = (fields(each.value)[0].removeprefix("-") for each in binds)
    # With a plus it is one of the machine's own.
    return [source for source in sources if source.startswith("/")]


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def plan_find(name: str, *, running: bool) -> Plan:
    """Give the steps after which it is known what there is to upgrade."""
    plan: Plan = []
    if not running:
        plan.append(steps.StartMachine(reason="packages are upgraded while it runs", machine=name, name=name))
    return [*plan, FindUpgrades(reason="asked for", machine=name)]


def plan_save(update: Update, origin: Origin, *, now: float) -> Plan:
    """Give the steps after which there is something to go back to."""
    name = update.machine
    kept = Snapshot(
        name, update.snapshot, now, origin.storage, origin.base, origin.uid, "before its packages were upgraded"
    )
    # A snapshot of btrfs is of one moment; several things are only while nobody writes.
    still = origin.storage != "btrfs" or bool(update.volumes)
    why = "so that this can be undone"
    return [
        NoteUpdate(reason=why, machine=name, update=update._replace(phase=SAVING)),
        SaveAll(
            reason=why, machine=name, snapshot=kept, origin=origin, volumes=update.volumes,
            held=name if still else "",
        ),
        NoteUpdate(reason=why, machine=name, update=update._replace(phase=UPGRADING)),
    ]  # fmt: skip


def plan_upgrade(name: str, packages: Iterable[str]) -> Plan:
    """Give the step that upgrades."""
    return [UpgradePackages(reason="there are newer ones", machine=name, packages=tuple(packages))]


def plan_restarts(name: str, stale: Mapping[str, Iterable[str]]) -> Plan:
    """Give the steps after which nothing of a machine runs what was replaced, which ``stale`` has by its units."""
    for unit in _WHOLE:
        if unit in stale:
            reason = f"{_some(stale[unit])} of {unit} was replaced, which only a restart gets rid of"
            return [steps.RestartMachine(reason=reason, machine=name, name=name)]
    units = [unit for unit in stale if unit.endswith(".service") and not unit.startswith(_NOT_OURS)]
    if not units:
        return []
    files = {file for unit in units for file in stale[unit]}
    return [RestartServices(reason=f"{_some(files)} was replaced", machine=name, units=tuple(units))]


def _some(files: Iterable[str]) -> str:
    names = sorted({file.rpartition("/")[2] for file in files})
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def plan_commit(update: Update, snapshots: Mapping[str, Snapshot], *, keep: int) -> Plan:
    """Give the steps that end an update that went well: what it kept goes, but for the ``keep`` newest snapshots."""
    name = update.machine
    own = [each for each in snapshots.values() if is_timed_name(each.name, PREFIX)]
    own.sort(key=lambda each: each.created)
    plan: Plan = [NoteUpdate(reason="it does its work", machine=name, update=update._replace(phase=DONE))]
    plan += [DropVolume(reason="it does its work", machine=name, volume=volume) for volume in update.volumes]
    why = f"{keep} of them {'is' if keep == 1 else 'are'} kept"
    plan += [steps.RemoveSnapshot(reason=why, machine=name, snapshot=each) for each in own[: max(len(own) - keep, 0)]]
    return plan + _end(update, running=True)


def plan_undo(update: Update, host: Host, *, reason: str) -> Plan:
    """Give the steps after which a machine is as it was before an update, wherever that was ended."""
    name = update.machine
    kept = next((each for each in host.snapshots.get(name, ()) if each.name == update.snapshot), None)
    running = name in host.running
    drop: Plan = [DropVolume(reason=reason, machine=name, volume=volume) for volume in update.volumes]
    if kept is not None and update.phase != DONE:
        drop.append(steps.RemoveSnapshot(reason=reason, machine=name, snapshot=kept))
    if update.phase in {SAVING, DONE}:
        return drop + _end(update, running=running)
    if name not in host.trees:
        raise Conflict(
            f"{name} has no tree now, so nothing is taken back{_copies(update)}",
            hint=f"mount what it is on, then: machctl gc; where it is gone for good: machctl rm {name}",
        )
    ports = port_units(name, host) if paths.sockets_file(name) in host.files else ()
    if update.phase == RESTORED:
        return _start_again(update, host, ports, running=running) + drop + _end(update, running=False)
    if kept is None:
        raise Conflict(
            f"{name} has no snapshot {update.snapshot} now, so nothing is taken back{_copies(update)}",
            hint=f"mount what it is on, then: machctl gc; to leave {name} as it is: rm {paths.update_record(name)}",
        )
    plan: Plan = [NoteUpdate(reason=reason, machine=name, update=update._replace(phase=UNDOING))]
    # A connection could start it again while it has no whole tree.
    if ports:
        plan.append(steps.ClosePorts(reason="a connection would start it", machine=name, units=ports))
    if running:
        plan.append(EndMachine(reason="its tree changes", machine=name))
    plan += [RestoreVolume(reason=reason, machine=name, volume=volume) for volume in update.volumes]
    plan.append(steps.RestoreTree(reason=reason, machine=name, snapshot=kept))
    record = host.records.get(name, Record(name))
    if record.disk:
        plan.append(steps.SetDisk(reason="another tree knows no limit yet", machine=name, size=record.disk))
    # What it writes from here on is not to be taken from it by whoever finds this unfinished.
    plan.append(NoteUpdate(reason=reason, machine=name, update=update._replace(phase=RESTORED)))
    return plan + _start_again(update, host, ports, running=False) + drop + _end(update, running=False)


def _start_again(update: Update, host: Host, ports: tuple[str, ...], *, running: bool) -> Plan:
    """Give the steps after which a machine that has its tree back does its work as before."""
    name = update.machine
    plan: Plan = []
    record = host.records.get(name, Record(name))
    if not running and not host.resolved and record.addresses:
        plan.append(steps.KeepNames(reason="the snapshot has the names of its time", machine=name, guests=(name,)))
    if ports:
        sockets = tuple(unit for unit in ports if unit.endswith(".socket"))
        plan.append(steps.OpenPorts(reason="it is whole again", machine=name, units=sockets))
    if update.running and not running:
        plan.append(steps.StartMachine(reason="it was running", machine=name, name=name))
        # Whoever stops it from here on wants that.
        started = update._replace(phase=RESTORED, running=False)
        plan.append(NoteUpdate(reason="it runs as before", machine=name, update=started))
    return plan


def _copies(update: Update) -> str:
    kept = ", ".join(f"that of {volume.source} is {volume.saved}" for volume in update.volumes)
    return f"; what was kept stays: {kept}" if kept else ""


def plan_keep(update: Update) -> Plan:
    """Give the steps after which a machine whose update was killed stays what it is; the snapshot of before stays.

    So do the copies of its volumes where it was getting those back: what is in their place may be but half of them.
    """
    name, why = update.machine, "it is to stay what it is"
    volumes = update.volumes if update.phase != UNDOING else ()
    drop: Plan = [DropVolume(reason=why, machine=name, volume=volume) for volume in volumes]
    return [*drop, ForgetUpdate(reason=why, machine=name)]


def half_restored(update: Update) -> str:
    """Say which places hold but a part of what they had, and where all of it is; "" for none."""
    return "; ".join(
        f"{volume.source} may have but a part of what it had, all of which is in {volume.saved}"
        for volume in (update.volumes if update.phase == UNDOING else ())
    )


def has_served(update: Update, *, up: bool, since: int, now: float) -> bool:
    """Tell whether a machine may have done work since its update was killed that would be lost if that is undone.

    ``up`` tells whether it runs or is about to, ``since`` when it started, as Update has it; ``now`` is in seconds.
    """
    fresh = 0 <= now - update.at <= _FRESH_SECONDS
    if update.phase not in {UPGRADING, UNDOING}:
        return False
    if up:
        return since != update.since or not fresh
    # In the middle of being undone it was stopped by that; of any other nobody knows whether it ran in between.
    return update.phase == UPGRADING and not fresh


def to_run(update: Update, *, up: bool, died: bool, since: int) -> bool:
    """Tell whether a machine is to run once its update is undone, which was killed.

    ``up`` and ``since`` are those of has_served(), ``died`` tells whether it runs no more without having been stopped.
    """
    if up and update.phase in {SAVING, UPGRADING, DONE}:
        # Else it would be stopped as one that only the update has started.
        return update.running or since != update.since
    # In any other phase but that one it was the undoing that stopped it.
    return update.running and (died or update.phase != UPGRADING)


def plan_forget(name: str, text: str, *, reason: str) -> Plan:
    """Give the steps after which nothing is left of an update that was killed, of which ``text`` is the record."""
    update = read_update(text)
    plan: Plan = []
    for volume in update.volumes if update else ():
        if update and update.phase == UNDOING:
            # What is in its place may be but half of it, and it is the host's.
            plan.append(RestoreVolume(reason="it was getting back what it had", machine=name, volume=volume))
        plan.append(DropVolume(reason=reason, machine=name, volume=volume))
    return [*plan, ForgetUpdate(reason=reason, machine=name)]


def _end(update: Update, *, running: bool) -> Plan:
    name = update.machine
    plan: Plan = []
    if running and not update.running:
        plan.append(EndMachine(reason="it did not run before", machine=name))
    return [*plan, ForgetUpdate(reason="nothing is left of it to do", machine=name)]
