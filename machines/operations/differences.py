# SPDX-License-Identifier: LGPL-2.1-or-later
"""Comparing what two root trees hold; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from machines.model.difference import Change, Contents, Difference, File, FileChange
from machines.plan.names import with_block

NOISE = {
    "/etc/machine-id": "each machine is given its own when it first boots",
    "/etc/.updated": "systemd-update-done.service writes it after each update of /usr",
    "/etc/ld.so.cache": "ldconfig makes it of the libraries that are there",
    "/etc/udev/hwdb.bin": "systemd-hwdb-update.service makes it of the files in hwdb.d",
    "/etc/.pwd.lock": "made by whoever first locks the user database (lckpwdf(3))",
    "/etc/passwd-": "what the file was before its last change",
    "/etc/group-": "what the file was before its last change",
    "/etc/shadow-": "what the file was before its last change",
    "/etc/gshadow-": "what the file was before its last change",
    "/etc/subuid-": "what the file was before its last change",
    "/etc/subgid-": "what the file was before its last change",
    "/etc/systemd/network/10-machctl-*.network": "machctl writes it when it connects the machine",
    "/etc/systemd/resolved.conf.d/machctl.conf": "machctl writes it when it connects the machine",
    "/etc/systemd/resolved.conf.d": "made for what machctl writes in it",
}
"""What booting or machctl itself changes in /etc, by pattern, and why nobody asks for it."""

RESOLVED = frozenset({"../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"})
"""What machctl links /etc/resolv.conf of every machine to; any other is the machine's own choice."""

UNITS = "/etc/systemd/system/"


def compare(before: Contents, after: Contents) -> Difference:
    """Give what became of ``before`` in ``after``, without what every boot changes."""
    units = _changes(before.units, after.units)
    return Difference(
        packages=_changes(before.packages, after.packages),
        etc=tuple(_files(before.etc, after.etc, said={change.name for change in units})),
        units=units,
        users=_changes(before.users, after.users),
        groups=_changes(before.groups, after.groups),
        before=before.size,
        after=after.size,
        unread=tuple(dict.fromkeys([*before.unread, *after.unread])),
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _files(before: Mapping[str, File], after: Mapping[str, File], *, said: set[str]) -> Iterable[FileChange]:
    changes = [
        FileChange(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if not _same(before.get(path), after.get(path))
        and not _is_noise(path, after.get(path))
        and not _only_names(path, before.get(path), after.get(path))
    ]
    parents = {change.path.rpartition("/")[0] for change in changes}
    for change in changes:
        # What comes and goes with its files, and links that are what enables a unit, would be said twice.
        kinds = {file.kind for file in (change.before, change.after) if file is not None}
        twice = (kinds == {"directory"} and change.path in parents) or (
            kinds == {"link"} and change.path.startswith(UNITS) and change.path.rpartition("/")[2] in said
        )
        if change.kind == "changed" or not twice:
            yield change


def _same(before: File | None, after: File | None) -> bool:
    if before is None or after is None:
        return before is after
    # The text is there or not by how much else there was to read.
    return before._replace(text=None) == after._replace(text=None)


def _only_names(path: str, before: File | None, after: File | None) -> bool:
    """Tell whether all that changed in /etc/hosts are the names that machctl keeps there."""
    texts = [file.text if file and file.text is not None else "" for file in (before, after)]
    return path == "/etc/hosts" and with_block(texts[0], ()) == with_block(texts[1], ()) and texts[0] != texts[1]


def _is_noise(path: str, after: File | None) -> bool:
    if path == "/etc/resolv.conf":
        return after is not None and after.kind == "link" and after.target in RESOLVED
    return any(fnmatchcase(path, pattern) for pattern in NOISE)
