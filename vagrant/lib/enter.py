# SPDX-License-Identifier: LGPL-2.1-or-later
"""enter.py DIRECTORY LEADER CGROUP COMMAND...: runs COMMAND as root in the namespaces of a host.

nsenter(1) would do, but for signals: it passes none on to the process that it forks for the PID namespace.
"""

import ctypes
import os
import signal
import sys

SYS_CLONE3 = 435  # the same on every architecture
CLONE_INTO_CGROUP = 1 << 33
CLONE_NEWPID = 0x20000000
CLONE_OTHERS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000  # mount, cgroup, UTS, IPC, network
PR_SET_PDEATHSIG = 1
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SHUTDOWN_WORDS = ("reboot", "poweroff", "halt", "shutdown")
SHUTDOWN_LIMIT = 60
KEPT = ("TERM", "COLORTERM", "NO_COLOR", "http_proxy", "https_proxy", "no_proxy")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}


libc = ctypes.PyDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def fork_into(cgroup: str, leader: int) -> int:
    """Fork into the leader's PID namespace and a leaf below cgroup.

    A leaf of its own, because in cgroup v2 an inner node holds no processes; without a unit's name, so that the
    host's systemd leaves it alone. Moving a running process there would take an RCU grace period, some 80 ms.
    """
    leaf = f"{cgroup}/run"
    os.makedirs(leaf, exist_ok=True)
    directory = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    checked(libc.setns(leader, CLONE_NEWPID))
    # struct clone_args: flags, 3 unused, exit_signal, 5 unused, cgroup
    arguments = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
    child = checked(libc.syscall(SYS_CLONE3, arguments, ctypes.sizeof(arguments)))
    os.close(directory)
    return child


def become(leader: int, command: list[str], own_group: bool, foreground: bool) -> None:
    checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    checked(libc.setns(leader, CLONE_OTHERS))
    if own_group:
        os.setpgid(0, 0)
    if foreground:
        os.tcsetpgrp(0, os.getpgrp())
    for number in (signal.SIGTTOU, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    environment = ENVIRONMENT | {key: os.environ[key] for key in KEPT if key in os.environ}
    os.chdir("/root")
    # Not os.execvpe: it imports modules, and from here on those are the host's.
    directories = [""] if "/" in command[0] else [f"{path}/" for path in environment["PATH"].split(":")]
    reason: str | None = "no such command"
    code = 127
    for directory in directories:
        try:
            os.execve(f"{directory}{command[0]}", command, environment)
        except FileNotFoundError:
            continue
        except OSError as exc:
            reason, code = exc.strerror, 126
    os.write(2, f"vagrant/host: cannot run {command[0]} in the host: {reason}\n".encode())
    os._exit(code)


def wait_for(child: int, foreground: bool) -> int:
    """Pass signals on until the child ends; its exit code, or 128 and the signal that ended it."""
    while True:
        info = signal.sigwaitinfo({signal.SIGCHLD, *FORWARDED})
        if info.si_signo != signal.SIGCHLD:
            # The terminal's own signals have reached a child that shares this process group.
            if info.si_code <= 0 or os.getpgid(child) != os.getpgrp():
                os.kill(child, info.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            continue
        if os.WIFSTOPPED(status):
            # SIGSTOP is systemd-shutdown's: whoever stops with the child then never reaps it, and the host hangs.
            if foreground and os.WSTOPSIG(status) != signal.SIGSTOP:
                os.tcsetpgrp(0, os.getpgrp())
                os.kill(os.getpid(), signal.SIGSTOP)
                os.tcsetpgrp(0, child)
                os.killpg(child, signal.SIGCONT)
            continue
        if foreground:
            os.tcsetpgrp(0, os.getpgrp())
        return os.waitstatus_to_exitcode(status)


def noted_leader(directory: str) -> int:
    """The leader that the supervisor has written down, 0 when it has taken the note away."""
    try:
        with open(f"{directory}/leader") as note:
            return int(note.read().split()[0])
    except FileNotFoundError:
        return 0


def wait_for_shutdown(directory: str, leader: int, leader_pid: int) -> None:
    """Return when a host that is going down has gone, so that the next run does not enter its remains."""
    import select
    import subprocess
    import time

    state = ["nsenter", "-t", str(leader_pid), "-m", "-p", "--", "systemctl", "is-system-running"]
    if b"stopping" in subprocess.run(state, capture_output=True, check=False).stdout:
        ended = select.poll()
        ended.register(leader, select.POLLIN)
        ended.poll(SHUTDOWN_LIMIT * 1000)
        end = time.monotonic() + SHUTDOWN_LIMIT
        while time.monotonic() < end and noted_leader(directory) == leader_pid:
            time.sleep(0.01)


def main() -> int:
    directory, leader_pid, cgroup, command = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    terminals = [os.isatty(fd) for fd in (0, 1, 2)]
    # In a pipeline the terminal stays with the whole pipeline's process group.
    foreground = terminals[0] and terminals[1] and os.tcgetpgrp(0) == os.getpgrp()
    own_group = foreground or not any(terminals)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *FORWARDED})
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        leader = os.pidfd_open(leader_pid)
        child = fork_into(cgroup, leader)
        if child == 0:
            become(leader, command, own_group, foreground)
    except OSError as exc:
        print(f"vagrant/host: cannot enter the host: {exc.strerror}", file=sys.stderr)
        os._exit(125)
    if own_group:
        try:
            os.setpgid(child, child)
        except (PermissionError, ProcessLookupError):
            pass  # it has done so itself, and is past its exec
    code = wait_for(child, foreground)
    if any(word in argument for argument in command for word in SHUTDOWN_WORDS):
        wait_for_shutdown(directory, leader, leader_pid)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
