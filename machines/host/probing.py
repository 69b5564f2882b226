# SPDX-License-Identifier: LGPL-2.1-or-later
"""Probes of machines, many at once in one process: begin() them, and wait() for what comes of them.

Sockets are made in a machine's network namespace, where they stay, and are used from here. Commands, and questions to
a machine's systemd, are children, which can be killed whatever they wait for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from machines.host.bus.signals import LONGEST_SECONDS
from machines.host.guest import open_in_root
from machines.host.netns import in_namespace
from machines.host.registered import addresses
from machines.model.base import Payload
from machines.model.health import Health, Outcome

# More of what a probe says nobody reads.
_SAID_MAX = 200
_READ_MAX = 4096
_PIPE_MAX, _PIPES_MAX = 65536, 16
# A machine may give itself thousands of addresses.
_ADDRESSES_MAX = 8

_KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_Found = tuple[bool, str]


class Prober:
    """Probes that are under way, by the name of their machine.

    Of children there are ``children`` at most at a time: where all began at once, the last would be late for want of a
    processor, and machines that are well would be restarted for it. The others wait, and their time has not begun.
    """

    def __init__(self, *, children: int | None = None) -> None:
        self._running: dict[str, _Socket | _Child | _Look] = {}
        self._waiting: dict[str, Callable[[], _Child]] = {}
        self._done: list[tuple[str, Outcome]] = []
        self._children = children or 2 * (os.cpu_count() or 1)

    def begin(self, name: str, health: Health, leader: int, *, payload: Payload | None = None) -> None:
        """Begin to probe machine ``name``, which ``leader`` leads; ``payload`` is what one without an init runs."""
        if health.kind == "file":
            self._run(name, lambda: _Look(health, leader))
        elif health.kind in {"tcp", "http"}:
            self._run(name, lambda: _Socket(health, leader))
        else:
            self._waiting[name] = lambda: _child(name, health, leader, payload=payload)
            self._start_waiting()

    def busy(self, name: str) -> bool:
        """Tell whether a probe of a machine is under way."""
        return name in self._running or name in self._waiting

    def _start_waiting(self) -> None:
        free = self._children - sum(isinstance(probe, _Child) for probe in self._running.values())
        for name in list(self._waiting)[: max(free, 0)]:
            self._run(name, self._waiting.pop(name))

    def _run(self, name: str, start: Callable[[], _Socket | _Child | _Look]) -> None:
        began = time.monotonic()
        try:
            self._running[name] = start()
        except Exception as error:  # noqa: BLE001 (whatever a machine brings about, the others are probed)
            # It may have ended since.
            self._done.append((name, Outcome(ok=False, seconds=time.monotonic() - began, said=_words(error))))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Give what has come of probes, within ``seconds`` or as soon as there is anything."""
        now = time.monotonic()
        end = now + seconds
        while not self._done:
            poll, owners = select.poll(), dict[int, str]()
            for name, probe in self._running.items():
                for fd, events in probe.filenos().items():
                    poll.register(fd, events)
                    owners[fd] = name
            until = min([end, *(probe.deadline for probe in self._running.values())])
            ready = {owners[fd] for fd, _ in poll.poll(min(max(until - now, 0), LONGEST_SECONDS) * 1000 + 1)}
            self._advance(ready)
            now = time.monotonic()
            if now >= end:
                break
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Give up what is under way."""
        for probe in self._running.values():
            probe.close()
        self._running.clear()
        self._waiting.clear()

    def _advance(self, ready: set[str]) -> None:
        now = time.monotonic()
        for name, probe in list(self._running.items()):
            try:
                found = probe.ready() if name in ready else None
            except Exception as error:  # noqa: BLE001 (what a machine answers must not end the probes of others)
                found = (False, _words(error))
            if found is None and now >= probe.deadline:
                found = (False, f"no answer within {probe.limit} s")
            if found is not None:
                probe.close()
                del self._running[name]
                self._done.append((name, Outcome(found[0], now - probe.began, one_line(found[1]))))
        self._start_waiting()


class _Socket:
    """A connection to a port of a machine, from inside its network; for http what it answers, too.

    The loopback addresses come first: what listens on all addresses does so on these.
    """

    def __init__(self, health: Health, leader: int) -> None:
        self.began, self.limit = time.monotonic(), health.timeout
        self.deadline = self.began + health.timeout
        self._leader, self._port = leader, int(health.target[0])
        self._path = health.target[1] if health.kind == "http" else ""
        self._left = ["127.0.0.1", "::1"]
        self._more = True
        self._answer = b""
        self._asked = False
        self._socket = self._connect()

    def filenos(self) -> dict[int, int]:
        return {self._socket.fileno(): select.POLLIN if self._asked else select.POLLOUT}

    def ready(self) -> _Found | None:
        if self._asked:
            return self._read()
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return self._next(code)
        if not self._path:
            return True, ""
        request = f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: machctl\r\nConnection: close\r\n\r\n"
        try:
            self._socket.send(request.encode("ascii"))
        except OSError as error:
            return False, _words(error)
        self._asked = True
        return None

    def close(self) -> None:
        self._socket.close()

    def _next(self, code: int) -> _Found | None:
        self._socket.close()
        try:
            self._socket = self._connect(code)
        except OSError as error:
            return False, _words(error)
        return None

    def _connect(self, code: int = errno.ECONNREFUSED) -> socket.socket:
        """Connect to the next address; ``code`` is what came of the one before. Raises OSError after the last."""
        while (address := self._address()) is not None:
            make = partial(socket.socket, socket.AF_INET6 if ":" in address else socket.AF_INET, _KIND)
            made = in_namespace(f"/proc/{self._leader}/ns/net", make)
            # What fails at once shows up as an error of the socket, or is asked again by getsockopt().
            code = made.connect_ex((address, self._port))
            if code in {0, errno.EINPROGRESS}:
                return made
            made.close()
        raise OSError(code, f"port {self._port}: {os.strerror(code)}")

    def _address(self) -> str | None:
        if not self._left and self._more:
            self._left, self._more = list(addresses(self._leader))[:_ADDRESSES_MAX], False
        return self._left.pop(0) if self._left else None

    def _read(self) -> _Found | None:
        try:
            data = self._socket.recv(_READ_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            return False, _words(error)
        self._answer += data
        line, end, _ = self._answer.partition(b"\n")
        if not end and data and len(self._answer) < _READ_MAX:
            return None
        words = line.decode(errors="replace").split(None, 2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not _is_status(words[1]):
            return False, "it answers, but not with HTTP" if line else "it closed the connection without an answer"
        return 200 <= int(words[1]) < 400, " ".join(words[1:])


def _is_status(word: str) -> bool:
    # Other digits than these int() takes for none.
    return len(word) == 3 and word.isascii() and word.isdigit()


class _Child:
    """A child of this process that probes; its exit status tells, and what it prints is said.

    ``group`` is the control group of the command that it runs in a machine, if it is not the machine's systemd that
    runs it.
    """

    def __init__(self, health: Health, act: Callable[[int], int], *, group: str | None = None) -> None:
        self._said, self._open, self._group = b"", True, group
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _probe(act, writing)
        self.began, self.limit = time.monotonic(), health.timeout
        self.deadline = self.began + health.timeout
        os.close(writing)
        os.set_blocking(self._reading, False)
        self._fd = os.pidfd_open(self._pid)

    def filenos(self) -> dict[int, int]:
        return {self._fd: select.POLLIN, **({self._reading: select.POLLIN} if self._open else {})}

    def ready(self) -> _Found | None:
        # Whoever prints more than a pipe holds would wait for a reader for ever.
        self._read()
        ended, status = os.waitpid(self._pid, os.WNOHANG)
        if not ended:
            return None
        self._pid = 0
        for _ in range(_PIPES_MAX):
            if not self._read():
                break
        code = os.waitstatus_to_exitcode(status)
        said = self._said.decode(errors="replace").strip()
        return code == 0, said if code == 0 or said else f"it ended with {code}"

    def _read(self) -> bool:
        """Take what has been printed, of which the end is kept; False where there is nothing now."""
        try:
            data = os.read(self._reading, _PIPE_MAX)
        except BlockingIOError:
            return False
        self._open = self._open and bool(data)
        self._said = (self._said + data)[-_READ_MAX:]
        return bool(data)

    def close(self) -> None:
        if self._group:
            from machines.host.enter import kill_group

            kill_group(self._group)
        os.close(self._fd)
        os.close(self._reading)
        if self._pid:
            # Until it has a session of its own it has no group, but is there.
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _probe(act: Callable[[int], int], writing: int) -> NoReturn:
    status = 1
    try:
        # A session of its own, so that all of it can be killed.
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        status = act(writing)
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is what the probe says)
        with contextlib.suppress(OSError):
            os.write(writing, str(error).encode(errors="replace"))
    finally:
        os._exit(status)


class _Look:
    """A thread that looks for a file: in a file system of the guest's own making (FUSE) that may take for ever."""

    def __init__(self, health: Health, leader: int) -> None:
        self.began, self.limit = time.monotonic(), health.timeout
        self.deadline = self.began + health.timeout
        self._found: _Found | None = None
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        threading.Thread(target=self._look, args=(leader, health.target[0], writing), daemon=True).start()

    def _look(self, leader: int, path: str, writing: int) -> None:
        try:
            os.close(open_in_root(f"/proc/{leader}/root", path, flags=os.O_PATH))
            self._found = True, ""
        except OSError as error:
            self._found = False, f"{path}: {error.strerror}"
        finally:
            os.close(writing)

    def filenos(self) -> dict[int, int]:
        return {self._reading: select.POLLIN}

    def ready(self) -> _Found | None:
        return self._found

    def close(self) -> None:
        os.close(self._reading)


