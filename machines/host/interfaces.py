# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the rooms above see of the host: small Protocols and the plain values that cross them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[str, int, "int | None"], None]
"""``progress(stage, done, total)``: the stage in words ("fetching"), and how much of it is done, of how much if known."""


@dataclass(frozen=True)
class BootstrapRequest:
    """One run of a bootstrapper: ``target`` is an empty directory of mode 0755, ``log`` gets all the tool prints."""

    distribution: str
    suite: str
    packages: tuple[str, ...]
    target: Path
    log: Path
    variant: str = "minbase"
    mirror: str | None = None
    keyring: Path | None = None


class Bootstrapper(Protocol):
    """A tool that makes root trees."""

    name: str

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs this bootstrapper needs that the host does not have; empty when it can run."""
        ...

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; on failure or cancellation nothing of the tool is left running or mounted.

        Raises CommandFailed naming the cause, with the log's path in the hint.
        """
        ...
