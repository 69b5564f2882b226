# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a tar of a machine says of it beside its tree: attributes of the root directory, which its tree does not have.

Who unpacks it with other tools gets the tree and nothing else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from machines.errors import MachctlError
from machines.host.archive.entries import Entry
from machines.model.base import Payload

_PREFIX = "user.machctl."
_MACHINE = f"{_PREFIX}machine"
_PAYLOAD = f"{_PREFIX}payload"


def marked(entries: Iterable[Entry], *, declaration: str, payload: Payload | None) -> Iterator[Entry]:
    """Give the entries of a tree with what is said of its machine."""
    rest = iter(entries)
    first, _ = _split(next(rest))
    said = {_MACHINE: declaration.encode()}
    if payload is not None:
        said[_PAYLOAD] = json.dumps(payload._asdict()).encode()
    return itertools.chain([first._replace(xattrs={**first.xattrs, **said})], rest)


def unmarked(entries: Iterable[Entry]) -> tuple[Mapping[str, bytes], Iterator[Entry]]:
    """Give what an archive says of its machine, and the entries of the tree alone."""
    rest = iter(entries)
    first = next(rest, None)
    if first is None:
        return {}, rest
    first, said = _split(first)
    return said, itertools.chain([first], rest)


def declaration_of(said: Mapping[str, bytes]) -> str:
    """Give the declaration that an archive holds, "" if it holds none."""
    return said.get(_MACHINE, b"").decode(errors="replace")


def payload_of(said: Mapping[str, bytes], *, archive: str) -> Payload | None:
    """Give what runs in place of an init, None where an archive names nothing. Raises MachctlError."""
    if _PAYLOAD not in said:
        return None
    try:
        found = json.loads(said[_PAYLOAD]).items()
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found}
        payload = Payload(**values)
        if _fits(payload):
            return payload
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise MachctlError(f"{archive}: what it says that its machine runs cannot be read", hint="export it again")


def _fits(payload: Payload) -> bool:
    alike = all(type(value) is type(like) for value, like in zip(payload, Payload(("",)), strict=True))
    words = [*payload.command, *payload.environment, *payload.ports]
    return alike and bool(payload.command) and all(isinstance(word, str) for word in words)


def _split(entry: Entry) -> tuple[Entry, dict[str, bytes]]:
    if entry.path:
        return entry, {}
    said = {key: value for key, value in entry.xattrs.items() if key.startswith(_PREFIX)}
    return entry._replace(xattrs={key: value for key, value in entry.xattrs.items() if key not in said}), said
