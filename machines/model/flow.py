# SPDX-License-Identifier: LGPL-2.1-or-later
"""A flow of UDP that the kernel tracks."""

from __future__ import annotations

from machines.model.frozen import NamedTuple


class Flow(NamedTuple):
    """Who was asked at which port, and who answers from which; ``local`` tells that the first is the host itself.

    The two are the same where nothing leads the flow elsewhere, and ``local`` is looked at then only.
    """

    asked: str
    port: int
    answers: str
    source: int
    local: bool = False
