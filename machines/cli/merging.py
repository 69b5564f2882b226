# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journals of several machines as one, in the order of time."""

from __future__ import annotations

import heapq
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import BinaryIO, NoReturn

from machines.cli.entries import SHOWN, Entry, read_entry
from machines.cli.options import Options
from machines.cli.output import colours
from machines.errors import CommandFailed, NotFound
from machines.host.bus.signals import Caught
from machines.host.inotify import Changes
from machines.host.lines import Lines
from machines.host.registered import MACHINES, registered_machine
from machines.host.run import pipe
from machines.model.frozen import NamedTuple

_CURSOR = "-- cursor: "
# How long a journal of a new boot may be silent, in seconds, before it is opened anew; twice as long each time.
_SILENT, _SILENT_LONGEST = 0.25, 64.0
# Of names, so that each machine has its own: cyan, yellow, green, magenta, blue, and the bright ones.
_PALETTE = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


class _Reader(NamedTuple):
    """A journal that is followed: whose, the lines that came, and what ends it."""

    name: str
    lines: Lines
    running: ExitStack


class _Awaited(NamedTuple):
    """A machine of whose new boot nothing was read yet: the one before, and when (time.monotonic) to look again.

    Once something was ``read`` that is not of that one it is looked at a last time: it may have booted twice.
    """

    before: str
    at: float
    pause: float
    read: bool = False


