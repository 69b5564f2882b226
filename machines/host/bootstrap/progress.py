# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lines of the bootstrap tools say about how far they are; pure."""

from __future__ import annotations

import re

from machines.model.frozen import NamedTuple


class Stage(NamedTuple):
    """A stage in words, how much of it is done, and of how much if that is known."""

    name: str
    done: int
    total: int | None


class AptProgress:
    """Follows ``mmdebstrap --verbose``, which passes on what apt-get(8) and dpkg(1) print.

    mmdebstrap installs in two rounds, the essential packages and the rest; the counts run through both.
    """

    _HEADINGS = (
        ("I: running apt-get update", "reading package lists"),
        ("I: downloading packages", "resolving dependencies"),
        ("I: extracting archives", "extracting"),
        ("I: cleaning package lists", "cleaning up"),
    )
    _COUNTED = (
        (re.compile(r"Get:\d+ "), "fetching"),
        (re.compile(r"Unpacking \S+ \("), "unpacking"),
        (re.compile(r"Setting up \S+ \("), "configuring"),
    )
    _TOTAL = re.compile(r"\d+ upgraded, (\d+) newly installed")

    def __init__(self) -> None:
        self._total = 0
        self._done = {name: 0 for _, name in self._COUNTED}

    def feed(self, line: str) -> Stage | None:
        """Take one line and give where it says the tool is, or None if it says nothing about that."""
        for start, name in self._HEADINGS:
            if line.startswith(start):
                return Stage(name, 0, None)
        if found := self._TOTAL.match(line):
            self._total += int(found[1])
            return Stage("fetching", self._done["fetching"], self._total)
        # Before the first total, Get: lines are the package lists of apt-get update.
        for pattern, name in self._COUNTED if self._total else ():
            if pattern.match(line):
                self._done[name] = min(self._done[name] + 1, self._total)
                return Stage(name, self._done[name], self._total)
        return None


class DebootstrapProgress:
    """Follows the ``I:`` lines of debootstrap(8); the number of packages is known when all are fetched."""

    _HEADINGS = (
        ("I: Retrieving InRelease", "reading package lists"),
        ("I: Retrieving Release", "reading package lists"),
        ("I: Retrieving Packages", "reading package lists"),
        ("I: Resolving dependencies", "resolving dependencies"),
    )
    _FETCHED = re.compile(r"I: Retrieving (\S+) \S")
    # "I: Unpacking required packages..." is a heading, "I: Unpacking libc6:amd64..." a package.
    _HANDLED = re.compile(r"I: (Extracting|Unpacking|Configuring) (\S+)\.\.\.$")

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {
            "fetching": set(), "extracting": set(), "unpacking": set(), "configuring": set()
        }  # fmt: skip

    def feed(self, line: str) -> Stage | None:
        """Take one line and give where it says the tool is, or None if it says nothing about that."""
        for start, name in self._HEADINGS:
            if line.startswith(start):
                return Stage(name, 0, None)
        if found := self._FETCHED.match(line):
            return self._count("fetching", found[1], total=None)
        if found := self._HANDLED.match(line):
            stage = found[1].lower()
            fetched = len(self._seen["fetching"])
            return self._count(stage, found[2], total=None if stage == "extracting" else fetched)
        return None

    def _count(self, stage: str, package: str, *, total: int | None) -> Stage:
        # A set, because some core packages are configured twice.
        self._seen[stage].add(package)
        done = len(self._seen[stage])
        return Stage(stage, done, None if not total or done > total else total)


class PacmanProgress:
    """Follows what pacman(8) prints where it has no terminal: a line per package and kind of work."""

    _HEADINGS = (
        (":: Synchronizing package databases", "reading package lists"),
        ("resolving dependencies", "resolving dependencies"),
        ("checking ", "checking packages"),
        (":: Running post-transaction hooks", "configuring"),
    )
    _TOTAL = re.compile(r"Packages? \((\d+)\)")
    _FETCHED = re.compile(r"\s*\S+ downloading\.\.\.$")
    _INSTALLED = re.compile(r"installing \S+?\.\.\.$")

    def __init__(self) -> None:
        self._total: int | None = None
        self._fetched = 0
        self._installed = 0

    def feed(self, line: str) -> Stage | None:
        """Take one line and give where it says the tool is, or None if it says nothing about that."""
        if found := self._TOTAL.match(line):
            self._total = int(found[1])
            return Stage("fetching", 0, self._total)
        if self._INSTALLED.match(line):
            self._installed += 1
            return Stage("installing", self._installed, self._total)
        # Before the total these are the databases; a signature is a download of its own.
        if self._total and self._FETCHED.match(line):
            self._fetched = min(self._fetched + 1, self._total)
            return Stage("fetching", self._fetched, self._total)
        for start, name in self._HEADINGS:
            if line.startswith(start):
                return Stage(name, 0, None)
        return None


class DnfProgress:
    """Follows dnf(8) and dnf5(8), which count their packages in brackets or at the end of the line."""

    _HEADINGS = (
        ("Updating and loading repositories", "reading package lists"),
        ("Dependencies resolved", "resolving dependencies"),
        ("Running transaction check", "checking packages"),
    )
    _COUNTED = (
        (re.compile(r"\((\d+)/(\d+)\): "), "fetching"),
        (re.compile(r"\s*Installing\s+: \S+\s+(\d+)/(\d+)"), "installing"),
        (re.compile(r"\[ *(\d+)/(\d+)\] Installing "), "installing"),
        (re.compile(r"\[ *(\d+)/(\d+)\] \S+:\S+ +100% "), "fetching"),
    )

    def feed(self, line: str) -> Stage | None:
        """Take one line and give where it says the tool is, or None if it says nothing about that."""
        for start, name in self._HEADINGS:
            if line.startswith(start):
                return Stage(name, 0, None)
        for pattern, name in self._COUNTED:
            if found := pattern.match(line):
                return Stage(name, int(found[1]), int(found[2]))
        return None
