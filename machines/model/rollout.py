# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept of a rollout of a machine: how far it is, and what the machine was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from machines.model.frozen import NamedTuple

TRYING, MOVING, REPLACING, RETURNING, UNDOING = UNFINISHED = ("trying", "moving", "replacing", "returning", "undoing")
DONE, UNDONE, FAILED = "done", "undone", "failed"

# What a machine is made anew by: its declaration, or what it was before.
DECLARED, PREVIOUS = "declared", "previous"

INTENT = "standin"


class Before(NamedTuple):
    """What a machine was: the files on the host that were rendered for it, the text of its record, the snapshot of its
    tree where that was made anew, whether it started at boot, and on which of its published TCP ports it answered."""

    files: Mapping[str, str]
    record: str
    snapshot: str = ""
    enabled: bool = False
    ports: tuple[int, ...] = ()


class Generation(NamedTuple):
    """What a machine is since a rollout: its declaration as a file of its own, if that is known, and what was before.

    Number 0 is what it was before its first rollout.
    """

    number: int = 0
    declaration: str = ""
    before: Before | None = None


class Rollout(NamedTuple):
    """The last rollout of machine ``name``, of the replicas ``group`` or alone; ``at`` in seconds since the epoch.

    ``current`` is what the machine is, or is becoming by ``target``; ``earlier`` what it was until then, while that may
    be gone back to. ``why`` says what went wrong. Near its end it ``ends`` as DONE or UNDONE. ``restored`` is the
    snapshot that became the machine's tree since, ``file`` the one that was taken instead of those of the host.
    """

    name: str
    group: str = ""
    phase: str = ""
    at: float = 0.0
    stand_in: str = ""
    kind: str = ""
    target: str = DECLARED
    why: str = ""
    current: Generation = Generation()
    earlier: Generation | None = None
    ends: str = ""
    restored: str = ""
    file: str = ""

    @property
    def unfinished(self) -> bool:
        """Tell whether it is under way, or was ended in its middle."""
        return self.phase in UNFINISHED


def write_rollout(rollout: Rollout) -> str:
    """Give the text that is kept of a rollout."""
    import json

    earlier = None if rollout.earlier is None else _generation(rollout.earlier)
    content = {**rollout._asdict(), "current": _generation(rollout.current), "earlier": earlier}
    return json.dumps(content, indent=1) + "\n"


def _generation(generation: Generation) -> dict[str, Any]:
    before = generation.before
    return {**generation._asdict(), "before": None if before is None else {**before._asdict()}}


def read_rollout(text: str) -> Rollout | None:
    """Read what was kept of a rollout; None where it is none."""
    import json

    try:
        values = json.loads(text)
        current, earlier = values.pop("current"), values.pop("earlier")
        return Rollout(**values, current=_read(current), earlier=None if earlier is None else _read(earlier))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(values: dict[str, Any]) -> Generation:
    before = values.pop("before")
    return Generation(
        **values, before=None if before is None else Before(**{**before, "ports": tuple(before["ports"])})
    )


def stand_in_name(name: str) -> str:
    """Give what the stand-in of a machine is called."""
    from machines.model.ids import spread
    from machines.model.names import HOST_NAME_MAX

    plain = f"{name}-next"
    if len(plain) <= HOST_NAME_MAX:
        return plain
    return f"{name[: HOST_NAME_MAX - 14].rstrip('.-')}-{spread(name):08x}-next"
