# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in a running machine for machctl's own ends: beside other work, and with what they print line by line."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from machines.errors import MachctlError
from machines.host.lines import Lines
from machines.host.loop import looped

# What a command gets of time to end in order, before it is killed.
_GRACE = 10.0
_PART = 65536
# How much is read at the end: no pipe of a guest's holds more (pipe-max-size in pipe(7)), and it may write for ever.
_PARTS_LAST = 16
# prctl(2)
_PR_SET_PDEATHSIG = 1


class _CutLines(Lines):
    """Lines of a guest: one that does not end is cut, else it would be kept and copied whole with every part."""

    def feed(self, data: bytes) -> list[str]:
        found = super().feed(data)
        if len(self._rest) > _PART:
            found.append(self._rest.decode(errors="replace"))
            self._rest = b""
        return found


async def run_inside(
    machine: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, on_line: Callable[[str], None]
) -> int:
    """Run a command as root in a machine that runs, hand each line that it prints to ``on_line``, give its status.

    It is a child of this process that has the command run (machines.host.bus.guest) and what keeps that from starting
    is a line as well, with status 125, 126 or 127. On cancellation, and where this process is killed, the command ends.
    """
    await looped()
    import asyncio

    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = _begin(machine, argv, dict(env or {}), writing)
    os.close(writing)
    fd = os.pidfd_open(child)
    loop = asyncio.get_running_loop()
    ended, lines = asyncio.Event(), _CutLines()

    def read() -> None:
        data = os.read(reading, _PART)
        for line in lines.feed(data) if data else lines.end():
            on_line(line)
        if not data:
            loop.remove_reader(reading)

    try:
        loop.add_reader(reading, read)
        loop.add_reader(fd, ended.set)
        await ended.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        try:
            await asyncio.wait_for(ended.wait(), _GRACE)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise
        raise
    finally:
        loop.remove_reader(fd)
        loop.remove_reader(reading)
        _, status = os.waitpid(child, 0)
        os.close(fd)
        # What it printed last; who else has the other end by now nobody waits for.
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PARTS_LAST):
                for line in lines.feed(os.read(reading, _PART)):
                    on_line(line)
        for line in lines.end():
            on_line(line)
        os.close(reading)
    return os.waitstatus_to_exitcode(status)


def _begin(machine: str, argv: Sequence[str], env: Mapping[str, str], writing: int) -> int:
    """Fork the child that has the command run; give its process id."""
    from machines.host.bus.guest import exec_in

    child = os.fork()
    if child:
        return child
    status = 125
    try:
        os.setsid()
        # asyncio's ways with signals are the parent's.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _end_with_parent()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        status = exec_in(machine, argv, env=env, stdin=None, stdout=writing, stderr=writing)
    except MachctlError as error:
        status = error.exit_code if error.exit_code in {126, 127} else status
        os.write(writing, f"{error.message}\n".encode(errors="replace"))
    except BaseException as error:  # noqa: BLE001 (whatever it is, somebody wants to read it)
        os.write(writing, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
