# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a plan is made of. A step is data: what to do and why; operations/ does it.

Every step can be done twice. None needs an undo of its own: what a machine was given is recorded before anything
else (Claim), so taking back a half-made machine is the plan that removes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from machines.model.limits import Limits
from machines.model.machine import Machine
from machines.model.observed import Record


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of the host. ``reason`` says why, ``machine`` for whom, ``note`` what else is to know of it."""

    reason: str
    machine: str = ""
    detail: str = ""

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Claim(Step):
    """Record what a machine is given, before anything is made for it."""

    record: Record

    def __str__(self) -> str:
        addresses = ", ".join(f"{address} on {bridge}" for bridge, address in sorted(self.record.addresses.items()))
        return f"record machine {self.record.name}" + (f" with address {addresses}" if addresses else "")


@dataclass(frozen=True, kw_only=True)
class ClaimNetwork(Step):
    """Record the subnet of a bridge that machctl makes."""

    bridge: str
    subnet: str

    def __str__(self) -> str:
        return f"record bridge {self.bridge} with subnet {self.subnet}"


@dataclass(frozen=True, kw_only=True)
class MakeTree(Step):
    """Bootstrap a root tree beside its place and make it a machine's."""

    declared: Machine
    guest_files: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"bootstrap {self.declared.source}"


@dataclass(frozen=True, kw_only=True)
class PlaceTree(Step):
    """Rename the finished tree into the pool."""

    name: str

    def __str__(self) -> str:
        return f"place the tree in /var/lib/machines/{self.name}"


@dataclass(frozen=True, kw_only=True)
class RemoveTree(Step):
    """Remove a root tree from the pool: first out of sight, then away."""

    path: str

    def __str__(self) -> str:
        return f"remove the tree {self.path}"


@dataclass(frozen=True, kw_only=True)
class WriteFile(Step):
    """Write a file on the host whole, or not at all."""

    path: str
    text: str
    mode: int = 0o644

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True, kw_only=True)
class RemoveFile(Step):
    """Remove a file on the host, and the folders that machctl alone kept there."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, kw_only=True)
class WriteGuestFile(Step):
    """Write a file inside a machine's tree."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"write {self.path} in the tree of {self.machine}"


@dataclass(frozen=True, kw_only=True)
class RemoveGuestFile(Step):
    """Remove a file inside a machine's tree."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path} in the tree of {self.machine}"


@dataclass(frozen=True, kw_only=True)
class ReloadUnits(Step):
    """Make systemd read its unit files again (org.freedesktop.systemd1.Manager.Reload)."""

    def __str__(self) -> str:
        return "reload systemd"


@dataclass(frozen=True, kw_only=True)
class ReloadNetworkd(Step):
    """Make networkd read its files again (org.freedesktop.network1.Manager.Reload)."""

    def __str__(self) -> str:
        return "reload systemd-networkd"


@dataclass(frozen=True, kw_only=True)
class LoadNat(Step):
    """Load the nft table inet machctl anew from its files; without any, drop it."""

    drop: bool = False

    def __str__(self) -> str:
        return "drop the nft table inet machctl" if self.drop else "load the nft table inet machctl"


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
    """Give a running machine its limits at once (org.freedesktop.systemd1.Manager.SetUnitProperties)."""

    limits: Limits

    def __str__(self) -> str:
        return f"let {self.machine} have {self.limits}"


@dataclass(frozen=True, kw_only=True)
class StopUnit(Step):
    """Stop a unit of machctl's own."""

    unit: str

    def __str__(self) -> str:
        return f"stop {self.unit}"


@dataclass(frozen=True, kw_only=True)
class RemoveLink(Step):
    """Remove a link that machctl made; networkd leaves the bridges it made when their files go."""

    link: str

    def __str__(self) -> str:
        return f"remove link {self.link}"


@dataclass(frozen=True, kw_only=True)
class StartMachine(Step):
    """Start a machine and wait until it says it is ready."""

    name: str

    def __str__(self) -> str:
        return f"start {self.name}"


@dataclass(frozen=True, kw_only=True)
class StopMachine(Step):
    """Power a machine off in order, or end it the hard way where ``terminate`` says so."""

    name: str
    terminate: bool = False

    def __str__(self) -> str:
        return f"{'terminate' if self.terminate else 'stop'} {self.name}"


Plan = list[Step]