def prepare() -> None:
    """Load what children need, once for all of them."""
    from machines.host.bus import guest  # noqa: F401


def _child(name: str, health: Health, leader: int, *, payload: Payload | None) -> _Child:
    group = None
    if payload is not None and health.kind == "exec":
        from machines.host.enter import kill_group, make_group

        group = make_group(name, leader, "probe")
        if group is not None:
            # What the last one left behind.
            kill_group(group)
    return _Child(health, _command(name, health, leader, payload=payload, group=group), group=group)


def _command(
    name: str, health: Health, leader: int, *, payload: Payload | None, group: str | None
) -> Callable[[int], int]:
    """Give what a child does, given the descriptor that its words go to."""
    if health.kind == "unit":
        return lambda fd: _unit_state(name, health.target[0], fd)
    if payload is not None:
        from machines.host.enter import enter

        def become(fd: int) -> int:
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            env = dict(assignment.split("=", 1) for assignment in payload.environment if "=" in assignment)
            where = payload.directory or None
            enter(leader, health.target, user=payload.user, env=env, directory=where, name=name, group=group)

        return become

    def run(fd: int) -> int:
        from machines.host.bus.guest import exec_in

        return exec_in(name, health.target, stdin=None, stdout=fd, stderr=fd, limit=health.timeout + 1)

    prepare()
    return run


def _unit_state(name: str, unit: str, fd: int) -> int:
    from machines.host.bus._sdbus import Bus, BusError
    from machines.host.bus.systemd1 import PATH, SERVICE, UNIT

    try:
        with Bus(machine=name) as bus:
            state = str(bus.get(SERVICE, bus.object_path(f"{PATH}/unit", unit), UNIT, "ActiveState", "s"))
    except BusError as error:
        raise error.translated(doing=f"ask for {unit} in machine {name}") from None
    os.write(fd, f"{unit} is {state}".encode())
    return 0 if state in {"active", "reloading"} else 1


def one_line(text: str) -> str:
    """Give the last line of what a machine says as one printable line that is not too long."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    shown = "".join(character if character.isprintable() else " " for character in line)
    return " ".join(shown.split())[:_SAID_MAX]


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
