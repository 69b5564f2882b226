# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of machines that answer on the host."""

from __future__ import annotations

from machines.model.frozen import dataclass


@dataclass(frozen=True, order=True)
class Publish:
    """Ports of a machine that answer on the host: on ``address`` only, or on every address when None.

    ``host`` and ``guest`` are the first ports, ``count`` how many there are from them on; ``protocol`` is tcp or udp.
    """

    host: int
    guest: int
    address: str | None = None
    protocol: str = "tcp"
    count: int = 1

    def __str__(self) -> str:
        text = f"{_range(self.host, self.count)}:{_range(self.guest, self.count)}"
        if self.address is not None:
            text = f"[{self.address}]:{text}" if ":" in self.address else f"{self.address}:{text}"
        return text if self.protocol == "tcp" else f"{text}/{self.protocol}"

    @property
    def shown(self) -> str:
        """The ports of the host alone: 8080, 8000-8010, 53/udp."""
        return _range(self.host, self.count) + ("" if self.protocol == "tcp" else f"/{self.protocol}")

    def collides(self, other: Publish) -> bool:
        """Tell whether both want the same port of an address they have in common."""
        return (
            self.protocol == other.protocol
            and self.host < other.host + other.count
            and other.host < self.host + self.count
            and (self.address is None or other.address is None or self.address == other.address)
        )


@dataclass(frozen=True, order=True)
class Egress:
    """Ports that a machine may reach: ``first`` to ``last`` of ``protocol`` (tcp or udp)."""

    first: int
    last: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{_range(self.first, self.last - self.first + 1)}" + ("" if self.protocol == "tcp" else "/udp")


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
