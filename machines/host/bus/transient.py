# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transient service that runs a command in a machine, as StartTransientUnit takes it. Pure but for the lookup.

systemd-run(1) does the same; org.freedesktop.systemd1(5) has the properties.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence

from machines.errors import CommandFailed, InvalidValue
from machines.host.guest import open_in_root

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Properties = list[tuple[str, tuple[str, object]]]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# Every way to end is a success to systemd: the guest must not become "degraded" by a command that fails, nor
# have it in its log as a failed service. The status itself is read all the same.
_ANY_END = ([*range(1, 256)], [*range(1, 65)])


def check(argv: Sequence[str], *, user: str | None, env: Mapping[str, str], cwd: str | None) -> None:
    """Raise InvalidValue for what cannot be passed to a service manager over D-Bus."""
    if not argv or not argv[0]:
        raise InvalidValue("there is no command to run")
    for what, values in (("the command", argv), ("the environment", env.values()), ("the user", [user or ""])):
        for value in values:
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidValue(f"{what} has a word that is not UTF-8: {value!a}") from None
            if "\0" in value:
                raise InvalidValue(f"{what} has a word with a zero byte in it: {value!a}")
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidValue(f"{name!r} is not a name for an environment variable")
        if _CONTROL.search(value):
            raise InvalidValue(f"the value of {name} has a control character in it, which systemd refuses: {value!a}")
    if cwd is not None and cwd != "~" and not cwd.startswith("/"):
        raise InvalidValue(f"the working directory {cwd!r} is not an absolute path in the machine")


def find_program(root: str, word: str, *, machine: str, cwd: str | None) -> str:
    """Give the absolute path in the guest of a command; ``root`` is the guest's tree as the host sees it.

    Raises CommandFailed with exit code 127 where there is none, with 126 where it may not be executed.
    """
    if "/" in word:
        candidates = [os.path.join("/" if cwd in {None, "~"} else str(cwd), word)]
    else:
        candidates = [f"{directory}/{word}" for directory in DEFAULT_PATH.split(":")]
    unusable = ""
    for path in candidates:
        try:
            fd = open_in_root(root, path, flags=os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            unusable = unusable or (path if isinstance(error, PermissionError) else "")
            continue
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
        unusable = unusable or path
    if unusable:
        raise CommandFailed(f"{unusable} in machine {machine} cannot be executed", exit_code=126)
    raise CommandFailed(f"there is no command {word!r} in machine {machine}", exit_code=127)


def properties(
    path: str,
    argv: Sequence[str],
    *,
    user: str | None,
    env: Mapping[str, str],
    cwd: str | None,
    fds: Sequence[int],
    tty: str | None,
    old: bool = False,
) -> Properties:
    """Give the properties of the service: ``fds`` are its three standard descriptors, ``tty`` the guest's path of
    the terminal that they are, if they are one; ``old`` is for systemd 236 to 243 in the guest."""
    given: Properties = [
        ("Description", ("s", f"machctl exec {os.path.basename(path)}")),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("AddRef", ("b", True)),
        # With a user HOME, USER, LOGNAME and SHELL are set, for root too.
        ("User", ("s", user or "root")),
        ("Environment", ("as", [f"{name}={value}" for name, value in env.items()])),
        ("StandardInputFileDescriptor", ("h", fds[0])),
        ("StandardOutputFileDescriptor", ("h", fds[1])),
        ("StandardErrorFileDescriptor", ("h", fds[2])),
        # Services ignore it, but `yes | head` has to end.
        ("IgnoreSIGPIPE", ("b", False)),
        ("SuccessExitStatus", ("(aiai)", _ANY_END)),
    ]
    if cwd is not None:
        given.append(("WorkingDirectory", ("s", cwd)))
    if tty is not None:
        given += [("TTYPath", ("s", tty)), ("SendSIGHUP", ("b", True))]
    if old:
        # Without ExecStartEx a "$" is written twice to mean itself.
        words = [word.replace("$", "$$") for word in argv]
        return [*given, ("Type", ("s", "simple")), ("ExecStart", ("a(sasb)", [(path, words, False)]))]
    # exec: only after a successful execve() is the service ever "active".
    start = [(path, list(argv), ["no-env-expand"])]
    return [*given, ("Type", ("s", "exec")), ("ExecStartEx", ("a(sasas)", start))]


def limited(seconds: int) -> Properties:
    """Give the properties of what runs for so long at most and is nothing to keep a record of.

    4 is LOG_WARNING (syslog(3)): that it was started and ended is less than that.
    """
    return [("RuntimeMaxUSec", ("t", seconds * 1_000_000)), ("LogLevelMax", ("i", 4))]


def exit_code(code: int, status: int) -> int:
    """Give the exit status as a shell has it from ExecMainCode (CLD_* of waitid(2)) and ExecMainStatus."""
    return status if code == os.CLD_EXITED else 128 + status
