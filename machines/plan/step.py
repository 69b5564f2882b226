# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all steps of a plan have."""

from __future__ import annotations

from machines.model.frozen import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of the host. ``reason`` says why, ``machine`` for whom, ``note`` what else is to know of it."""

    reason: str
    machine: str = ""
    detail: str = ""

    def __str__(self) -> str:
        raise NotImplementedError
