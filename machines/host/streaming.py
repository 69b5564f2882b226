# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long-lived children whose lines are followed, and of which nothing is left when they are ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from machines.host.files import read_text
from machines.host.lines import Lines
from machines.host.loop import looped
from machines.host.run import environment, not_found, shell_words, which

if TYPE_CHECKING:
    from asyncio.subprocess import Process

GRACE = 5.0
"""Seconds that an interrupted child has to end by itself before it is killed."""

CONTAINED = (
    "setpriv", "--pdeathsig", "KILL", "--",
    "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--",
)  # fmt: skip


async def stream(
    argv: Sequence[str],
    *,
    on_line: Callable[[str], None],
    log: str | os.PathLike[str],
    contained: bool = True,
    extra_fd3: bool = False,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a long-lived child, hand each line it prints to ``on_line`` and ``log``, and give its exit status.

    ``contained`` puts it into a mount and a PID namespace of its own that die with it and with this process;
    this takes root. ``extra_fd3`` joins its file descriptor 3 to the output. On cancellation the child gets
    SIGINT, GRACE seconds later SIGKILL; nothing of a contained child outlives this call. To be awaited in the
    main thread: the parent-death signal is tied to the thread that forked (PR_SET_PDEATHSIG in prctl(2)).
    Raises Unsupported where a tool is not installed. See unshare(1), setpriv(1), pid_namespaces(7).
    """
    await looped()
    import asyncio

    for tool in (*(("setpriv", "unshare") if contained else ()), argv[0]):
        if which(tool) is None and not os.path.isfile(tool):
            raise not_found(tool)
    # subprocess can keep descriptors for a child but cannot move one to the number 3.
    command = ["sh", "-c", 'exec "$@" 3>&1', "sh", *argv] if extra_fd3 else list(argv)
    os.makedirs(os.path.dirname(os.path.abspath(log)), exist_ok=True)
    with open(log, "ab") as record:
        record.write(f"+ {shell_words(argv)}\n".encode())
        record.flush()
        process = await asyncio.create_subprocess_exec(
            *(CONTAINED if contained else ()), *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True, umask=0o022, env=environment(env, locale="C"),
        )  # fmt: skip
        try:
            assert process.stdout is not None
            lines = Lines()
            while data := await process.stdout.read(65536):
                for line in lines.feed(data):
                    record.write(f"{line}\n".encode())
                    on_line(line)
                record.flush()
            for line in lines.end():
                record.write(f"{line}\n".encode())
                on_line(line)
            return await process.wait()
        except BaseException:
            # Shielded: a second cancellation must not leave the child behind.
            ending_child = asyncio.ensure_future(_end(process, contained=contained))
            try:
                await asyncio.shield(ending_child)
            except asyncio.CancelledError:
                _kill(process, contained=contained)
                await ending_child
            raise


async def _end(process: Process, *, contained: bool) -> None:
    import asyncio

    _signal_group(process, signal.SIGINT)
    try:
        await asyncio.wait_for(_drain(process), GRACE)
    except TimeoutError:
        _kill(process, contained=contained)
        await _drain(process)


async def _drain(process: Process) -> None:
    """Read until the last process with the pipe is gone: a full pipe would keep the child from ending."""
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
    await process.wait()


def _kill(process: Process, *, contained: bool) -> None:
    """SIGKILL what runs.

    Of a contained child the first process of its namespace: the kernel reports its end to unshare(1) only
    when all others in there are gone too, so that whoever waits for unshare knows that nothing is left.
    """
    inner = _children(process.pid) if contained else []
    for pid in inner:
        os.kill(pid, signal.SIGKILL)
    if not inner:
        _signal_group(process, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    # Nothing is there to be read once it has ended, or of a kernel without CONFIG_PROC_CHILDREN.
    return [int(word) for word in (read_text(f"/proc/{pid}/task/{pid}/children") or "").split()]


def _signal_group(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
