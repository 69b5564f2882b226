# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in a running machine, as transient services of the machine's own systemd.

No nsenter: the command is in the guest's cgroups, has its limits, its users and its log, and no way to the host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from machines.errors import (
    CommandFailed,
    InvalidValue,
    MachctlError,
    NotFound,
    NotPermitted,
    NotRunning,
    Unsupported,
)
from machines.host.bus import transient
from machines.host.bus._sdbus import Bus, BusError, open_host
from machines.host.bus.errors import DBUS
from machines.host.bus.given import Given
from machines.host.bus.signals import Caught
from machines.host.bus.stdio import Stdio, unwritten
from machines.host.bus.systemd1 import MANAGER, PATH, SERVICE, SERVICE_UNIT, UNIT
from machines.host.registered import Registered, registered_machine

# asm-generic/ioctls.h; termios has it from Python 3.13 on.
_TIOCGPTPEER = 0x5441

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_OLD_SYSTEMD = {DBUS + name for name in ("InvalidArgs", "PropertyReadOnly", "UnknownProperty")}
_GONE = {DBUS + name for name in ("NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner")}
_DISCONNECTED = {errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE, errno.ENODATA}
_NO_BUS = {errno.ENOENT, errno.ECONNREFUSED, errno.EPROTO, errno.ECONNRESET}
# systemd.exec(5), "Process exit codes": what systemd gives for a command that it could not start.
_CHDIR, _EXEC, _GROUP, _USER, _FIRST, _LAST = 200, 203, 216, 217, 200, 243


def exec_in(
    machine: str,
    argv: Sequence[str],
    *,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    tty: bool = False,
    stdin: int | None = 0,
    stdout: int = 1,
    stderr: int = 2,
    limit: int | None = None,
    timeout: float | None = None,
) -> int:
    """Run ``argv`` in a running machine and give its exit status, or 128+n when signal n ended it.

    No word becomes syntax: ``$``, ``%``, spaces and newlines arrive as they are. ``user`` is one of the guest
    (root), ``cwd`` an absolute path there or "~" ("/"), a bare command is looked for in the usual directories.
    ``stdin`` None is /dev/null. With ``tty`` the command gets a terminal of the guest that is connected to 0
    and 1. With ``limit`` it is ended after so many seconds, and the guest's log has nothing of it. After ``timeout``
    seconds it is ended as by SIGTERM to this process, or not started. SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the
    command, which is stopped too when this process is killed. To be called on the main thread.

    Raises TimedOut (of ``timeout`` alone), NotRunning, NotPermitted (needs root), InvalidValue, NotFound (user,
    directory), Unsupported (no systemd or bus in the guest), and CommandFailed: with exit code 127 for no such
    command, 126 for one that cannot be executed; and for output that could not be written, however the command
    ended. Rests on StartTransientUnit of org.freedesktop.systemd1(5).
    """
    began = time.monotonic()
    env = dict(env or {})
    transient.check(argv, user=user, env=env, cwd=cwd)
    leader = _running(machine).leader
    try:
        path = transient.find_program(f"/proc/{leader}/root", argv[0], machine=machine, cwd=cwd)
    except FileNotFoundError:
        raise _not_running(machine) from None
    with (
        Given(argv[0], machine, timeout, began=began) as given,
        Caught(FORWARDED if not tty else ()) as caught,
        open_machine(machine, opened=given.watch) as bus,
    ):
        command = _Command(bus, machine, path, argv, user=user, cwd=cwd, limit=limit)
        if tty:
            return _with_terminal(command, env, given)
        with Stdio(stdin=stdin, stdout=stdout, stderr=stderr) as stdio:
            given.start()
            # What ends by itself in time needs nobody who sees to that.
            with _Guard(machine, command.unit) if limit is None else contextlib.nullcontext():
                command.start(env, fds=stdio.fds, tty=None)
                given.started()
                stdio.close_guest_ends()
                _wait(command, stdio, caught, given)
            code = command.exit_code()
            if stdio.lost is not None:
                raise unwritten(argv[0], stdio.lost)
            given.check()
            return code


