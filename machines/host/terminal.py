# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our terminal connected to one in a machine, as machinectl's ptyfwd does it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import time
import tty
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Literal

from machines.host.bus.signals import Caught
from machines.host.bus.stdio import is_lost, unwritten

ESCAPE = b"\x1d"
"""^], which leaves when typed ESCAPES times within ESCAPE_SECONDS."""

ESCAPES = 3
ESCAPE_SECONDS = 1.0

HELD_SECONDS = 0.5
"""How long piped input is held back at most: systemd flushes a terminal's input when it resets it for the shell,
and the first output shows that this is over."""

AGAIN_SECONDS = 0.5
"""How often the end of piped input is told again: the kernel drops a ^D that comes while a shell switches its
terminal between the modes for its own line and for the command's."""

_CHUNK = 64 * 1024
_WRITE = 4096
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class EscapeKeys:
    """Counts ^] in what is typed."""

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0

    def typed(self, data: bytes, now: float) -> bool:
        """Tell whether this completes ESCAPES times ^] and nothing else within ESCAPE_SECONDS; ``now`` in s."""
        for byte in data:
            if byte != ESCAPE[0]:
                self._count = 0
            elif self._count == 0 or now - self._since > ESCAPE_SECONDS:
                self._since, self._count = now, 1
            else:
                self._count += 1
            if self._count >= ESCAPES:
                return True
        return False


