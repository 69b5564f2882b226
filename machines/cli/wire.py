# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's parts put together; each is imported when it is first used."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from machines.host import files, guest
from machines.host.storage import pool

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from machines.host import interfaces
    from machines.host.bus.systemd1 import SystemdManager
    from machines.model.difference import Contents
    from machines.model.limits import Limits
    from machines.operations.usage import Meters


class RealHost:
    """This host (machines.host.interfaces.Host)."""

    files: interfaces.Files = files
    guests: interfaces.Guests = guest
    pool: interfaces.Pool = pool

    @cached_property
    def declarations(self) -> tuple[str, ...]:
        """The files that say what is declared, or patterns of them."""
        from machines.declare.fleet import DECLARATIONS

        return DECLARATIONS

    @cached_property
    def storage(self) -> interfaces.Storage:
        """Bases, layers and drivers."""
        from machines.host import storage

        return cast("interfaces.Storage", storage)

    @cached_property
    def archives(self) -> interfaces.Archives:
        """Machines in archives."""
        from machines.host import archives

        return archives

    @cached_property
    def facts(self) -> interfaces.Facts:
        """What the kernel says."""
        from machines.host import facts

        return facts

    @cached_property
    def meters(self) -> Meters:
        """What machines use."""
        from machines.host import meters

        return meters

    @cached_property
    def secrets(self) -> interfaces.Secrets:
        """What machines are given in secret."""
        from machines.host import secrets

        return secrets

    @cached_property
    def upkeep(self) -> interfaces.Upkeep:
        """What updates of machines need."""
        from machines.host import upkeep

        return upkeep

    @cached_property
    def freezer(self) -> interfaces.Freezer:
        """The kernel's freezer."""
        from machines.host import freezer

        return freezer

    @cached_property
    def hosts(self) -> interfaces.Hosts:
        """The host's hosts(5)."""
        from machines.host import hosts

        return hosts

    @cached_property
    def tools(self) -> interfaces.Tools:
        """Child processes."""
        from machines.host import run

        return run

    @cached_property
    def links(self) -> interfaces.Links:
        """Links and their changes, by netlink."""
        from machines.host import netlink

        return cast("interfaces.Links", netlink)

    @cached_property
    def probes(self) -> interfaces.Probes:
        """Packets sent to see what becomes of them."""
        from machines.host import probe

        return probe

    @cached_property
    def units(self) -> Units:
        """systemd's units, by pystemd."""
        return Units()

    @cached_property
    def jobs(self) -> interfaces.Jobs:
        """systemd's jobs: by pystemd what takes a moment, by dbus-next what is waited for together."""
        from machines.cli.jobs import Jobs

        return Jobs(self.units)

    @cached_property
    def machines(self) -> interfaces.Machines:
        """machined, by dbus-next."""
        from machines.cli.buses import Machines

        return Machines()

    def booted(self) -> bool:
        """Tell whether systemd is PID 1."""
        return os.path.isdir("/run/systemd/system")

    def hostname(self) -> str:
        """Give what this host is called."""
        return os.uname().nodename

    def registered(self) -> dict[str, Any]:
        """Give the running machines by name."""
        from machines.host.registered import registered

        return {entry.name: entry for entry in registered()}

    def running(self) -> dict[str, str]:
        """Give the running machines: name to unit."""
        return {name: entry.unit for name, entry in self.registered().items()}

    def addresses(self, leader: int) -> tuple[str, ...]:
        """Give the global addresses of a running machine."""
        from machines.host.registered import addresses

        return addresses(leader)

    def inner_links(self, leader: int) -> frozenset[str]:
        """Give the names of the links of a running machine."""
        from machines.host.registered import inner_links

        return inner_links(leader)

    def os_release(self, *, leader: int | None, tree: str | None) -> dict[str, str]:
        """Give os-release(5) of a running machine or of a tree."""
        from machines.host.registered import os_release

        root = f"/proc/{leader}/root" if leader is not None else tree
        return os_release(root) if root else {}

    def contents(self, root: str, *, shift: int) -> Contents:
        """Give what is in a tree, as far as it is compared."""
        from machines.host.contents import read_contents

        return read_contents(root, shift=shift)

    def prober(self) -> interfaces.Prober:
        """Give what probes machines."""
        from machines.host.probing import Prober

        return Prober()

    def watch(self, unit: str) -> AbstractContextManager[interfaces.Events]:
        """Give the events of a machine's unit and of its health."""
        from machines.host.watching import Events

        return Events(unit)

    def source(self, kind: str) -> interfaces.SourceMaker:
        """Give what makes trees of a kind of source."""
        from machines.host.sources.registry import source_maker

        return source_maker(kind)


