# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is checked of every request before a tool gets to see it."""

from __future__ import annotations

import re

from machines.errors import Conflict, InvalidValue, NotFound
from machines.host.interfaces import BootstrapRequest

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")


def check(request: BootstrapRequest, *, package: re.Pattern[str], mirror: re.Pattern[str]) -> None:
    """Raise InvalidValue where a word of ``request`` would be syntax, Conflict for a target in use.

    ``package`` and ``mirror`` are what a package's name and a mirror look like to the tool. Raises NotFound for a
    target or a keyring that does not exist.
    """
    for what, word, pattern in (
        ("suite", request.suite or None, _WORD),
        ("variant", request.variant, _WORD),
        ("mirror", request.mirror, mirror),
        *(("package", name, package) for name in request.packages),
    ):
        if word is not None and not pattern.fullmatch(word):
            raise InvalidValue(f"{what} {word!r} is not valid")
    if request.keyring is not None and not request.keyring.is_file():
        raise NotFound(f"the keyring {request.keyring} does not exist")
    if not request.target.is_dir():
        raise NotFound(f"{request.target} is not a directory to put a tree into")
    if any(entry.name != "lost+found" for entry in request.target.iterdir()):
        raise Conflict(f"{request.target} is not empty, so no tree can be put into it")
