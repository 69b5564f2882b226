# SPDX-License-Identifier: LGPL-2.1-or-later
"""Child processes: the one door, with an explicit argv and an environment built from nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import BinaryIO, NoReturn, cast

from machines.errors import CommandFailed, MachctlError, TimedOut, Unsupported
from machines.model.frozen import dataclass

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where tools are looked for: fixed, so that a caller's PATH neither hides sbin nor adds tools of its own."""

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

PACKAGES = {
    "apt-get": "apt",
    "btrfs": "btrfs-progs",
    "bzip2": "bzip2",
    "debootstrap": "debootstrap",
    "dpkg": "dpkg",
    "gpg": "gnupg",
    "gpgv": "gpgv",
    "gzip": "gzip",
    "ip": "iproute2",
    "journalctl": "systemd",
    "machinectl": "systemd-container",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "pacman": "pacman-package-manager",
    "pacstrap": "arch-install-scripts",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "ss": "iproute2",
    "ssh": "openssh-client",
    "systemctl": "systemd",
    "systemd-nspawn": "systemd-container",
    "systemd-run": "systemd",
    "tar": "tar",
    "umoci": "umoci",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""The Debian package that holds a tool."""


@dataclass(frozen=True)
class Completed:
    """A child that ended: its exit status (negative: the signal that killed it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def environment(extra: Mapping[str, str] | None = None, *, locale: str = "C.UTF-8") -> dict[str, str]:
    """Give the environment of a child: a fixed PATH and locale, HOME, TERM, the proxies, and ``extra``."""
    names = [*PROXIES, *(name.upper() for name in PROXIES)]
    return {
        "PATH": PATH,
        "LANG": locale,
        "LC_ALL": locale,
        "HOME": os.environ.get("HOME", "/root"),
        "TERM": os.environ.get("TERM", "dumb"),
        **{name: os.environ[name] for name in names if name in os.environ},
        **(extra or {}),
    }


def shell_words(argv: Sequence[str]) -> str:
    """Give a command as one would type it."""
    import shlex

    return shlex.join(argv)


def which(tool: str) -> str | None:
    """Give the path of ``tool`` on the fixed PATH, or None where the host does not have it."""
    for directory in PATH.split(":"):
        path = os.path.join(directory, tool)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def missing(tools: Sequence[str]) -> tuple[str, ...]:
    """Give those of ``tools`` that the host does not have, in their order."""
    return tuple(tool for tool in tools if which(tool) is None)


def not_found(tool: str) -> Unsupported:
    """Give the error that says that ``tool`` is not installed, and on Debian in which package it is."""
    package = PACKAGES.get(os.path.basename(tool))
    hint = f"install it (on Debian: apt install {package})" if package else "install it and try again"
    return Unsupported(f"{tool} not found, but it is needed here", hint=hint)


def last_line(text: str) -> str:
    """Give the last line of ``text`` that is not blank, without the space around it; or nothing."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def telling_line(text: str) -> str:
    """Give the line that says what is wrong: the first that names an error (nft points at it below), or the last."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if "error" in line.lower()), last_line(text))


def ending(returncode: int) -> str:
    """Say in words how a child ended that has ``returncode`` in the meaning of subprocess."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:  # real-time signals have no names of their own
        return f"was killed by signal {-returncode}"


def failed(argv: Sequence[str], returncode: int, stderr: str) -> CommandFailed:
    """Give the error of a child that failed: its last line as the message, the command as the hint."""
    message = f"{os.path.basename(argv[0])} {ending(returncode)}"
    said = telling_line(stderr)
    hint = f"the command was: {shell_words(argv)}"
    return CommandFailed(f"{message}: {said}" if said else message, hint=hint)


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,
    check: bool = True,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a short-lived child to its end and give what it printed.

    ``input`` is its stdin (otherwise /dev/null), ``timeout`` its time in seconds, ``env`` adds variables.
    Raises Unsupported where the tool is not installed, TimedOut, and with ``check`` CommandFailed.
    """
    import subprocess

    try:
        done = subprocess.run(
            argv,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            env=environment(env),
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError as exc:
        raise not_found(argv[0]) from exc
    except PermissionError as exc:
        raise CommandFailed(f"{argv[0]} cannot be run: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise TimedOut(
            f"{os.path.basename(argv[0])} did not end within {timeout:g} s",
            hint=f"the command was: {shell_words(argv)}",
        ) from exc
    if check and done.returncode != 0:
        raise failed(argv, done.returncode, done.stderr)
    return Completed(done.returncode, done.stdout, done.stderr)


def begin(argv: Sequence[str]) -> Callable[[], Completed]:
    """Start a short-lived child and give what waits for its end, and gives how it ended and what it printed.

    What it says as errors is not kept. Raises Unsupported where the tool is not installed, CommandFailed.
    """
    path = which(argv[0])
    if path is None:
        raise not_found(argv[0])
    # By posix_spawn(3): subprocess takes 4 ms to import, as long as such a child runs.
    reading, writing = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, writing, 1),
    ]
    try:
        # Python ignores SIGPIPE, and a child would as well (signal(7)).
        pid = os.posix_spawn(path, list(argv), environment(), file_actions=actions, setsigdef=[signal.SIGPIPE])
    except OSError as exc:
        os.close(reading)
        raise CommandFailed(f"{argv[0]} cannot be run: {exc.strerror}") from exc
    finally:
        os.close(writing)

    def end() -> Completed:
        with open(reading, encoding="utf-8", errors="replace") as output:
            printed = output.read()
        return Completed(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed, "")

    return end


@contextlib.contextmanager
def pipe(
    argv: Sequence[str], *, source: int | None = None, target: int | None = None, fine: Collection[int] = (0,)
) -> Iterator[BinaryIO]:
    """Run a filter and give its output, where ``source`` is what it reads, or its input, where ``target`` is given.

    What ends the caller's part early ends the filter as well; otherwise it has to end with one of the exit statuses
    ``fine``. An error of the caller's that the filter brought about is told as the filter's.
    Raises Unsupported where the tool is not installed, BrokenPipeError where nobody reads ``target`` any more,
    CommandFailed.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryFile() as said:
        try:
            # A session of its own: Ctrl-C is for machctl, which then ends it.
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if source is None else source,
                stdout=subprocess.PIPE if target is None else target,
                stderr=said, env=environment(), bufsize=1024 * 1024, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as exc:
            raise not_found(argv[0]) from exc
        stream = process.stdout if source is not None else process.stdin
        assert stream is not None

        def failure() -> CommandFailed | BrokenPipeError | None:
            if process.wait() in fine:
                return None
            if target is not None and process.returncode == -signal.SIGPIPE:
                return BrokenPipeError()
            said.seek(0)
            # The first line says what is wrong, what follows is advice.
            lines = said.read(4096).decode(errors="replace").split("\n")
            return failed(argv, process.returncode, next(filter(str.strip, lines), ""))

        try:
            yield cast("BinaryIO", stream)
            if source is not None and stream.read(1):
                return
            stream.close()
            if error := failure():
                raise error
        except BrokenPipeError:
            if source is not None:
                raise
            raise failure() or CommandFailed(f"{argv[0]} ended before it had read everything") from None
        except MachctlError as exc:
            # It may be a little behind in noticing that what it gave was wrong.
            wrong = source is not None and not isinstance(exc, CommandFailed)
            if wrong and not all(stream.read(1024 * 1024) for _ in range(16)) and (error := failure()):
                raise error from exc
            raise
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                stream.close()
            process.wait()


def attached(argv: Sequence[str]) -> int:
    """Run a child to its end with our own stdio and give its exit status; a signal that ends us ends it first.

    Raises Unsupported where the tool is not installed.
    """
    import subprocess

    try:
        return subprocess.run(argv, env=environment(), check=False).returncode
    except FileNotFoundError as exc:
        raise not_found(argv[0]) from exc


def replace(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> NoReturn:
    """Become the tool that ``argv`` names (execve(2)), with the environment of ``run`` and our own stdio.

    Raises Unsupported where the tool is not installed.
    """
    path = argv[0] if "/" in argv[0] else which(argv[0])
    if path is None:
        raise not_found(argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores SIGPIPE and execve(2) hands that down: the tool would outlive the pager it writes to.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execve(path, list(argv), environment(env))
    except FileNotFoundError as exc:
        raise not_found(argv[0]) from exc
