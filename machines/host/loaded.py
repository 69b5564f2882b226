# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which units systemd has not read again since their files changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Set

from machines.errors import MachctlError
from machines.host.files import read_text, write_file

# Where systemd looks for units and their drop-ins (systemd.unit(5)), but for what it makes of other things itself.
_DIRECTORIES = (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system",
    "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
)  # fmt: skip


def changed_units(
    units: Mapping[str, str], is_changed: Callable[[str], bool], *, directories: Iterable[str] = _DIRECTORIES
) -> frozenset[str]:
    """Give those of ``units``, instances of templates, whose files systemd has to read again.

    ``is_changed`` tells it of one (NeedDaemonReload in org.freedesktop.systemd1(5)). systemd looks into all places of
    drop-ins for that, which takes it 2 ms: it is asked once for each change of the files in ``directories``. These are
    told by what nobody can set, their inodes and their times of change (st_ctime in stat(3type)); where systemd said
    that it has read them, they are kept in the file that ``units`` has for the unit, if the directory of that is there.
    """
    places = {directory: _names(directory) for directory in directories}
    shared: dict[str, str] = {}
    changed = set()
    for unit, known in units.items():
        # Looked at before systemd is asked: for what changes in between it is asked the next time.
        mark = _mark(unit, places, shared)
        if read_text(known) == mark:
            continue
        if is_changed(unit):
            changed.add(unit)
        elif os.path.isdir(os.path.dirname(known)):
            # Without it systemd is asked again.
            with contextlib.suppress(MachctlError):
                write_file(known, mark)
    return frozenset(changed)


def _names(directory: str) -> Set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return frozenset()


def _mark(unit: str, places: Mapping[str, Set[str]], shared: dict[str, str]) -> str:
    kind = unit.rpartition(".")[2]
    prefix, at, _ = unit.partition("@")
    template = f"{prefix}@.{kind}" if at else unit
    if template not in shared:
        # Those of all units of a kind, and of all whose names begin alike.
        words = prefix.split("-")
        names = [f"{'-'.join(words[:count])}-.{kind}" for count in range(1, len(words))]
        shared[template] = "".join(_own(name, places) for name in (template, *names, kind))
    return _own(unit, places) + shared[template]


def _own(unit: str, places: Mapping[str, Set[str]]) -> str:
    """What changes with the files of a unit; "" where it has none."""
    found = ""
    for directory, names in places.items():
        if unit in names:
            found += _inode(f"{directory}/{unit}")
        if f"{unit}.d" in names:
            path = f"{directory}/{unit}.d"
            found += _inode(path) + "".join(_inode(f"{path}/{name}") for name in sorted(_names(path)))
    return found


def _inode(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_ino:x}.{found.st_ctime_ns:x} "
