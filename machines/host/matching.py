# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that match a pattern, as glob(7) has it but with one ``*`` in a name only: glob takes long to import."""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import attrgetter


class Directories:
    """The directories of the host, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, list[os.DirEntry[str]] | None] = {}

    def entries(self, directory: str) -> list[os.DirEntry[str]] | None:
        """Give what is in a directory, by name; None for what is none, or cannot be read."""
        if directory not in self._read:
            try:
                with os.scandir(directory) as found:
                    self._read[directory] = sorted(found, key=attrgetter("name"))
            except OSError:
                self._read[directory] = None
        return self._read[directory]

    def matching(self, patterns: Iterable[str], *, files: bool = False) -> list[str]:
        """Give the paths that match any of the absolute ``patterns``, pattern by pattern, each sorted.

        ``*`` does not stand for the dot of a hidden name. With ``files`` no directories are among them.
        """
        return [path for pattern in patterns for path in self._matching(pattern, files=files)]

    def _matching(self, pattern: str, *, files: bool) -> list[str]:
        found, star = [""], ""
        *above, last = pattern.split("/")[1:]
        for part in above:
            prefix, star, suffix = part.partition("*")
            if star:
                found = [
                    f"{path}/{entry.name}"
                    for path in found
                    for entry in self._named(path or "/", prefix, suffix)
                    if _is_directory(entry)
                ]
            else:
                found = [f"{path}/{part}" for path in found]
        prefix, star, suffix = last.partition("*")
        if not star:
            return [path for path in (f"{path}/{last}" for path in found) if os.path.lexists(path)]
        return [
            f"{path}/{entry.name}"
            for path in found
            for entry in self._named(path or "/", prefix, suffix)
            if not files or not _is_directory(entry)
        ]

    def _named(self, directory: str, prefix: str, suffix: str) -> list[os.DirEntry[str]]:
        least = len(prefix) + len(suffix)
        return [
            entry
            for entry in self.entries(directory) or ()
            if (name := entry.name).startswith(prefix)
            and name.endswith(suffix)
            and len(name) >= least
            and (prefix or not name.startswith("."))
        ]


def matching(pattern: str) -> list[str]:
    """Give the paths that match an absolute pattern, sorted."""
    return Directories().matching([pattern])


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a directory, or leads to one; a symlink may lead in a circle, or to where we may not look."""
    try:
        return entry.is_dir()
    except OSError:
        return False
