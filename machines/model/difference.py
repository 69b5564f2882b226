# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a root tree holds, as far as it is compared, and what is different between two of them."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.frozen import NamedTuple

DIFF_LINES_MAX = 1000
"""More lines are not compared one by one: that takes time by the square of their number, and a guest may have any."""


class Size(NamedTuple):
    """What a tree takes of the disk, and how many files and directories it has; a hard link is counted once."""

    bytes: int = 0
    files: int = 0


class File(NamedTuple):
    """A file below /etc.

    ``kind`` is file, link, directory or other (a device, fifo or socket), owners are the guest's. ``digest`` tells
    whether two contents are the same, ``text`` is there where the content is short text that all may read.
    """

    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    digest: str = ""
    text: str | None = None
    target: str = ""


class Contents(NamedTuple):
    """What is compared of a tree: versions by package, files by path, the rest by name as text that says it.

    ``unread`` names, in words, what was there and could not be read.
    """

    packages: Mapping[str, str] = {}
    etc: Mapping[str, File] = {}
    units: Mapping[str, str] = {}
    users: Mapping[str, str] = {}
    groups: Mapping[str, str] = {}
    size: Size = Size()
    unread: tuple[str, ...] = ()


class Change(NamedTuple):
    """Something that has a name and is not the same in both trees; None where it is not there."""

    name: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> str:
        """added, removed or changed."""
        return _kind(self.before, self.after)


class FileChange(NamedTuple):
    """A file that is not the same in both trees; None where it is not there."""

    path: str
    before: File | None
    after: File | None

    @property
    def kind(self) -> str:
        """added, removed or changed."""
        return _kind(self.before, self.after)

    @property
    def what(self) -> tuple[str, ...]:
        """Say in words what of a file that both trees have is different."""
        before, after = self.before, self.after
        if before is None or after is None:
            return ()
        if before.kind != after.kind:
            return (f"{before.kind} -> {after.kind}",)
        words = []
        if before.digest != after.digest:
            words.append("content")
        if before.target != after.target:
            words.append(f"{before.target} -> {after.target}")
        if before.mode != after.mode:
            words.append(f"mode {before.mode:o} -> {after.mode:o}")
        if (before.uid, before.gid) != (after.uid, after.gid):
            words.append(f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}")
        return tuple(words)

    def diff(self) -> list[str]:
        """Give the lines of a unified diff without its two headings; none where one side is no short text."""
        if self.before is None or self.after is None or self.before.text is None or self.after.text is None:
            return []
        old, new = self.before.text.splitlines(), self.after.text.splitlines()
        if max(len(old), len(new)) > DIFF_LINES_MAX:
            return []
        import difflib

        return list(difflib.unified_diff(old, new, lineterm=""))[2:]


class Difference(NamedTuple):
    """What is different between two trees, each sorted by name. The size alone is no change: logs grow."""

    packages: tuple[Change, ...] = ()
    etc: tuple[FileChange, ...] = ()
    units: tuple[Change, ...] = ()
    users: tuple[Change, ...] = ()
    groups: tuple[Change, ...] = ()
    before: Size = Size()
    after: Size = Size()
    unread: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Tell whether there is any change."""
        return bool(self.packages or self.etc or self.units or self.users or self.groups)


def _kind(before: object, after: object) -> str:
    return "added" if before is None else "removed" if after is None else "changed"
