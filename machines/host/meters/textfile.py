# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that node_exporter reads every few seconds (its textfile collector)."""

from __future__ import annotations

import contextlib
import os

from machines.errors import MachctlError, NotPermitted


def publish(path: str, text: str) -> None:
    """Write a file so that whoever reads it meanwhile has the former one or this one, whole.

    Every name that ends in .prom is read, so the new one has another first. It need not outlast a crash: it is not
    synced. The folder is another user's, who may have put a link there. Raises NotPermitted and MachctlError.
    """
    temporary = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(text)
        os.rename(temporary, path)
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be written: {error.strerror}", hint="run machctl as root") from None
    except OSError as error:
        hint = f"mkdir -p {os.path.dirname(path)}" if isinstance(error, FileNotFoundError) else ""
        raise MachctlError(f"{path} cannot be written: {error.strerror}", hint=hint) from None