class _Ended(Exception):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Merged:
    """The journals that ``commands`` of journalctl(1) read, by machine; they have no --lines, --output and --follow.

    ``command`` gives that of a machine that has just started. The journal of those that are ``lasting`` is the host's,
    which goes on when they start.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        options: Options,
        command: Callable[[str], Sequence[str]] | None = None,
        *,
        lasting: Collection[str] = (),
    ) -> None:
        self._commands = dict(commands)
        self._command = command or self._commands.__getitem__
        self._lasting = frozenset(lasting)
        self._json = options.output == "json"
        self._width = max(map(len, commands))
        self._colours = dict(zip(commands, _PALETTE * len(commands), strict=False)) if colours(options) else {}
        self._cursors: dict[str, str] = {}
        self._last: dict[str, int] = {}
        self._boots: dict[str, str] = {}
        self._awaited: dict[str, _Awaited] = {}
        self._began = int(time.time())

    def past(self, count: int | None) -> None:
        """Print what is there, the last ``count`` entries of all or everything. Raises CommandFailed."""
        wanted = f"--lines={'all' if count is None else count}"
        # Where no entry matches, which may be of the host's alone, systemd 252 takes that for a failure.
        cursor = {name: () if name in self._lasting else ("--show-cursor",) for name in self._commands}
        with ExitStack() as stack:
            null = _null(stack)
            streams = {
                name: stack.enter_context(pipe(self._argv(name, wanted, *cursor[name]), source=null))
                for name in self._commands
            }
            # All of them run at the same time, each as far ahead as its pipe has room.
            merged: Iterable[Entry] = heapq.merge(
                *(self._entries(name, _text(stream)) for name, stream in streams.items()), key=lambda entry: entry.at
            )
            if count is not None:
                merged = deque(merged, maxlen=count)
            for entry in merged:
                self._print(entry)
        sys.stdout.flush()

    def follow(self) -> int:
        """Print what comes after what past() printed, until a signal ends that; give the exit status of it.

        Raises CommandFailed.
        """
        try:
            with Caught((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)) as caught, ExitStack() as stack:
                self._follow(caught, stack)
        except _Ended as end:
            return 128 + end.number

    def _follow(self, caught: Caught, stack: ExitStack) -> NoReturn:
        null, changes = _null(stack), stack.enter_context(Changes(MACHINES))
        readers, leaders = dict[int, _Reader](), {name: _leader(name) for name in self._commands}
        # All that still run are told to end as the stack is.
        stack.push(lambda *error: any(reader.running.__exit__(*error) for reader in readers.values()))
        for name in self._commands:
            self._read_on(name, readers, null)
        while True:
            ready = _ready(caught, [changes.fileno(), *readers], self._pause())
            self._print_new(readers)
            for number in caught.take():
                # An exception of its own: pipe() waits for the end of what it runs otherwise.
                raise _Ended(number)
            if changes.fileno() in ready:
                changes.take()
                for name, leader in leaders.items():
                    leaders[name] = _leader(name) or leader
                    if leaders[name] != leader and name not in self._lasting:
                        self._awaited[name] = _Awaited(self._boots.get(name, ""), 0, _SILENT)
            self._read_anew(readers, null)

    def _pause(self) -> float | None:
        """Give how many seconds it is until a journal is to be opened anew; None if none is."""
        if not self._awaited:
            return None
        return max(0.0, min(each.at for each in self._awaited.values()) - time.monotonic())

    def _read_anew(self, readers: dict[int, _Reader], null: int) -> None:
        """Open the journals of machines that have booted anew once more.

        journalctl(1) shows nothing more of a journal that another boot goes on with after it was opened, and when the
        machine's journald does that nobody tells: hence again and again, until there is something of that boot.
        """
        for name, awaited in list(self._awaited.items()):
            if awaited.at > time.monotonic():
                continue
            runs = bool(_leader(name))
            if not runs or awaited.read:
                del self._awaited[name]
            else:
                pause = min(awaited.pause * 2, _SILENT_LONGEST)
                self._awaited[name] = awaited._replace(at=time.monotonic() + awaited.pause, pause=pause)
            if runs:
                # One that is gone again by now is told of once more when it starts.
                with suppress(NotFound):
                    self._commands[name] = list(self._command(name))
                    self._read_on(name, readers, null)

    def _read_on(self, name: str, readers: dict[int, _Reader], null: int) -> None:
        """Have the journal of a machine followed from where it was read up to."""
        for fd, reader in list(readers.items()):
            if reader.name == name:
                _end(readers.pop(fd))
        last, cursor = self._last.get(name), self._cursors.pop(name, None)
        since = f"{(last + 1) / 1e6:.6f}" if last else str(self._began)
        place = f"--after-cursor={cursor}" if cursor else f"--since=@{since}"
        running = ExitStack()
        stream = running.enter_context(pipe(self._argv(name, "--follow", "--lines=all", place), source=null))
        os.set_blocking(stream.fileno(), False)
        readers[stream.fileno()] = _Reader(name, Lines(), running)

    def _print_new(self, readers: dict[int, _Reader]) -> None:
        """Print what came meanwhile, of all machines in the order of time."""
        came: list[Entry] = []
        for fd, reader in list(readers.items()):
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                continue
            if not data and reader.name in self._awaited:
                # It is just starting, or has stopped again.
                _end(readers.pop(fd))
                continue
            if not data:
                raise CommandFailed(f"the journal of machine {reader.name} cannot be followed any more")
            came += self._entries(reader.name, reader.lines.feed(data))
        for entry in sorted(came, key=lambda entry: entry.at):
            self._print(entry)
        sys.stdout.flush()

    def _argv(self, name: str, *more: str) -> list[str]:
        # JSON in any case: in text, a guest's newline in the right place begins an entry of whichever time it likes.
        form = ["--output=json"]
        if not self._json:
            # Without --all what is long is left out.
            form += [f"--output-fields={','.join(SHOWN)}", "--all"]
        return [*self._commands[name], *form, "--quiet", "--no-pager", *more]

    def _entries(self, name: str, lines: Iterable[str]) -> Iterator[Entry]:
        """Read what journalctl prints."""
        for line in lines:
            if line.startswith(_CURSOR):
                self._cursors[name] = line.removeprefix(_CURSOR).strip()
            elif (entry := read_entry(name, line, plain=not self._json)) is not None:
                self._last[name], self._boots[name] = entry.at, entry.boot
                if name in self._awaited and entry.boot != self._awaited[name].before:
                    self._awaited[name] = self._awaited[name]._replace(read=True)
                yield entry

    def _print(self, entry: Entry) -> None:
        if self._json:
            sys.stdout.write(entry.lines[0] + "\n")
            return
        colour = self._colours.get(entry.machine)
        name = entry.machine.ljust(self._width)
        shown = f"\x1b[{colour}m{name}\x1b[0m" if colour else name
        when = time.strftime("%b %d %H:%M:%S", time.localtime(entry.at / 1e6))
        for index, line in enumerate(entry.lines):
            # The first line says when; the others have its length in front of them.
            sys.stdout.write(f"{when if index == 0 else ' ' * len(when)} {shown} {line}\n")


def _end(reader: _Reader) -> None:
    """End what reads a journal, and do not ask how it ended."""
    ended = _Ended(0)
    reader.running.__exit__(_Ended, ended, ended.__traceback__)


def _text(stream: BinaryIO) -> Iterator[str]:
    for line in stream:
        yield line.decode(errors="replace").rstrip("\n")


def _leader(name: str) -> int:
    entry = registered_machine(name)
    return entry.leader if entry else 0


def _ready(caught: Caught, others: Iterable[int], limit: float | None) -> set[int]:
    """Wait for a signal or one of the other descriptors, ``limit`` seconds at most; give those that are readable."""
    poll = select.poll()
    for fd in (caught.fileno(), *others):
        poll.register(fd, select.POLLIN)
    caught.unblock()
    ready = {fd for fd, _ in poll.poll(None if limit is None else limit * 1000 + 1)}
    caught.block()
    return ready


def _null(stack: ExitStack) -> int:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, null)
    return null
