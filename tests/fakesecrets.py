# SPDX-License-Identifier: LGPL-2.1-or-later
"""Secrets of a host in memory."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.secret import PLAIN_DIRECTORY, SEALED_DIRECTORY


class FakeSecrets:
    """machines.host.interfaces.Secrets; ``why`` is why nothing is sealed, ``there`` the files that are there.

    ``newer`` are the credentials that were changed since all that runs was started.
    """

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.there: set[str] = set()
        self.newer: set[str] = set()
        self.why = ""
        self.plain = False

    def seal(self, name: str, content: bytes, *, plain: bool = False) -> str:
        self.kept[name] = content
        self.plain = plain
        self.there.add(self._path(name))
        return self.why

    def stored(self) -> dict[str, str]:
        return {name: self._path(name) for name in sorted(self.kept)}

    def is_file(self, path: str) -> bool:
        return path in self.there

    def changed(self, given: Mapping[str, Mapping[str, str]]) -> dict[str, frozenset[str]]:
        found = {unit: frozenset(name for name in each if name in self.newer) for unit, each in given.items()}
        return {unit: names for unit, names in found.items() if names}

    def remove(self, name: str) -> None:
        self.there.discard(self._path(name))
        del self.kept[name]

    def _path(self, name: str) -> str:
        return f"{PLAIN_DIRECTORY if self.why else SEALED_DIRECTORY}/{name}"
