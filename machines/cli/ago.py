# SPDX-License-Identifier: LGPL-2.1-or-later
"""Times as people read them."""

from __future__ import annotations

import time

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ago(then: object) -> str | None:
    """Give how long ago a time was (seconds since the epoch), in the largest unit that fits; None for none."""
    if not isinstance(then, (int, float)):
        return None
    seconds = max(int(time.time() - then), 0)
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"


def clock(then: object) -> str:
    """Give the time of day of a time, by the host's clock."""
    if not isinstance(then, (int, float)):
        return "-"
    return time.strftime("%H:%M:%S", time.localtime(then))
