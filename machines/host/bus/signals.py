# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals as something to poll for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

ENDING_SECONDS = 5.0
"""How long a command whose time is over has to end by SIGTERM before it gets SIGKILL."""

LONGEST_SECONDS = 1_000_000.0
"""What poll(2) is asked to wait for at most, to look again then: it takes an int of milliseconds."""


class Caught:
    """While it lasts, the given signals do nothing but show up in take(); only on the main thread.

    Outside of unblocked() they are held back, so that no call of a library ends with EINTR. What was ignored
    before (nohup, a job in the background) stays ignored.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
        self._before: list[tuple[signal.Signals, object]] = []

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = [(number, signal.signal(number, lambda *_: None)) for number in self._signals]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.close(self._reading)
        os.close(self._writing)

    def fileno(self) -> int:
        """Give the descriptor that is readable when a signal has come."""
        return self._reading

    def block(self) -> None:
        """Hold the signals back again."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def unblock(self) -> None:
        """Let the signals come, around poll(2): one that came before makes fileno() readable first."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    def take(self) -> Sequence[int]:
        """Give the signals that came since, oldest first."""
        try:
            came = os.read(self._reading, 4096)
        except BlockingIOError:
            return ()
        return tuple(number for number in came if number in self._signals)