class _Command:
    """A transient service from its start to its end; ``finished`` is kept up by dispatch()."""

    def __init__(
        self,
        bus: Bus,
        machine: str,
        path: str,
        argv: Sequence[str],
        *,
        user: str | None,
        cwd: str | None,
        limit: int | None = None,
    ) -> None:
        self.bus = bus
        self.machine = machine
        self.path = path
        self.argv = argv
        self.user = user
        self.cwd = cwd
        self.limit = limit
        self.unit = f"machctl-exec-{os.urandom(8).hex()}.service"
        self.finished = False
        self._object = bus.object_path(f"{PATH}/unit", self.unit)

    def start(self, env: Mapping[str, str], *, fds: Sequence[int], tty: str | None) -> None:
        """Start it; the signals of its end cannot be missed, because they are asked for before."""
        try:
            self.bus.match(SERVICE, self._object, "org.freedesktop.DBus.Properties", "PropertiesChanged", self._changed)
            try:
                self._start_unit(env, fds=fds, tty=tty, old=False)
            except BusError as error:
                if error.name not in _OLD_SYSTEMD:
                    raise
                try:
                    self._start_unit(env, fds=fds, tty=tty, old=True)
                except BusError:
                    raise error from None
        except BusError as error:
            raise self._translated(error) from None

    def dispatch(self) -> bool:
        """Handle what came over the bus and tell whether the command has ended."""
        try:
            self.bus.dispatch()
        except BusError as error:
            raise self._translated(error) from None
        return self.finished

    def forward(self, number: int) -> None:
        """Pass a signal on to the command; one that has just ended is fine."""
        # A terminal sends these to every process of the job, kill(1) to one.
        whom = "main" if number == signal.SIGTERM else "all"
        try:
            self.bus.call(SERVICE, PATH, MANAGER, "KillUnit", "ssi", self.unit, whom, int(number))
        except BusError:
            return

    def exit_code(self) -> int:
        """Give the exit status of the ended command, or raise what kept it from starting."""
        try:
            code = self.bus.get(SERVICE, self._object, SERVICE_UNIT, "ExecMainCode", "i")
            status = self.bus.get(SERVICE, self._object, SERVICE_UNIT, "ExecMainStatus", "i")
            active = self.bus.get(SERVICE, self._object, UNIT, "ActiveEnterTimestampMonotonic", "t")
        except BusError as error:
            raise self._translated(error) from None
        if code == 0:
            raise CommandFailed(
                f"machine {self.machine} did not start {self.argv[0]}",
                hint=f"journalctl -M {self.machine} -u {self.unit}",
            )
        if code == os.CLD_EXITED and _FIRST <= status <= _LAST and not active:
            raise self._not_started(status)
        return transient.exit_code(code, status)

    def _start_unit(self, env: Mapping[str, str], *, fds: Sequence[int], tty: str | None, old: bool) -> None:
        properties = transient.properties(
            self.path, self.argv, user=self.user, env=env, cwd=self.cwd, fds=fds, tty=tty, old=old
        )
        if self.limit is not None:
            properties += transient.limited(self.limit)
        self.bus.call(
            SERVICE, PATH, MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", self.unit, "fail", properties, []
        )

    def _changed(self, body: list[object]) -> None:
        interface, changed = body[0], body[1]
        if interface == UNIT and isinstance(changed, dict):
            job, _ = changed.get("Job", (1, "/"))
            self.finished = changed.get("ActiveState") in {"inactive", "failed"} and job == 0

    def _not_started(self, status: int) -> MachctlError:
        if status == _CHDIR:
            return NotFound(f"there is no directory {self.cwd} in machine {self.machine}")
        if status in {_USER, _GROUP}:
            return NotFound(f"there is no user {self.user} in machine {self.machine}")
        if status == _EXEC:
            return CommandFailed(
                f"{self.path} in machine {self.machine} cannot be executed",
                hint="it is for another architecture, or its interpreter is missing",
                exit_code=126,
            )
        return CommandFailed(
            f"systemd in machine {self.machine} could not set up {self.argv[0]} (status {status} in systemd.exec(5))",
            hint=f"journalctl -M {self.machine} -n 20",
        )

    def _translated(self, error: BusError) -> MachctlError:
        # Its systemd may leave the bus before the bus itself ends.
        if error.name in _GONE or (not error.name and error.code in _DISCONNECTED):
            return CommandFailed(f"machine {self.machine} went away while {self.argv[0]} ran in it")
        return error.translated(doing=f"run {self.argv[0]} in machine {self.machine}")


def _wait(command: _Command, stdio: Stdio, caught: Caught, given: Given) -> None:
    """Copy the standard descriptors and pass signals on until the command has ended."""
    bus = command.bus.fileno()
    while not command.dispatch():
        poll = select.poll()
        for fd, events in ({**stdio.wants(), bus: select.POLLIN, caught.fileno(): select.POLLIN}).items():
            poll.register(fd, events)
        left = given.left(command.forward)
        caught.unblock()
        ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000)}
        caught.block()
        for number in caught.take():
            command.forward(number)
        stdio.ready(ready)
    given.ended()
    stdio.drain(lambda: bool(caught.take()))


