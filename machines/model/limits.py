# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may use at most."""

from __future__ import annotations

from machines.model.frozen import NamedTuple

_PAGE = 4096


class Limits(NamedTuple):
    """``memory`` in bytes, ``cpus`` in processors; None is no limit."""

    memory: int | None
    cpus: float | None

    def rounded(self) -> Limits:
        """Give them as the kernel keeps them: memory in whole pages (cgroup v2, memory.max)."""
        return Limits(None if self.memory is None else self.memory // _PAGE * _PAGE, self.cpus)

    def __str__(self) -> str:
        memory = "no memory limit" if self.memory is None else f"{self.memory} bytes of memory"
        return f"{memory} and {'no processor limit' if self.cpus is None else f'{self.cpus:g} processors'}"
