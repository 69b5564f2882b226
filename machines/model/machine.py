# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine as it is declared, by flags or in a file."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.model.source import Source

DEFAULT_BRIDGE = "machctl0"


@dataclass(frozen=True)
class Bind:
    """A directory or file of the host that the machine sees, at ``destination``."""

    source: str
    destination: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.destination}" + (":ro" if self.read_only else "")


@dataclass(frozen=True, order=True)
class Publish:
    """A TCP port of the machine that answers on the host: on ``address`` only, or on every address when None."""

    host: int
    guest: int
    address: str | None = None

    def __str__(self) -> str:
        if self.address is None:
            return f"{self.host}:{self.guest}"
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.host}:{self.guest}"

    def collides(self, other: Publish) -> bool:
        """Tell whether both want the same port of an address they have in common."""
        return self.host == other.host and (
            self.address is None or other.address is None or self.address == other.address
        )


@dataclass(frozen=True)
class Machine:
    """A declared machine. ``memory`` and ``disk`` are in bytes, ``cpus`` in processors (1.5 is one and a half)."""

    name: str
    source: Source
    origin: str
    bridges: tuple[str, ...] = (DEFAULT_BRIDGE,)
    publish: tuple[Publish, ...] = ()
    binds: tuple[Bind, ...] = ()
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    variant: str = "minbase"
    bootstrapper: str = "auto"
    keyring: str | None = None
    checksum: str | None = None
    insecure: bool = False
    storage: str = "auto"
    disk: int | None = None
    ephemeral: bool = False
    memory: int | None = None
    cpus: float | None = None
    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    autostart: bool = False
