# SPDX-License-Identifier: LGPL-2.1-or-later
"""An update of the packages of a machine that is under way: what there is to go back to, and how far it is."""

from __future__ import annotations

import json

from machines.model.frozen import NamedTuple

SAVING, UPGRADING, UNDOING, RESTORED, DONE = PHASES = ("saving", "upgrading", "undoing", "restored", "done")
"""While it is saved nothing has changed yet; what was being upgraded is undone; what is restored is never restored a
second time, but started; what is done is but cleaned up.
"""

PREFIX = "before-update-"
"""What the names of the snapshots begin with that updates take."""


class Volume(NamedTuple):
    """A directory of the host that a machine writes into: ``source``, kept at ``saved`` while the machine is updated.

    ``kind`` is how it is kept and brought back: "subvolume" and "directory" change places with what was kept beside
    them, a "mount" stays where it is and gets its content back.
    """

    source: str
    saved: str
    kind: str


class Update(NamedTuple):
    """An update of ``machine``: its tree is kept as ``snapshot``.

    ``running`` tells whether it ran before, and so whether it is to be started where that has to be undone. ``at`` is
    when it was saved, in seconds since the epoch, ``since`` when the machine had started that was
    (microseconds, as machined has it).
    """

    machine: str
    phase: str
    snapshot: str
    running: bool
    volumes: tuple[Volume, ...] = ()
    at: float = 0.0
    since: int = 0


def write_update(update: Update) -> str:
    """Give the text of the record of an update."""
    content = {**update._asdict(), "volumes": [volume._asdict() for volume in update.volumes]}
    return json.dumps(content, indent=1) + "\n"


def read_update(text: str) -> Update | None:
    """Read the record of an update; None where it is none."""
    try:
        values = json.loads(text)
        volumes = tuple(Volume(*(str(each[field]) for field in Volume._fields)) for each in values["volumes"])
        found = Update(
            str(values["machine"]), str(values["phase"]), str(values["snapshot"]), bool(values["running"]), volumes,
            float(values.get("at", 0)), int(values.get("since", 0)),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError):
        return None
    return found if found.phase in PHASES else None