def set_size(pty_fd: int, *, stdin: int = 0, stdout: int = 1) -> None:
    """Give the terminal behind ``pty_fd`` the size of ours, if we have one."""
    for fd in (stdout, stdin):
        try:
            fcntl.ioctl(pty_fd, termios.TIOCSWINSZ, fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
        except OSError:
            continue
        return


def forward(
    pty_fd: int,
    *,
    what: str,
    stdin: int = 0,
    stdout: int = 1,
    escape: bool = True,
    watch: Mapping[int, Callable[[], bool]] | None = None,
    on_signal: Callable[[int], None] | None = None,
    left: Callable[[], float | None] = lambda: None,
) -> Literal["closed", "escape"]:
    """Copy between our terminal and the master side ``pty_fd`` until the other side is closed or ^]^]^] is typed.

    All output that came is written first. Our terminal is raw meanwhile and as before afterwards, whatever
    happens. Where ``stdin`` is no terminal its end is passed on as ^D. ``watch`` has descriptors and what to call
    when they are readable: true ends it as "closed", as does the end of our own terminal or output. SIGTERM,
    SIGHUP, SIGINT and SIGQUIT are given to ``on_signal``; without that they end this process as usual, but with
    its terminal restored. To be called on the main thread; ``pty_fd`` stays open.

    ``left`` is asked each time before it waits, and gives for how many seconds at most that may be. Raises
    CommandFailed for output of ``what`` that could not be written.
    """
    ending: list[int] = []
    with ExitStack() as stack:
        caught = stack.enter_context(Caught((signal.SIGWINCH, signal.SIGCONT, *_ENDING)))
        forwarder = _Forwarder(pty_fd, stdin, stdout, escape=escape)
        stack.callback(forwarder.restore)
        forwarder.raw()
        reason = forwarder.run(caught, dict(watch or {}), on_signal or ending.append, ending, left)
    if ending:
        # With the handlers of before in place again, the signal does what it would have done.
        os.kill(os.getpid(), ending[0])
    if forwarder.lost is not None:
        raise unwritten(what, forwarder.lost)
    return reason


class _Forwarder:
    def __init__(self, pty_fd: int, stdin: int, stdout: int, *, escape: bool) -> None:
        self._pty = pty_fd
        self._stdin = stdin
        self._stdout = stdout
        self._typed = b""
        self._shown = b""
        self._eof = False
        self._middle = False
        self._terminal = os.isatty(stdin)
        self._shows = os.isatty(stdout)
        self.lost: OSError | None = None
        self._keys = EscapeKeys() if escape and self._terminal else None
        self._held_until = 0.0 if self._terminal else time.monotonic() + HELD_SECONDS
        self._modes = termios.tcgetattr(stdin) if self._terminal else None
        os.set_blocking(pty_fd, False)

    def raw(self) -> None:
        """Make our terminal raw and give the other one its size."""
        if self._modes is not None:
            tty.setraw(self._stdin, termios.TCSADRAIN)
        set_size(self._pty, stdin=self._stdin, stdout=self._stdout)

    def restore(self) -> None:
        """Make our terminal what it was."""
        if self._modes is not None:
            try:
                termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._modes)
            except termios.error:
                # It was hung up.
                return

    def run(
        self,
        caught: Caught,
        watch: dict[int, Callable[[], bool]],
        on_signal: Callable[[int], None],
        ending: list[int],
        left: Callable[[], float | None],
    ) -> Literal["closed", "escape"]:
        """Copy until one side ends."""
        while True:
            ready = self._poll(caught, watch, left())
            for number in caught.take():
                if number in {signal.SIGWINCH, signal.SIGCONT}:
                    # After a stop the shell has put its own modes back.
                    self.raw()
                else:
                    on_signal(number)
            if ending:
                return "closed"
            if any(callback() for fd, callback in watch.items() if fd in ready):
                self._drain()
                return "closed"
            if self._shown:
                if self._stdout in ready and not self._show():
                    return "closed"
            elif self._pty in ready and not self._output():
                return "closed"
            if self._typed:
                self._type()
            elif self._stdin in ready and not self._eof:
                outcome = self._input()
                if outcome is not None:
                    return outcome

    def _poll(self, caught: Caught, watch: dict[int, Callable[[], bool]], left: float | None) -> set[int]:
        """Wait for whichever side can go on. The caller's descriptors may be one and the same terminal."""
        events = {caught.fileno(): select.POLLIN, **dict.fromkeys(watch, select.POLLIN)}
        wait: float | None = None
        if self._shown:
            events[self._stdout] = select.POLLOUT
        else:
            events[self._pty] = select.POLLIN
        if self._typed and not self._shown:
            events[self._pty] |= select.POLLOUT
        elif self._eof and not self._shown:
            wait = AGAIN_SECONDS
        elif not self._typed and not self._eof:
            wait = max(0.0, self._held_until - time.monotonic()) if self._held_until else None
            if not wait:
                wait = None
                events[self._stdin] = events.get(self._stdin, 0) | select.POLLIN
        if left is not None and (wait is None or left < wait):
            wait = left
        poll = select.poll()
        for fd, mask in events.items():
            poll.register(fd, mask)
        caught.unblock()
        found = poll.poll(None if wait is None else wait * 1000)
        caught.block()
        if self._eof and not found and wait == AGAIN_SECONDS:
            self._typed = b"\x04"
        return {fd for fd, _ in found}

    def _output(self) -> bool:
        """Read what the other side shows; false at its end."""
        try:
            self._shown = os.read(self._pty, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            # EIO: nobody has the other side open, and all that was written there has been read.
            return False
        self._held_until = 0.0
        return bool(self._shown)

    def _show(self) -> bool:
        try:
            # A terminal that poll(2) calls writable takes this much without waiting for long.
            self._shown = self._shown[os.write(self._stdout, self._shown[:_WRITE]) :]
        except BlockingIOError:
            return True
        except OSError as error:
            if is_lost(error, terminal=self._shows):
                self.lost = error
            return False
        return True

    def _input(self) -> Literal["closed", "escape"] | None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if data:
            self._typed = data
            self._middle = not data.endswith(b"\n")
            leaves = self._keys is not None and self._keys.typed(data, time.monotonic())
            self._type()
            return "escape" if leaves else None
        if self._terminal:
            return "closed"
        self._eof = True
        # In the middle of a line the first ^D ends only that line: termios(3), VEOF.
        self._typed = b"\x04\x04" if self._middle else b"\x04"
        self._type()
        return None

    def _type(self) -> None:
        try:
            self._typed = self._typed[os.write(self._pty, self._typed[:_WRITE]) :]
        except BlockingIOError:
            return
        except OSError:
            self._typed = b""

    def _drain(self) -> None:
        while True:
            while self._shown:
                if not self._show():
                    return
            try:
                self._shown = os.read(self._pty, _CHUNK)
            except OSError:
                return
            if not self._shown:
                return
