# SPDX-License-Identifier: LGPL-2.1-or-later
"""What doctor has to say: one thing that was looked at, and what mends it."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.plan.steps import Step


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    ``level`` is ok, warning (something will not work), bad (nothing will) or skipped (not looked at, since what it
    depends on is broken). ``fix`` are the steps that mend it and can do no harm; most remedies are for people.
    """

    check: str
    level: str
    message: str
    remedy: str = ""
    fix: tuple[Step, ...] = ()

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has."""
        return {"check": self.check, "level": self.level, "message": self.message, "remedy": self.remedy or None}
