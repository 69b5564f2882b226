# SPDX-License-Identifier: LGPL-2.1-or-later
"""Secrets of this host, in directories of our own: sealed ones and, where systemd seals none, plain ones.

A secret passes from memory into a child's stdin and from there into a file that only root reads; it is never a word of
a command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from machines.errors import Conflict, MachctlError, NotPermitted
from machines.host import files
from machines.host.run import pipe, which
from machines.model.secret import PLAIN_DIRECTORY, SEALED_DIRECTORY, SIZE_MAX

_CREDS = "systemd-creds"
_GIVEN_DIRECTORY = "/run/credentials"


def seal(name: str, content: bytes, *, plain: bool = False) -> str:
    """Keep a secret under ``name``; give why it is kept unsealed, "" where it is sealed (systemd-creds(1), encrypt).

    One that was sealed stays as it was where it cannot be sealed again, but with ``plain``: units name the sealed one.
    Raises Conflict for that, MachctlError, NotPermitted.
    """
    if len(content) > SIZE_MAX:
        raise MachctlError(f"secret {name} has {len(content)} bytes; a credential may have {SIZE_MAX}")
    text, why = _sealed(name, content)
    if text is not None:
        _write(f"{SEALED_DIRECTORY}/{name}", text.encode())
        _remove(f"{PLAIN_DIRECTORY}/{name}")
        return ""
    if not plain and os.path.lexists(f"{SEALED_DIRECTORY}/{name}"):
        raise Conflict(
            f"secret {name} was sealed, and cannot be now: {why}",
            hint="the one from before is kept; to have this one, readable by root alone, say --plain",
        )
    _write(f"{PLAIN_DIRECTORY}/{name}", content)
    _remove(f"{SEALED_DIRECTORY}/{name}")
    return why


def stored() -> dict[str, str]:
    """Give the secrets that are kept: name to path. A sealed one is used before a plain one of its name.

    Raises NotPermitted for whoever may not look there: to him all would seem to be missing.
    """
    found = {}
    for directory in (PLAIN_DIRECTORY, SEALED_DIRECTORY):
        try:
            entries = list(os.scandir(directory))
        except PermissionError as error:
            raise NotPermitted(
                f"secrets need root: {directory} cannot be read", hint="run it again with sudo"
            ) from error
        except OSError:
            continue
        found.update({entry.name: entry.path for entry in entries if entry.is_file() and entry.name[:1] != "."})
    return dict(sorted(found.items()))


def is_file(path: str) -> bool:
    """Tell whether there is a file to read a secret from: systemd would take a directory for many."""
    return os.path.isfile(path)


def changed(given: Mapping[str, Mapping[str, str]]) -> dict[str, frozenset[str]]:
    """Tell which credentials of units that run are others by now: ``given`` is unit to name to the file it is read of.

    What a unit was given lies where only root reads, as long as it runs (systemd.exec(5), LoadCredential=). Of a sealed
    one it is enough to know that it is older, but for one that was only touched since.
    """
    opened: dict[str, bytes | None] = {}
    found: dict[str, frozenset[str]] = {}
    for unit, each in given.items():
        names = frozenset(name for name, path in each.items() if _differs(unit, name, path, opened))
        found |= {unit: names} if names else {}
    return found


def _differs(unit: str, name: str, path: str, opened: dict[str, bytes | None]) -> bool:
    loaded = f"{_GIVEN_DIRECTORY}/{unit}/{name}"
    try:
        have, kept = os.stat(loaded), os.stat(path)
        sealed = os.path.dirname(path) == SEALED_DIRECTORY
        if sealed and kept.st_ctime_ns <= have.st_mtime_ns:
            return False
        if path not in opened:
            opened[path] = _opened(path) if sealed else _content(path)
        content = opened[path]
        # One that cannot be opened now, as it was sealed elsewhere, the machine would not be given either.
        return content is not None and content != _content(loaded)
    except OSError:
        # It has not got it, or whoever asks may not see it.
        return False


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(SIZE_MAX + 1)


def _opened(path: str) -> bytes | None:
    command = [_CREDS, f"--name={os.path.basename(path)}", "decrypt", "-", "-"]
    with contextlib.suppress(MachctlError), open(path, "rb") as file, pipe(command, source=file.fileno()) as stream:
        return stream.read()
    return None


def remove(name: str) -> None:
    """Forget a secret; none is fine."""
    for directory in (SEALED_DIRECTORY, PLAIN_DIRECTORY):
        _remove(f"{directory}/{name}")


def _sealed(name: str, content: bytes) -> tuple[str | None, str]:
    """Give a secret as systemd seals it with the key of this host, its TPM or both; or why it does not."""
    if which(_CREDS) is None:
        return None, f"{_CREDS} is not installed"
    source = os.memfd_create("machctl-secret")
    try:
        os.write(source, content)
        os.lseek(source, 0, os.SEEK_SET)
        with pipe([_CREDS, f"--name={name}", "encrypt", "-", "-"], source=source) as stream:
            return stream.read().decode("ascii"), ""
    except MachctlError as error:
        return None, error.message
    finally:
        os.close(source)


def _write(path: str, content: bytes) -> None:
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except PermissionError as error:
        raise NotPermitted(f"{directory} cannot be made: {error.strerror}", hint="run machctl as root") from error
    files.write_file(path, content, mode=0o600)


def _remove(path: str) -> None:
    files.remove_file(path)
