# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who hears of what is being done; cli/ has one that draws it."""

from __future__ import annotations

from machines.errors import MachctlError
from machines.plan.steps import Step


class Reporter:
    """Hears of every step before it is done and of how far a long one is; this one keeps silent."""

    def step(self, step: Step) -> None:
        """``step`` is about to be done."""

    def progress(self, machine: str, stage: str, done: int, total: int | None) -> None:
        """The long step of ``machine`` is at ``done`` of ``total`` in ``stage``."""

    def warn(self, text: str) -> None:
        """``text`` says what did not work out, and did not keep the rest from being done."""

    def ended(self, machine: str, error: MachctlError | None) -> None:
        """All that was to be done to ``machine`` is done, or was left with an error."""

    def quietly(self) -> Reporter:
        """Give a reporter for what nobody needs to see."""
        return Reporter()
