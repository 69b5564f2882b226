# SPDX-License-Identifier: LGPL-2.1-or-later
"""The standard descriptors of a command in a machine: pipes only, so that a guest gets nothing of the host's.

With the host's terminal a guest could type into it (TIOCSTI), with a file opened for reading it could open the
same one again for writing (/proc/self/fd), with a directory it could leave its root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Callable

from machines.errors import CommandFailed

CHUNK = 256 * 1024
_TERMINAL_CHUNK = 4096
_PIPE_SIZE = 1024 * 1024


def is_lost(error: OSError, *, terminal: bool) -> bool:
    """Tell whether a failed write lost output that somebody waits for: not where its reader or terminal is gone."""
    return error.errno != errno.EPIPE and not (terminal and error.errno == errno.EIO)


def unwritten(what: str, error: OSError) -> CommandFailed:
    """Give the error for output of ``what`` that could not be written."""
    return CommandFailed(f"the output of {what} could not be written: {error.strerror}")


class _Channel:
    """Copies what comes out of ``source`` to ``sink``; whichever of both is our pipe is closed at the end."""

    def __init__(self, source: int, sink: int, *, ours: int) -> None:
        self.source = source
        self.sink = sink
        self.ours = ours
        self.buffer = b""
        self.open = True
        self.lost: OSError | None = None
        self._terminal = sink != ours and os.isatty(sink)
        # A write to a terminal that poll(2) calls writable may still wait when it is a long one.
        self.limit = _TERMINAL_CHUNK if self._terminal else CHUNK

    def wants(self) -> tuple[int, int]:
        return (self.sink, select.POLLOUT) if self.buffer else (self.source, select.POLLIN)

    def step(self) -> bool:
        """Read or write once; false when there is nothing to do now."""
        try:
            if self.buffer:
                self.buffer = self.buffer[os.write(self.sink, self.buffer[: self.limit]) :]
                return True
            self.buffer = os.read(self.source, CHUNK)
            if not self.buffer:
                self.close()
        except BlockingIOError:
            return False
        except OSError as error:
            # EPIPE: nobody reads it any more. EIO: the terminal is gone.
            if self.buffer and self.sink != self.ours and is_lost(error, terminal=self._terminal):
                self.lost = error
            self.close()
        return self.open

    def close(self) -> None:
        if self.open:
            self.open = False
            self.buffer = b""
            os.close(self.ours)


class Stdio:
    """What the guest gets for the host's descriptors 0, 1 and 2, and the copying between them.

    A pipe is passed on as it is and costs nothing. Use as a context manager; ``fds`` are the guest's ends, which
    close_guest_ends() closes once they have been passed.
    """

    def __init__(self, *, stdin: int | None = 0, stdout: int = 1, stderr: int = 2) -> None:
        self._made: list[int] = []
        self._channels: list[_Channel] = []
        self.fds: tuple[int, int, int] = (-1, -1, -1)
        try:
            first = self._input(stdin)
            second = self._output(stdout)
            # One pipe for both keeps the order of what is written to the same terminal or file.
            third = second if second in self._made and _same(stdout, stderr) else self._output(stderr)
            self.fds = (first, second, third)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stdio:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all pipes that were made, whatever is still in them."""
        self.close_guest_ends()
        for channel in self._channels:
            channel.close()

    def close_guest_ends(self) -> None:
        """Close our copies of the guest's ends, without which the end of its output would not show."""
        while self._made:
            os.close(self._made.pop())

    def wants(self) -> dict[int, int]:
        """Give what to poll for: descriptors and their poll(2) events."""
        events: dict[int, int] = {}
        for channel in self._channels:
            if channel.open:
                fd, event = channel.wants()
                events[fd] = events.get(fd, 0) | event
        return events

    @property
    def lost(self) -> OSError | None:
        """What kept output of the command from being written, if anything did."""
        return next((channel.lost for channel in self._channels if channel.lost is not None), None)

    def ready(self, fds: set[int]) -> None:
        """Copy between those of the descriptors that poll(2) gave."""
        for channel in self._channels:
            if channel.open and channel.wants()[0] in fds:
                channel.step()

    def drain(self, interrupted: Callable[[], bool]) -> None:
        """Write out what the ended command left in its pipes."""
        for channel in self._channels:
            if channel.source != channel.ours:
                channel.close()
            while channel.open and not interrupted():
                if not channel.step() and not channel.buffer:
                    break
            channel.close()

    def _input(self, fd: int | None) -> int:
        if fd is None or not _is_open(fd):
            return self._null(os.O_RDONLY)
        if _passes(fd):
            return fd
        ours, theirs = self._pipe(guest_reads=True)
        self._channels.append(_Channel(fd, ours, ours=ours))
        return theirs

    def _output(self, fd: int) -> int:
        if not _is_open(fd):
            return self._null(os.O_WRONLY)
        if _passes(fd):
            return fd
        ours, theirs = self._pipe(guest_reads=False)
        self._channels.append(_Channel(ours, fd, ours=ours))
        return theirs

    def _null(self, flags: int) -> int:
        self._made.append(os.open(os.devnull, flags | os.O_CLOEXEC))
        return self._made[-1]

    def _pipe(self, *, guest_reads: bool) -> tuple[int, int]:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (writing, reading) if guest_reads else (reading, writing)
        os.set_blocking(ours, False)
        # Refused beyond the pipe-user-pages-soft limit of pipe(7).
        with contextlib.suppress(OSError):
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._made.append(theirs)
        return ours, theirs


def _passes(fd: int) -> bool:
    """Tell whether the guest may have the descriptor itself: a pipe, or /dev/null."""
    info = os.fstat(fd)
    return stat.S_ISFIFO(info.st_mode) or (stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3))


def _same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
