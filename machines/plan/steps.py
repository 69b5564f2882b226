# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a plan is made of. A step is data: what to do and why; operations/ does it.

Every step can be done twice. None needs an undo of its own: what a machine was given is recorded before anything
else (Claim), so taking back a half-made machine is the plan that removes it.
"""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.observed import Record
from machines.model.snapshot import Origin, Snapshot
from machines.plan.netsteps import AttachLink as AttachLink
from machines.plan.netsteps import ClaimNetwork as ClaimNetwork
from machines.plan.netsteps import ClosePorts as ClosePorts
from machines.plan.netsteps import DetachLink as DetachLink
from machines.plan.netsteps import KeepNames as KeepNames
from machines.plan.netsteps import KeepResolver as KeepResolver
from machines.plan.netsteps import LoadNat as LoadNat
from machines.plan.netsteps import OpenPorts as OpenPorts
from machines.plan.netsteps import ReloadNetworkd as ReloadNetworkd
from machines.plan.netsteps import ReloadNetworkManager as ReloadNetworkManager
from machines.plan.netsteps import RemoveLink as RemoveLink
from machines.plan.netsteps import SetLink as SetLink
from machines.plan.netsteps import SetSysctl as SetSysctl
from machines.plan.rollsteps import AwaitReady as AwaitReady
from machines.plan.rollsteps import Drain as Drain
from machines.plan.step import Step as Step

_INTENTS = {
    "new": "being made",
    "remove": "being removed",
    "rename": "being renamed",
    "throwaway": "to go when its command ends",
    "ejected": "systemd's alone, and keeps what it was given",
    "pruned": "gone, but for its snapshots",
    "standin": "standing in for another",
}


@dataclass(frozen=True, kw_only=True)
class Claim(Step):
    """Record what a machine is given, before anything is made for it."""

    record: Record

    def __str__(self) -> str:
        addresses = ", ".join(f"{address} on {bridge}" for bridge, address in sorted(self.record.addresses.items()))
        if self.record.intent:
            return f"record that machine {self.record.name} is {_INTENTS[self.record.intent.split()[0]]}"
        return f"record machine {self.record.name}" + (f" with address {addresses}" if addresses else "")


@dataclass(frozen=True, kw_only=True)
class Keep(Step):
    """Record that a machine is made, whose tree nobody could make again."""

    record: Record

    def __str__(self) -> str:
        if self.record.intent:
            return f"record that machine {self.record.name} is {_INTENTS[self.record.intent.split()[0]]}"
        return f"record that machine {self.record.name} is made"


@dataclass(frozen=True, kw_only=True)
class MakeBase(Step):
    """Have a source produce a tree, and keep that to copy machines from."""

    declared: Machine
    fresh: bool = False

    def __str__(self) -> str:
        verb = "bootstrap" if self.declared.source.bootstrapped else "fetch" if self.declared.source.remote else "take"
        return f"{verb} {self.declared.source}"


@dataclass(frozen=True, kw_only=True)
class MakeTree(Step):
    """Copy a base beside the machine's place and make it that machine's."""

    declared: Machine
    storage: str
    base: str
    uid: int | None = None

    def __str__(self) -> str:
        how = {"btrfs": "a snapshot of", "overlay": "a layer over", "reflink": "a shared copy of"}
        return f"make the tree, {how.get(self.storage, 'a copy of')} base {self.base or 'that is made first'}"


@dataclass(frozen=True, kw_only=True)
class CopyTree(Step):
    """Copy the tree of a machine, or a snapshot of one, beside the place of another.

    With ``forget`` what made it the one machine is taken out of it. ``held`` is the machine that is held still
    meanwhile, where the driver copies file by file.
    """

    source: str
    origin: Origin
    uid: int | None = None
    forget: bool = True
    held: str = ""

    def __str__(self) -> str:
        still = f", {self.source} held still meanwhile" if self.held else ""
        return f"copy the tree of {self.source}{still}{'' if self.forget else ', its identity too'}"


@dataclass(frozen=True, kw_only=True)
class TakeSnapshot(Step):
    """Keep how a machine's tree is now; ``held`` as in CopyTree."""

    snapshot: Snapshot
    origin: Origin
    held: str = ""

    def __str__(self) -> str:
        still = ", the machine held still meanwhile" if self.held else ""
        return f"take snapshot {self.snapshot.name} of {self.snapshot.machine}{still}"


@dataclass(frozen=True, kw_only=True)
class RestoreTree(Step):
    """Put a copy of a snapshot in the place of a machine's tree, in one step."""

    snapshot: Snapshot

    def __str__(self) -> str:
        return f"put a copy of snapshot {self.snapshot.name} in the place of the tree"


@dataclass(frozen=True, kw_only=True)
class RemoveSnapshot(Step):
    """Remove a snapshot."""

    snapshot: Snapshot

    def __str__(self) -> str:
        return f"remove snapshot {self.snapshot.name} of {self.snapshot.machine}"


@dataclass(frozen=True, kw_only=True)
class RemoveSnapshots(Step):
    """Remove all snapshots of a machine."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"remove {len(self.names)} snapshots: {', '.join(self.names)}"


@dataclass(frozen=True, kw_only=True)
class RenameTree(Step):
    """Give a machine's tree, layer and snapshots another name."""

    old: str
    new: str
    storage: str = ""

    def __str__(self) -> str:
        return f"rename the tree of {self.old} to {self.new}"


