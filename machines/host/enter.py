# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in machines that have no systemd to ask for it: they join the namespaces of its first process.

Not nsenter(1): what the environment of a machine says of libraries (LD_PRELOAD) is for programs of that machine, and
nsenter is one of the host's. The command is under the machine's limits, in a control group beside that of its first
process, and has no more capabilities than that has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from machines.errors import MachctlError, NotFound, NotRunning, TimedOut
from machines.host.bus.signals import ENDING_SECONDS
from machines.host.freezer import follow
from machines.host.guest import open_in_root, read_file
from machines.host.meters.cgroup import group_of
from machines.host.registered import registered_machine
from machines.host.run import environment

# setns(2), with the files of /proc/PID/ns.
_NAMESPACES = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
# linux/prctl.h
_SET_DUMPABLE, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 4, 24, 38
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
_KILLED_SECONDS = 2.0
_GROUP = "machctl-"
_UNUSED_SECONDS = 60.0


def make_group(name: str, leader: int, purpose: str) -> str | None:
    """Give the control group for commands of ``purpose`` in a machine, making it; None for a host without cgroup v2.

    It is in the group of the machine's unit, so under its limits, but outside of what the guest sees and may change.
    Groups of commands that have ended since, and left something running or could not remove theirs, go.
    Raises NotRunning where the machine has ended.
    """
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return None
    entry = registered_machine(name)
    unit = group_of(leader, entry.unit) if entry is not None and entry.leader == leader else None
    if unit is None:
        raise NotRunning(f"machine {name} has ended")
    group = f"{unit}/{_GROUP}{purpose}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(group)
        follow(group)
        _remove_unused(unit)
    return group


def _remove_unused(unit: str) -> None:
    """Remove the groups of single commands that nothing runs in, but not what is about to be joined."""
    before = time.time() - _UNUSED_SECONDS
    with contextlib.suppress(OSError), os.scandir(unit) as entries:
        for entry in entries:
            # EBUSY: something runs in it. That it is younger than it is does no harm, and cgroupfs may say so.
            with contextlib.suppress(OSError):
                if entry.name.startswith(f"{_GROUP}exec-") and entry.stat(follow_symlinks=False).st_mtime < before:
                    os.rmdir(entry.path)


def kill_group(group: str) -> None:
    """Kill all that runs in a control group, whatever sessions it made; one that is gone is fine."""
    with contextlib.suppress(OSError):
        fd = os.open(f"{group}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)


def enter(
    leader: int,
    argv: Sequence[str],
    *,
    user: str,
    env: Mapping[str, str],
    directory: str | None,
    name: str,
    group: str | None,
    timeout: float | None = None,
    once: bool = False,
) -> NoReturn:
    """Run a command in the machine that process ``leader`` is the first of, with our own stdio, and end as it does.

    ``user`` is a name or a number, "" for root, ``group`` the control group that it is to be in; with ``once`` that
    is for this command alone and goes with it. The exit status is the command's, 128+n when signal n ended it, 127
    for no such command, 126 for one that cannot be executed, 124 where it was ended, with all in such a group,
    because it took longer than ``timeout`` seconds.
    Raises NotFound for a user or a directory that the machine lacks, MachctlError.
    """
    joined = None
    try:
        joined = _Group(group, once=once) if group else None
        ids, directory_fd = _looked_up(f"/proc/{leader}/root", user, directory, name)
        libc = ctypes.CDLL(None, use_errno=True)
        # From here on it is a process of the guest's, which must not look into it before it is the command.
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        bounds = _bounds(leader)
        _join(libc, leader)
    except BaseException as error:
        if joined is not None:
            joined.end(0)
        if isinstance(error, OSError):
            raise MachctlError(f"cannot enter machine {name}: {error.strerror}") from error
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*_ENDING, *_TERMINALS])
    # Only children of whoever joins a PID namespace are in it.
    pid = os.fork()
    if pid == 0:
        try:
            if joined is not None:
                joined.join()
            os.fchdir(directory_fd)
            _limit(libc, *bounds)
            # Where a namespace was made by others than root nobody may (user_namespaces(7), /proc/PID/setgroups).
            with contextlib.suppress(PermissionError):
                os.setgroups([])
            os.setgid(ids[1])
            os.setuid(ids[0])
            _become(argv, environment(env))
        except OSError as error:
            _fail(f"cannot run {argv[0]} in machine {name}: {error.strerror}", 126)
    _wait(pid, joined, timeout, f"{argv[0]} in machine {name}")