class Units:
    """systemd1 and network1 as operations want them."""

    @cached_property
    def _manager(self) -> SystemdManager:
        from machines.host.bus.systemd1 import SystemdManager

        return SystemdManager()

    def states(self, patterns: Sequence[str]) -> dict[str, str]:
        """Give the active state of loaded units."""
        return {name: state.active for name, state in self._manager.unit_states(patterns).items()}

    def starting(self, unit: str) -> bool:
        """Tell whether a unit is on its way up."""
        state = self._manager.unit_states([unit]).get(unit)
        return state is not None and (state.active == "activating" or state.job in {"start", "restart"})

    def usage(self, unit: str) -> dict[str, object]:
        """Give what a unit uses."""
        import datetime

        details = self._manager.unit_details(unit)
        since = details.active_since if details.active == "active" else None
        return {
            "since": datetime.datetime.fromtimestamp(since / 1e6, datetime.UTC).isoformat() if since else None,
            "memory": details.memory,
            "memory_max": details.memory_max,
            "cpu_seconds": details.cpu_nsec / 1e9 if details.cpu_nsec is not None else None,
            "tasks": details.tasks,
            "result": details.result,
            "restarts": details.restarts,
        }

    def set_limits(self, unit: str, limits: Limits, left: Collection[str] = ()) -> None:
        """Give a running unit other limits."""
        self._manager.set_limits(unit, limits, left)

    def changed(self, units: Mapping[str, str]) -> frozenset[str]:
        """Give the units whose files systemd has not read as they are."""
        from machines.host.bus.systemd1 import UNIT
        from machines.host.loaded import changed_units

        return changed_units(units, lambda unit: bool(self._manager.unit_property(unit, UNIT, "NeedDaemonReload", "b")))

    def allowed_devices(self, unit: str) -> tuple[tuple[str, str], ...]:
        """Give the devices that a unit may use, and what it may do with them."""
        return self._manager.allowed_devices(unit)

    def start(self, unit: str) -> str:
        """Dispatch a job that starts a unit."""
        return self._manager.start(unit)

    def dispatch(self, verb: str, unit: str) -> None:
        """Dispatch a job that starts, stops or restarts a unit."""
        self._manager.dispatch(verb, unit)

    def wait_active(self, wanted: Mapping[str, bool], *, timeout: float) -> bool:
        """Wait until units are active, or are not."""
        return self._manager.wait_active(wanted, timeout=timeout)

    def run_jobs(self, verb: str, units: Sequence[str]) -> None:
        """Start, stop or restart units and wait."""
        self._manager.run_jobs(verb, units)

    def run_job(self, verb: str, unit: str, *, timeout: float) -> str:
        """Start, stop or reload a unit and wait for a moment."""
        return self._manager.run_job(verb, unit, timeout=timeout)

    def wait_started(self, unit: str, job: str, *, timeout: float) -> bool:
        """Wait for a job that was dispatched."""
        return self._manager.wait_started(unit, job, timeout=timeout)

    def thaw(self, unit: str) -> None:
        """Let go on what a unit runs."""
        self._manager.thaw(unit)

    def enable(self, units: Sequence[str]) -> None:
        """Make units start at boot."""
        self._manager.enable(units)

    def disable(self, units: Sequence[str]) -> None:
        """Undo enable()."""
        self._manager.disable(units)

    def reload(self) -> None:
        """Have unit files read again."""
        self._manager.reload()

    def reset_failed(self, unit: str) -> None:
        """Forget that a unit failed."""
        self._manager.reset_failed(unit)

    def reload_networkd(self) -> None:
        """Have networkd read its files again."""
        from machines.host.bus import network1

        network1.reload()
