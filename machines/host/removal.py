# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removing below a directory descriptor, whatever depth somebody has built there."""

from __future__ import annotations

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_directory(parent: int, name: str) -> None:
    """Remove the directory ``name`` with all that is in it; no symlink is followed. Raises OSError.

    Directories in it are moved up beside it first: so neither the depth of a tree nor the number of open files limits
    what can be removed.
    """
    pending = [name]
    while pending:
        current = pending.pop()
        fd = os.open(current, _DIRECTORY, dir_fd=parent)
        try:
            with os.scandir(fd) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            for below, is_directory in entries:
                if not is_directory:
                    os.unlink(below, dir_fd=fd)
                    continue
                try:
                    os.rmdir(below, dir_fd=fd)
                except OSError:
                    aside = f".#machctl-{os.urandom(8).hex()}"
                    os.rename(below, aside, src_dir_fd=fd, dst_dir_fd=parent)
                    pending.append(aside)
        finally:
            os.close(fd)
        os.rmdir(current, dir_fd=parent)
