# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine waits for before it starts, and the order of machines that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from machines.model.frozen import NamedTuple

if TYPE_CHECKING:
    from machines.model.machine import Machine

HEALTHY = "healthy"


class After(NamedTuple):
    """Another machine that has to be ready, or else a ``unit`` in it active, or it ``healthy``."""

    machine: str
    unit: str = ""
    healthy: bool = False

    def __str__(self) -> str:
        return self.machine + (f"/{self.unit}" if self.unit else f":{HEALTHY}" if self.healthy else "")


def order_of(machines: Mapping[str, Machine]) -> dict[str, frozenset[str]]:
    """Give the other machines among these that each one comes after, by name."""
    return {
        name: frozenset(after.machine for after in machine.after if after.machine in machines and after.machine != name)
        for name, machine in machines.items()
    }


def find_circle(order: Mapping[str, Iterable[str]]) -> list[str]:
    """Give machines that come after each other in a circle, the first one again at the end; nothing where none do."""
    done: set[str] = set()
    for first in order:
        path = [first]
        left = [iter(sorted(order[first]))]
        while left:
            following = next(left[-1], None)
            if following is None:
                left.pop()
                done.add(path.pop())
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done and following in order:
                path.append(following)
                left.append(iter(sorted(order[following])))
    return []


def reverse(order: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Give for each machine those that come after it."""
    return {name: frozenset(other for other, before in order.items() if name in before) for name in order}
