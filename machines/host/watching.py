# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events after which a machine may be another than before: of its unit, of machined's books, of its health."""

from __future__ import annotations

import select
from types import TracebackType
from typing import Self

from machines.host.bus._sdbus import BusError, open_host
from machines.host.bus.signals import LONGEST_SECONDS
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE
from machines.host.inotify import Changes
from machines.host.registered import MACHINES

_HEALTH = "/run/machctl/health"
_PROBES = "/var/lib/machctl/health"


class Events:
    """What may change the state or the health of the machine of ``unit``, from its making on."""

    def __init__(self, unit: str) -> None:
        self._changes = [Changes(directory) for directory in (MACHINES, _HEALTH, _PROBES)]
        self._bus = open_host()
        self._bus.match(
            SERVICE,
            self._bus.object_path(f"{PATH}/unit", unit),
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            lambda _: None,
        )
        try:
            # systemd sends signals only to clients that asked for them.
            self._bus.call(SERVICE, PATH, MANAGER, "Subscribe")
        except BusError as error:
            self.close()
            raise error.translated(doing="listen to systemd") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def filenos(self) -> list[int]:
        """Give the descriptors that become readable when there is something to take()."""
        return [self._bus.fileno(), *(changes.fileno() for changes in self._changes)]

    def wait(self, seconds: float | None) -> None:
        """Wait for the next event, ``seconds`` at most; what is very long may be cut short."""
        poll = select.poll()
        for fd in self.filenos():
            poll.register(fd, select.POLLIN)
        poll.poll(None if seconds is None else min(max(seconds, 0), LONGEST_SECONDS) * 1000 + 1)
        self.take()

    def take(self) -> None:
        """Take note of what came, before the machine is looked at again."""
        for changes in self._changes:
            changes.take()
        try:
            self._bus.dispatch()
        except BusError as error:
            raise error.translated(doing="listen to systemd") from None

    def close(self) -> None:
        """Watch no more."""
        for changes in self._changes:
            changes.close()
        self._bus.close()
