# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bases: what a source produced, kept pristine, so that machines are copied from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from machines.model.frozen import NamedTuple

STALE_AFTER_DAYS = 30.0

IMPORTED = "import:"
"""What the source of a base begins with that is one machine's alone, and goes with it."""


class Payload(NamedTuple):
    """What an image without an init runs instead (OCI image-spec, config.md); ``user`` as systemd.nspawn(5) has it."""

    command: tuple[str, ...]
    environment: tuple[str, ...] = ()
    user: str = ""
    directory: str = ""
    ports: tuple[str, ...] = ()
    stop_signal: str = ""

    def told(self, command: Sequence[str], user: str | None) -> Payload:
        """Give it with another command and user, where those are told."""
        return self._replace(command=tuple(command) or self.command, user=user or self.user)


class Base(NamedTuple):
    """A base of the store.

    ``id`` is unique, ``digest`` the same for all of one ``shape``: all values that shaped it, of which ``recipe`` has
    those that somebody declared. ``created`` in seconds since the epoch, ``size`` in bytes, ``kind`` tree or raw.
    """

    id: str
    digest: str
    source: str
    created: float
    kind: str = "tree"
    name: str = ""
    os: str = ""
    size: int = 0
    files: int = 0
    recipe: Mapping[str, object] = {}
    shape: Mapping[str, object] = {}
    payload: Payload | None = None

    @property
    def short(self) -> str:
        """The id as people are shown it."""
        return self.name or self.id


def newest(bases: Mapping[str, Base], shape: Mapping[str, object]) -> Base | None:
    """Give the newest base of that shape."""
    alike = (base for base in bases.values() if base.shape == shape)
    return max(alike, key=lambda base: base.created, default=None)


def find_base(bases: Mapping[str, Base], name: str) -> Base | None:
    """Give the base that is meant by a name, an id, or a prefix of ids that only one digest has."""
    if not name:
        return None
    if name in bases:
        return bases[name]
    named = [base for base in bases.values() if base.name == name]
    if not named and len(name) >= 4:
        named = [base for base in bases.values() if base.id.startswith(name)]
        if len({base.digest for base in named}) > 1:
            return None
    return max(named, key=lambda base: base.created, default=None)
