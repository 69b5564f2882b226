# SPDX-License-Identifier: LGPL-2.1-or-later
"""What says that an apply is under way: whoever finds it at boot goes on with that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from machines.model.frozen import NamedTuple
from machines.operations.fleetplan import PLAIN, Wishes
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


class Unfinished(NamedTuple):
    """An apply that did not come to its end: what it was to do, by which declarations."""

    names: list[str]
    wishes: Wishes
    declarations: tuple[str, ...]


def write_unfinished(names: list[str], wishes: Wishes, host: Host) -> str:
    """Keep what is to be known of an apply to go on with it; give the text that was written."""
    content = {"names": names, "declarations": list(host.declarations), **wishes._asdict()}
    text = json.dumps(content) + "\n"
    host.files.write_file(paths.APPLYING_FILE, text)
    return text


def unmark(mine: str, host: Host, *, before: str | None = None) -> None:
    """Take away what this apply wrote of itself, or put back what was there; what another wrote since stays."""
    if host.files.read_text(paths.APPLYING_FILE) != mine:
        return
    if before is None:
        host.files.remove_file(paths.APPLYING_FILE)
    else:
        host.files.write_file(paths.APPLYING_FILE, before)


def read_unfinished(host: Host) -> Unfinished | None:
    """Give the apply that did not come to its end, None where there is none."""
    text = host.files.read_text(paths.APPLYING_FILE)
    if text is None:
        return None
    try:
        values = json.loads(text)
        names = [str(name) for name in values.pop("names")]
        files = tuple(str(path) for path in values.pop("declarations"))
        pruned, recreated = _agreed(values.pop("pruned")), _agreed(values.pop("recreated"))
        flags: dict[str, Any] = {key: bool(values[key]) for key in Wishes._fields[: Wishes._fields.index("pruned")]}
        return Unfinished(names, PLAIN._replace(**flags, pruned=pruned, recreated=recreated), files)
    except (ValueError, TypeError, KeyError, AttributeError):
        # Whatever it was to do, what is declared is what everything has to be.
        return Unfinished([], PLAIN, host.declarations)


def _agreed(names: list[object] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(map(str, names))
