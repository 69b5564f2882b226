# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory that keeps snapshots, and a fleet on it that is planned and applied."""

from __future__ import annotations

import asyncio
from typing import Any

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.declare.fleet import own_file
from machines.errors import MachctlError
from machines.host.interfaces import Progress
from machines.model.snapshot import Origin, Snapshot
from machines.operations import applying, fleetplan
from machines.operations.fleetplan import PLAIN, FleetPlan

PRUNE = PLAIN._replace(prune=True)
PURGE = PRUNE._replace(purge=True)
RECREATE = PLAIN._replace(recreate=True)


class Keeping(FakeHost):
    """A host that keeps snapshots."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.storage.driver = "btrfs"
        self.storage.origin_of_machine = self._origin
        self.storage.take_snapshot = self._take

    def _origin(self, name: str, storage: str, *, base: str, uid: int | None) -> Origin:
        return Origin(self.placed[name].path, storage, base, uid)

    async def _take(self, snapshot: Snapshot, origin: Origin, *, log: str, progress: Progress) -> None:
        self.call(f"snapshot {snapshot.machine}")
        self.storage.snapshots.setdefault(snapshot.machine, {})[snapshot.name] = snapshot


def made(*names: str) -> Keeping:
    host = Keeping()
    for name in names:
        create(host, web(name, publish=()))
    return host


def forget(host: FakeHost, name: str) -> None:
    del host.files.texts[own_file(name)]


def planned(host: FakeHost, wishes: fleetplan.Wishes = PLAIN) -> FleetPlan:
    return fleetplan.fleet_plan([], host, verb="plan", wishes=wishes)


def applied(host: FakeHost, wishes: fleetplan.Wishes) -> dict[str, MachctlError]:
    return asyncio.run(applying.apply([], host, REPORTER, wishes))[1]
