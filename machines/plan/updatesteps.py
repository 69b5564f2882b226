# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the plan of an update is made of, beside what all plans are made of (steps.py)."""

from __future__ import annotations

from machines.model.base import Payload
from machines.model.frozen import dataclass
from machines.model.health import Health
from machines.model.snapshot import Origin, Snapshot
from machines.model.update import DONE, RESTORED, SAVING, UNDOING, UPGRADING, Update, Volume
from machines.plan.step import UpdateStep

_PHASES = {
    SAVING: "is about to be updated", UPGRADING: "is being updated", UNDOING: "gets back what it was",
    RESTORED: "has what it had", DONE: "is updated",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NoteUpdate(UpdateStep):
    """Record how far an update is: whoever finds it half done knows what there is to go back to."""

    update: Update

    def __str__(self) -> str:
        return f"record that {self.machine} {_PHASES[self.update.phase]}"


@dataclass(frozen=True, kw_only=True)
class FindUpgrades(UpdateStep):
    """Ask where a machine gets its packages from what there is to upgrade."""

    def __str__(self) -> str:
        return "look for packages to upgrade"


@dataclass(frozen=True, kw_only=True)
class SaveAll(UpdateStep):
    """Keep the tree of a machine and what it writes into outside of it, both of one moment.

    ``held`` is the machine, where that takes more than a moment: it is held still meanwhile.
    """

    snapshot: Snapshot
    origin: Origin
    volumes: tuple[Volume, ...] = ()
    held: str = ""

    def __str__(self) -> str:
        also = "".join(f", keep a copy of {volume.source}" for volume in self.volumes)
        still = ", the machine held still meanwhile" if self.held else ""
        return f"take snapshot {self.snapshot.name} of {self.machine}{also}{still}"


@dataclass(frozen=True, kw_only=True)
class UpgradePackages(UpdateStep):
    """Have the package manager of a machine upgrade all it has; ``packages`` says what is known to be upgraded."""

    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"upgrade {', '.join(self.packages)}" if self.packages else "upgrade its packages"


@dataclass(frozen=True, kw_only=True)
class RestartServices(UpdateStep):
    """Restart services in a machine."""

    units: tuple[str, ...]

    def __str__(self) -> str:
        return f"restart {', '.join(self.units)} in {self.machine}"


@dataclass(frozen=True, kw_only=True)
class ProveWell(UpdateStep):
    """See whether a machine does its work: by its own probe, by a command, and by what of its units has failed.

    ``failed`` are the units that had failed before, ``units`` those that have to be active. ``limit`` is for how many
    seconds the probe may fail.
    """

    health: Health | None = None
    payload: Payload | None = None
    command: str = ""
    failed: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    limit: float = 0.0

    def __str__(self) -> str:
        said = [f"probe it ({self.health})"] if self.health else []
        said += [f"run {self.command!r} in it"] if self.command else []
        return ", ".join([*said, "see whether units of it have failed"])


@dataclass(frozen=True, kw_only=True)
class RestoreVolume(UpdateStep):
    """Let a directory that a machine writes into be what it was, or do nothing where that was done."""

    volume: Volume

    def __str__(self) -> str:
        return f"bring back {self.volume.source} as it was"


@dataclass(frozen=True, kw_only=True)
class DropVolume(UpdateStep):
    """Remove what was kept of a directory that a machine writes into."""

    volume: Volume

    def __str__(self) -> str:
        return f"remove the copy of {self.volume.source}"


@dataclass(frozen=True, kw_only=True)
class ForgetUpdate(UpdateStep):
    """Remove the record of an update that is done or undone."""

    def __str__(self) -> str:
        return f"forget the update of {self.machine}"


@dataclass(frozen=True, kw_only=True)
class EndMachine(UpdateStep):
    """Stop a machine in order, and the hard way where it does not listen any more."""

    def __str__(self) -> str:
        return f"stop {self.machine}, the hard way if it does not listen"
