# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copying files between the host and machines: which tree a word of the command line means, and how its ids lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from machines.errors import InvalidValue, NotRunning, Unsupported
from machines.model.ids import first_of_range
from machines.model.names import check_known_name, machine_lock
from machines.model.place import Place
from machines.operations.inspect import require

if TYPE_CHECKING:
    from machines.host.interfaces import Host

STREAM = "-"

# What nspawn mounts in every machine, and what leads there in all of them (file-hierarchy(7)).
_MOUNTED = ("/dev", "/proc", "/run", "/sys", "/tmp")
_LINKS = {"/var/run": "/run", "/var/lock": "/run/lock"}


@contextlib.contextmanager
def sides(words: Sequence[str], host: Host) -> Iterator[list[Place | None]]:
    """Give the side that each ``NAME:PATH`` or ``PATH`` means, None for ``-``. Machines that do not run are locked.

    Raises InvalidValue, NotFound for a machine that there is none of, NotRunning for one without a tree to read,
    Unsupported for a disk image.
    """
    with contextlib.ExitStack() as locks:
        found: dict[str, tuple[str, int]] = {}
        for name in sorted({_split(word)[0] or "" for word in words if word != STREAM}):
            if name:
                found[name] = _root(name, host, locks)
        yield [None if word == STREAM else _side(word, found) for word in words]


def hidden(place: Place | None) -> str:
    """Give what of a machine that does not run lies over a place in its tree once it does; "" for nothing."""
    if place is None or not place.machine or place.root.startswith("/proc/"):
        return ""
    path = os.path.normpath(place.path)
    for link, target in _LINKS.items():
        if path == link or path.startswith(f"{link}/"):
            path = target + path.removeprefix(link)
    return next((over for over in _MOUNTED if path == over or path.startswith(f"{over}/")), "")


def is_machine(word: str) -> bool:
    """Tell whether a word means a path in a machine."""
    return word != STREAM and _split(word)[0] is not None


def _side(word: str, found: Mapping[str, tuple[str, int]]) -> Place:
    name, path = _split(word)
    return Place("", "/", path) if name is None else Place(name, found[name][0], path, found[name][1])


def _root(name: str, host: Host, locks: contextlib.ExitStack) -> tuple[str, int]:
    """Give what is "/" to a machine, and where its private ids begin."""
    check_known_name(name)
    running = host.registered().get(name)
    if running is not None:
        return f"/proc/{running.leader}/root", _first_id(running.leader, host)
    require([name], host)
    locks.enter_context(host.files.lock(machine_lock(name), what=f"machine {name}"))
    tree = host.pool.trees().get(name)
    if tree is None:
        raise NotRunning(f"machine {name} does not run and has no tree", hint=f"machctl status {name}")
    if tree.kind == "raw":
        raise Unsupported(f"machine {name} is a disk image and does not run", hint=f"machctl start {name}")
    if tree.kind == "overlay":
        host.storage.mount(name)
    return tree.path, first_of_range(os.stat(tree.path).st_uid)


def _split(word: str) -> tuple[str | None, str]:
    name, colon, path = word.partition(":")
    if not word or (colon and not name):
        raise InvalidValue(f"{word!r} is no path", hint="write NAME:/path, or a path of the host")
    # As scp and docker have it, a slash before the colon makes it a path of the host.
    if not colon or "/" in name or name in {".", ".."}:
        return None, word
    return name, "/" + path.lstrip("/")


def _first_id(leader: int, host: Host) -> int:
    """Give the host's id of the user that is root in a running machine (user_namespaces(7))."""
    words = (host.files.read_text(f"/proc/{leader}/uid_map") or "").split()
    return int(words[1]) if len(words) >= 3 and words[0] == "0" else 0
