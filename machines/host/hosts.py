# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's hosts(5), of which a part is machctl's: every byte of the rest stays as it is."""

from __future__ import annotations

import contextlib
import errno
import os

from machines.errors import MachctlError

PATH = "/etc/hosts"

# What is no UTF-8 in other people's lines goes back as it came.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def read_hosts() -> str:
    """Give the text of /etc/hosts; "" where there is none."""
    try:
        with open(PATH, **_TEXT) as file:  # type: ignore[call-overload]
            text: str = file.read()
            return text
    except FileNotFoundError:
        return ""


def write_hosts(text: str) -> None:
    """Write /etc/hosts so that it always holds the old text or the new one, with the mode and the owner it has.

    Raises MachctlError.
    """
    path = os.path.realpath(PATH)
    temporary = f"{os.path.dirname(path)}/.#machctl-{os.getpid()}-hosts"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        with open(temporary, "x", **_TEXT) as file:  # type: ignore[call-overload]
            file.write(text)
            file.flush()
            _keep_owner(path, file.fileno())
            os.fsync(file.fileno())
        try:
            os.rename(temporary, path)
        except OSError as error:
            # Containers' managers mount a file there, which only its contents can be changed of.
            if error.errno not in {errno.EBUSY, errno.EXDEV}:
                raise
            with open(path, "w", **_TEXT) as file:  # type: ignore[call-overload]
                file.write(text)
    except OSError as error:
        raise MachctlError(
            f"{PATH} cannot be written: {error.strerror}", hint="names of machines are kept there; ls -la /etc/hosts"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _keep_owner(path: str, fd: int) -> None:
    try:
        have = os.stat(path)
    except FileNotFoundError:
        os.fchmod(fd, 0o644)
        return
    os.fchmod(fd, have.st_mode & 0o7777)
    os.fchown(fd, have.st_uid, have.st_gid)