def _with_terminal(command: _Command, env: dict[str, str], given: Given) -> int:
    """Run the command on a new terminal of the guest and connect it to ours."""
    from machines.host.terminal import forward, set_size

    with open_host() as host:
        try:
            master, rest = host.call_with_fd(
                "org.freedesktop.machine1",
                "/org/freedesktop/machine1",
                "org.freedesktop.machine1.Manager",
                "OpenMachinePTY",
                "s",
                command.machine,
            )
        except BusError as error:
            doing = f"open a terminal in machine {command.machine}"
            raise error.translated(doing=doing, service="org.freedesktop.machine1") from None
    # As long as we have its other end open, reading ends with the command and not with EIO before its start.
    ends = [master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)]

    def dispatch() -> bool:
        ended = command.dispatch()
        if ended and len(ends) > 1:
            given.ended()
            os.close(ends.pop())
        return ended

    try:
        set_size(master)
        env.setdefault("TERM", os.environ.get("TERM", "dumb"))
        given.start()
        with _Guard(command.machine, command.unit):
            command.start(env, fds=[ends[1]] * 3, tty=rest[0])
            given.started()
            try:
                forward(
                    master,
                    what=command.argv[0],
                    escape=False,
                    watch={command.bus.fileno(): dispatch},
                    on_signal=command.forward,
                    left=lambda: given.left(command.forward),
                )
            finally:
                if not command.finished:
                    # Our own terminal is gone, or what it shows cannot be written.
                    command.forward(signal.SIGHUP)
        if not command.finished:
            return 128 + signal.SIGHUP
        code = command.exit_code()
        given.check()
        return code
    finally:
        for fd in ends:
            os.close(fd)


class _Guard:
    """A child that stops the command when this process is killed or gives up, which systemd would not notice.

    It has no descriptors but a pipe, and no Python code runs in it before the other end of that closes.
    """

    def __init__(self, machine: str, unit: str) -> None:
        self._machine = machine
        self._unit = unit

    def __enter__(self) -> None:
        reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            try:
                _watch_parent(reading, self._machine, self._unit)
            finally:
                os._exit(0)
        os.close(reading)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the command may run on, or start yet, as in a machine that did not answer: it is stopped then
        # too. A unit that never was is none to stop, and the child has nowhere to say so.
        if kind is None:
            os.kill(self._child, signal.SIGKILL)
        os.close(self._writing)
        # It may not have been scheduled yet on a busy host; nobody waits for that, init gets it in the end.
        os.waitpid(self._child, os.WNOHANG)


def _watch_parent(reading: int, machine: str, unit: str) -> None:
    # A signal for our process group is the parent's to handle.
    os.setsid()
    os.dup2(reading, 0)
    os.closerange(1, os.sysconf("SC_OPEN_MAX") if reading < 4096 else reading + 1)
    if os.read(0, 1) == b"":
        with Bus(machine=machine) as bus:
            bus.call(SERVICE, PATH, MANAGER, "StopUnit", "ss", unit, "replace")


def _running(machine: str) -> Registered:
    if machine == ".host":
        raise InvalidValue("'.host' is this host and no machine")
    entry = registered_machine(machine)
    if entry is None:
        raise _not_running(machine)
    if os.geteuid() != 0:
        raise NotPermitted("running commands in a machine needs root", hint="sudo machctl exec ...")
    return entry


def _not_running(machine: str) -> NotRunning:
    return NotRunning(f"machine {machine} is not running", hint=f"machctl start {machine}")


def open_machine(machine: str, *, opened: Callable[[int], None] | None = None) -> Bus:
    """Connect to the bus of a running machine; the caller closes it. Raises NotRunning, NotPermitted, Unsupported.

    ``opened`` gets the descriptor of the connection before anything is waited for.
    """
    bus = Bus(machine=machine)
    try:
        bus.open()
        if opened is not None:
            opened(bus.fileno())
        # Connecting is done in the background: the first call has its errors.
        bus.get(SERVICE, PATH, MANAGER, "Version", "s")
    except BusError as error:
        bus.close()
        if error.code in {errno.EHOSTDOWN, errno.ESRCH, errno.ENXIO}:
            raise _not_running(machine) from None
        if error.code in {errno.EPERM, errno.EACCES}:
            raise NotPermitted(f"cannot enter machine {machine}: {os.strerror(error.code)}") from None
        if error.code in _NO_BUS or error.name in {DBUS + "ServiceUnknown", DBUS + "NameHasNoOwner"}:
            raise Unsupported(
                f"machine {machine} has no system bus to run commands through",
                hint="it is still booting, or the packages dbus and systemd-sysv are not in it",
            ) from None
        raise error.translated(doing=f"connect to machine {machine}") from None
    return bus