@dataclass(frozen=True, kw_only=True)
class PauseMachine(Step):
    """Hold a machine still until somebody wants it to go on."""

    def __str__(self) -> str:
        return f"pause {self.machine}"


@dataclass(frozen=True, kw_only=True)
class ResumeMachine(Step):
    """Let a machine go on that is paused."""

    def __str__(self) -> str:
        return f"let {self.machine} go on"


@dataclass(frozen=True, kw_only=True)
class ThawMachine(Step):
    """Let a machine go on that a killed run held still."""

    def __str__(self) -> str:
        return f"let {self.machine} go on"


@dataclass(frozen=True, kw_only=True)
class PlaceTree(Step):
    """Put the finished tree into the pool: rename it there, or mount it."""

    name: str
    storage: str = ""

    def __str__(self) -> str:
        return f"{'mount' if self.storage == 'overlay' else 'place'} the tree in /var/lib/machines/{self.name}"


@dataclass(frozen=True, kw_only=True)
class RemoveTree(Step):
    """Remove a root tree from the pool: first out of sight, then away; and the layer it was, if it was one."""

    path: str
    layer: str = ""

    def __str__(self) -> str:
        return f"remove the tree {self.path}"


@dataclass(frozen=True, kw_only=True)
class RemoveBase(Step):
    """Remove a base that nothing was copied from any more, or what is left of one."""

    base: str

    def __str__(self) -> str:
        return f"remove base {self.base}"


@dataclass(frozen=True, kw_only=True)
class MakePool(Step):
    """Make the file that a pool is in, with a btrfs of so many bytes."""

    size: int

    def __str__(self) -> str:
        return f"make a btrfs of {self.size} bytes in a file"


@dataclass(frozen=True, kw_only=True)
class RemoveLeftover(Step):
    """Remove what a run that was killed left in the store."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, kw_only=True)
class SetDisk(Step):
    """Let a machine's tree take so many bytes of disk and no more, or as many as there are."""

    size: int | None

    def __str__(self) -> str:
        return f"let {self.machine} have {'all' if self.size is None else self.size} bytes of disk"


@dataclass(frozen=True, kw_only=True)
class WriteFile(Step):
    """Write a file on the host whole, or not at all; ``over`` one that machctl did not write too.

    Who may not read the file ``like`` may not read it either.
    """

    path: str
    text: str
    mode: int = 0o644
    over: bool = False
    like: str = ""

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True, kw_only=True)
class RemoveFile(Step):
    """Remove a file on the host, and the folders that machctl alone kept there."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, kw_only=True)
class ReloadUnits(Step):
    """Make systemd read its unit files again (org.freedesktop.systemd1.Manager.Reload).

    With ``units`` only if it still has one of these by then: those of a machine it forgets when that stops.
    """

    units: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "reload systemd"


@dataclass(frozen=True, kw_only=True)
class EnableUnit(Step):
    """Start a unit at boot from now on."""

    unit: str

    def __str__(self) -> str:
        return f"enable {self.unit}"


@dataclass(frozen=True, kw_only=True)
class DisableUnit(Step):
    """No longer start a unit at boot."""

    unit: str

    def __str__(self) -> str:
        return f"disable {self.unit}"


@dataclass(frozen=True, kw_only=True)
class StartUnit(Step):
    """Start a unit of machctl's own, again where ``restart`` says so."""

    unit: str
    restart: bool = False

    def __str__(self) -> str:
        return f"{'restart' if self.restart else 'start'} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class SetLimits(Step):
    """Give a running machine its limits at once (org.freedesktop.systemd1.Manager.SetUnitProperties).

    Of those that are ``left`` nothing is declared, and somebody else has set them.
    """

    limits: Limits
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"let {self.machine} have {self.limits}"


@dataclass(frozen=True, kw_only=True)
class StartProbing(Step):
    """Have the timer run by which machines are probed, and probe them once at once; nothing waits for what comes."""

    timer: str
    unit: str

    def __str__(self) -> str:
        return f"start {self.timer}"


@dataclass(frozen=True, kw_only=True)
class StopUnit(Step):
    """Stop a unit of machctl's own."""

    unit: str

    def __str__(self) -> str:
        return f"stop {self.unit}"


@dataclass(frozen=True, kw_only=True)
class StartMachine(Step):
    """Start a machine and wait until it says it is ready."""

    name: str

    def __str__(self) -> str:
        return f"start {self.name}"


@dataclass(frozen=True, kw_only=True)
class RestartMachine(Step):
    """Stop a machine in order and start it again, in one job of systemd's: who dies meanwhile leaves it to that."""

    name: str

    def __str__(self) -> str:
        return f"restart {self.name}"


@dataclass(frozen=True, kw_only=True)
class StopMachine(Step):
    """Power a machine off in order, or end it the hard way where ``terminate`` says so."""

    name: str
    terminate: bool = False

    def __str__(self) -> str:
        return f"{'terminate' if self.terminate else 'stop'} {self.name}"


Plan = list[Step]
