# SPDX-License-Identifier: LGPL-2.1-or-later
"""The time that a command in a machine is given, which holds too where the machine does not answer."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from machines.errors import CommandFailed, MachctlError, TimedOut
from machines.host.bus.signals import ENDING_SECONDS, LONGEST_SECONDS

ANSWER_SECONDS = 2.0
"""How long a machine has to say that a command has ended that got SIGKILL."""


class Given:
    """While it lasts a command has so much time: then it gets SIGTERM, and SIGKILL where that does not help.

    Errors that come of a connection that ended with the time become TimedOut, and no others: a time limit of D-Bus
    is not the caller's.
    """

    def __init__(self, what: str, machine: str, timeout: float | None, *, began: float) -> None:
        self._what = what
        self._machine = machine
        self._timeout = timeout
        self._end = self._next = None if timeout is None else began + timeout
        self._sent = self._started = self._over = self._said = False
        self._child = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self._lost()
        self.ended()
        if isinstance(error, MachctlError) and not self._said:
            if lost:
                raise self._unanswered() from None
            if isinstance(error, TimedOut):
                raise CommandFailed(error.message, hint=error.hint) from None

    def watch(self, bus: int) -> None:
        """Have the connection to the guest's bus, a descriptor, end with the time.

        A call of sd-bus waits for its answer whatever comes, and the first one 90 seconds for the connection.
        """
        if self._end is None:
            return
        reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            end = self._end
            try:
                _hang_up(
                    reading,
                    bus,
                    lambda started: end + (ENDING_SECONDS + ANSWER_SECONDS if started else 0) - time.monotonic(),
                )
            finally:
                os._exit(0)
        os.close(reading)

    def start(self) -> None:
        """Say that the machine is asked for the command now; raise TimedOut where it is too late for that."""
        if self._end is not None and self._end <= time.monotonic():
            raise self._unanswered()
        self._sent = True

    def started(self) -> None:
        """Say that the command runs, so that the connection is needed to end it; raise TimedOut where it is lost."""
        if self._child:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._writing, b"s")
            if self._lost():
                raise self._unanswered()
        self._started = True

    def ended(self) -> None:
        """Say that the command has ended."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.close(self._writing)
            os.waitpid(self._child, 0)
            self._child = 0

    def left(self, end: Callable[[int], None]) -> float | None:
        """Send the command a signal by ``end`` where its time is over; give when to look again, if at all."""
        now = time.monotonic()
        if self._next is not None and now >= self._next:
            number = signal.SIGKILL if self._over else signal.SIGTERM
            self._next = None if self._over else now + ENDING_SECONDS
            self._over = True
            end(number)
        return None if self._next is None else min(max(0.0, self._next - now), LONGEST_SECONDS)

    def check(self) -> None:
        """Raise TimedOut for a command that was ended."""
        if self._over:
            self._said = True
            raise TimedOut(
                f"{self._what} in machine {self._machine} took longer than {self._timeout:g} seconds and was ended",
                hint="give it more with --timeout",
            )

    def _lost(self) -> bool:
        """Tell whether the connection was ended, before which the child closes its end of the pipe."""
        if not self._child or self._end is None or self._end > time.monotonic():
            return False
        poll = select.poll()
        poll.register(self._writing, 0)
        return bool(poll.poll(0))

    def _unanswered(self) -> TimedOut:
        self._said = True
        hint = f"systemctl status systemd-nspawn@{self._machine}.service"
        limit = f"{self._timeout:g} seconds"
        if self._started:
            said = f"machine {self._machine} does not answer: {self._what} took longer than {limit} and may run on"
        elif self._sent:
            said = f"machine {self._machine} did not answer within {limit}, and {self._what} may have been started"
        else:
            said = f"machine {self._machine} did not answer within {limit}, and {self._what} was not started"
        return TimedOut(said, hint=hint)


def _hang_up(reading: int, bus: int, left: Callable[[bool], float]) -> None:
    """End a connection when the time is over, which is later once the command has started."""
    # A signal for our process group is the parent's to handle; what the command reads and writes is not ours to keep.
    os.setsid()
    first, second = sorted((reading, bus))
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, os.sysconf("SC_OPEN_MAX") if second < 4096 else second + 1)
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    started = False
    while True:
        seconds = max(0.0, left(started))
        if poll.poll(min(seconds, LONGEST_SECONDS) * 1000):
            if not os.read(reading, 1):
                return
            started = True
        elif seconds <= LONGEST_SECONDS:
            break
    # First, so that whoever finds the connection ended knows by whom.
    os.close(reading)
    import _socket

    # What the parent waits for ends too: it is one connection.
    _socket.socket(fileno=bus).shutdown(_socket.SHUT_RDWR)
