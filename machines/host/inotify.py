# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes in a directory as something to poll for (inotify(7)), whether the directory is there yet or not."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from machines.errors import CommandFailed

# linux/inotify.h: CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF; then ONLYDIR.
_INSIDE = 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x01000000


class Changes:
    """While it lasts, what is written, moved or removed right in ``directory`` makes fileno() readable.

    Raises CommandFailed where the kernel has no instance left (fs.inotify.max_user_instances).
    """

    def __init__(self, directory: str) -> None:
        import ctypes

        self._directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise CommandFailed(
                f"changes of {directory} cannot be watched: {os.strerror(ctypes.get_errno())}",
                hint="sysctl fs.inotify.max_user_instances=8192",
            )
        self._number = -1
        self._watch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more; closing twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        """Give the descriptor to poll for reading before take()."""
        return int(self._fd)

    def take(self) -> None:
        """Take note of what came, before the directory is looked at again."""
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass
        self._watch()

    def _watch(self) -> None:
        """Watch the directory, or the nearest one above that is there, in which it will appear."""
        place, below = self._directory, ""
        # Adding a watch again that is there already changes nothing, and gives its number.
        while (watch := self._libc.inotify_add_watch(self._fd, os.fsencode(place), _INSIDE)) < 0 and place != "/":
            place, below = os.path.dirname(place), place
        if watch != self._number:
            if self._number >= 0:
                self._libc.inotify_rm_watch(self._fd, self._number)
            self._number = watch
        if below and os.path.isdir(below):
            # It was made between the two calls.
            self._watch()
