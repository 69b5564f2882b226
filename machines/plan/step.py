# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all steps of a plan have."""

from __future__ import annotations

from machines.model.frozen import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of the host. ``reason`` says why, ``machine`` for whom, ``detail`` what exactly differs.

    ``kind`` is what it costs a machine that runs, where somebody has said so (kinds.py).
    """

    reason: str
    machine: str = ""
    detail: str = ""
    kind: str = ""

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class UpdateStep(Step):
    """A step of an update of a machine's packages (updatesteps.py), which few verbs have to know of."""
