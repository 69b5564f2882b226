# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a rollout that wait."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.plan.step import Step


@dataclass(frozen=True, kw_only=True)
class AwaitReady(Step):
    """Wait until machine ``name`` does its work, ``seconds`` at most.

    It has to be ``healthy`` where it has a probe, to have its ``addresses``, and to answer on their TCP ``ports``.
    """

    name: str
    seconds: float
    healthy: bool = False
    ports: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "healthy" if self.healthy else "running"
        ports = f" and answers on port {', '.join(map(str, self.ports[:5]))}" if self.ports else ""
        return f"wait until {self.name} is {what}{ports}, {self.seconds:g} seconds at most"


@dataclass(frozen=True, kw_only=True)
class Drain(Step):
    """Wait until nobody is connected to the TCP ``ports`` of machine ``name`` any more, ``seconds`` at most."""

    name: str
    ports: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        return f"let connections to {self.name} end, for {self.seconds:g} seconds at most"
