# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that a verb takes in the place of those of the host."""

from __future__ import annotations

import os

from machines.cli import words
from machines.cli.wire import RealHost
from machines.errors import InvalidValue, NotFound
from machines.model.names import is_pattern

FILE = words.Option(None, "--file", "-f", metavar="FILE", help="Read this file and not those in /etc/machctl.")


def host_of(file: str | None) -> RealHost:
    """Give this host, with what that file declares if there is one. Raises NotFound, InvalidValue."""
    host = RealHost()
    if file is not None:
        host.declarations = _declaration(file)
    return host


def _declaration(file: str) -> tuple[str, ...]:
    path = os.path.abspath(file)
    if not os.path.isfile(path):
        # Nothing declared would be a fleet without machines.
        raise NotFound(f"there is no file {path}", hint="machctl fleet init FILE writes one to begin with")
    if is_pattern(path):
        raise InvalidValue(f"{path!r} would be read as a pattern", hint="call it something without * ? [")
    return (path,)