class _Group:
    """A control group, within reach also from the namespaces of a machine, where its path leads elsewhere."""

    def __init__(self, path: str, *, once: bool) -> None:
        self._name = os.path.basename(path)
        self._once = once
        self._above = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._procs = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._events = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        self._kill: int | None = None
        if once:
            # Linux 5.14.
            with contextlib.suppress(FileNotFoundError):
                self._kill = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)

    def join(self) -> None:
        """Move this process into it."""
        os.write(self._procs, b"0")

    def kill(self) -> bool:
        """Kill all that is in it, where it is of one command and the kernel can; tell whether that was done."""
        if self._kill is None:
            return False
        with _gone():
            os.write(self._kill, b"1")
        return True

    def end(self, seconds: float) -> None:
        """Remove it, waiting so long for what was killed to be gone; where something runs on in it, it stays."""
        if not self._once:
            return
        poll = select.poll()
        poll.register(self._events, select.POLLPRI)
        with _gone():
            while b"populated 1" in os.pread(self._events, 4096, 0) and poll.poll(seconds * 1000):
                pass
            os.rmdir(self._name, dir_fd=self._above)


def _gone() -> contextlib.AbstractContextManager[None]:
    """A group in which nothing runs any more may have been removed by another machctl (ENODEV), or be still in use."""
    return contextlib.suppress(OSError)


def _join(libc: ctypes.CDLL, leader: int) -> None:
    """Join all namespaces of a process that we are not in (setns(2), with a pidfd)."""
    fd = os.pidfd_open(leader)
    flags = 0
    for kind, flag in _NAMESPACES.items():
        # Nobody may join the user namespace that he is in.
        if os.stat(f"/proc/{leader}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino:
            flags |= flag
    if flags and libc.setns(fd, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.close(fd)


def _bounds(leader: int) -> tuple[int, bool]:
    """Give the capabilities that a process can have at most, and whether it can get none by executing something."""
    with open(f"/proc/{leader}/status", encoding="utf-8", errors="replace") as file:
        values = dict(line.rstrip("\n").partition(":\t")[::2] for line in file)
    return int(values["CapBnd"], 16), values.get("NoNewPrivs") == "1"


def _limit(libc: ctypes.CDLL, capabilities: int, alone: bool) -> None:  # noqa: FBT001
    for number in range(64):
        if not capabilities >> number & 1:
            libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    if alone:
        libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _become(argv: Sequence[str], env: dict[str, str]) -> NoReturn:
    # Python ignores some, and execve(2) hands that down.
    for number in (*_ENDING, *_TERMINALS, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execvpe(argv[0], list(argv), env)
    except (FileNotFoundError, NotADirectoryError):
        _fail(f"there is no command {argv[0]!r} in the machine", 127)


def _fail(text: str, status: int) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"machctl: {text}\n".encode(errors="replace"))
    os._exit(status)


def _wait(pid: int, group: _Group | None, timeout: float | None, what: str) -> NoReturn:
    """End as a child does, in time. What a terminal sends it gets itself; what ends us is for it."""
    over: list[int] = []

    def end(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if over else signal.SIGTERM)
        over.append(number)

    for number in _ENDING:
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    for number in _TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_ENDING, *_TERMINALS])
    if timeout is not None:
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, timeout, ENDING_SECONDS)
    passed = [*_ENDING, signal.SIGALRM]
    while True:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        # Once it is waited for, its number may be another's: what comes from then on is for nobody.
        signal.pthread_sigmask(signal.SIG_BLOCK, passed)
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found and not os.WIFSTOPPED(status):
            break
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        if found:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if group is not None:
        # What the command started goes with it, as in a machine with systemd.
        group.end(_KILLED_SECONDS if over and group.kill() else 0)
    if over:
        _fail(
            f"{what} took longer than {timeout:g} seconds and was ended\n  give it more with --timeout",
            TimedOut.exit_code,
        )
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _looked_up(root: str, user: str, directory: str | None, name: str) -> tuple[tuple[int, int], int]:
    """Give the ids of a user and a descriptor of a directory, both as the machine has them."""
    ids = _ids(root, user, name)
    # Opened before the command is in the machine, and within its root: a working directory outside is a way out.
    try:
        return ids, open_in_root(root, directory or "/", flags=os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise NotFound(f"machine {name} has no directory {directory}: {error.strerror}") from error


def _ids(root: str, user: str, name: str) -> tuple[int, int]:
    who, _, group = user.partition(":")
    if user in {"", "root", "0"}:
        return 0, 0
    for line in (read_file(root, "/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and who in {fields[0], fields[2]} and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(group if group.isdigit() else fields[3])
    if who.isdigit():
        return int(who), int(group) if group.isdigit() else int(who)
    raise NotFound(f"there is no user {who} in machine {name}", hint="give a number, or a user of its /etc/passwd")
