# SPDX-License-Identifier: LGPL-2.1-or-later
"""More of what the rooms above see of the host (interfaces.py): probes of machines, and events that concern them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from machines.model.base import Payload
from machines.model.health import Health, Outcome
from machines.model.update import Volume


class Prober(Protocol):
    """machines.host.probing.Prober"""

    def begin(self, name: str, health: Health, leader: int, *, payload: Payload | None = None) -> None: ...
    def busy(self, name: str) -> bool: ...
    def wait(self, seconds: float) -> list[tuple[str, Outcome]]: ...
    def close(self) -> None: ...


class Events(Protocol):
    """machines.host.watching.Events"""

    def filenos(self) -> list[int]: ...
    def wait(self, seconds: float | None) -> None: ...
    def take(self) -> None: ...


class Secrets(Protocol):
    """machines.host.secrets"""

    def seal(self, name: str, content: bytes, *, plain: bool = False) -> str: ...
    def stored(self) -> dict[str, str]: ...
    def is_file(self, path: str) -> bool: ...
    def changed(self, given: Mapping[str, Mapping[str, str]]) -> dict[str, frozenset[str]]: ...
    def remove(self, name: str) -> None: ...


class Upkeep(Protocol):
    """machines.host.upkeep"""

    def looped(self) -> Awaitable[None]:
        """Go on inside of asyncio's loop."""
        ...

    async def run_inside(
        self,
        machine: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None],
    ) -> int: ...
    def stale_units(self, leader: int, unit: str) -> dict[str, tuple[str, ...]]: ...
    def real_path(self, path: str) -> str: ...
    def find_volume(self, path: str, machine: str, number: int) -> Volume | str: ...
    async def save_volume(self, volume: Volume, *, log: str, progress: Callable[[str, int, int | None], None]) -> None:
        """Keep what is in a directory."""
        ...

    async def restore_volume(
        self, volume: Volume, *, log: str, progress: Callable[[str, int, int | None], None]
    ) -> None:
        """Let a directory be what was kept of it."""
        ...

    def drop_volume(self, volume: Volume) -> None: ...
