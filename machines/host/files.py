# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files on the host: written whole or not at all, removed with what machctl made around them, and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Iterable, Iterator

from machines.errors import Conflict, MachctlError, NotPermitted
from machines.host.loop import looped
from machines.host.matching import Directories, matching
from machines.model.names import machine_lock

LOCK_DIRECTORY = "/run/machctl"

_PART = 32768

_GUESTS = "/var/lib/machctl/guests"
_ADOPTED = "/var/lib/machctl/adopted"

# Directories that machctl may have made and that go when the last file in them has gone.
_PRUNED = (
    "/etc/machctl",
    "/etc/machctl/fleet.d",
    "/etc/machctl/ejected",
    "/etc/machctl/secrets",
    "/etc/machctl/secrets.encrypted",
    "/etc/systemd/nspawn",
    "/var/lib/machctl",
    _GUESTS,
    "/var/lib/machctl/localnet",
    _ADOPTED,
    "/var/lib/machctl/health",
    "/var/lib/machctl/machines",
    "/var/lib/machctl/nat",
    "/var/lib/machctl/networks",
    "/var/lib/machctl/rollouts",
    "/var/lib/machctl/store",
    "/var/lib/machctl/store/bases",
    "/var/lib/machctl/store/layers",
    "/var/lib/machctl/store/snapshots",
    "/var/lib/machctl/updates",
    "/var/log/machctl",
    "/etc/systemd/resolved.conf.d",
    "/run/machctl/health",
    "/run/machctl/nat",
    "/run/machctl/probes",
)
# What says in them that something is under way has to be on the disk before that is: the next boot goes on with it.
_MARKS = ("/var/lib/machctl", "/var/lib/machctl/rollouts", "/var/lib/machctl/updates")
# Of all machines whose sockets listen from boot on.
_SOCKETS = "/etc/systemd/system/sockets.target.d"
# Of one machine each.
_OWN = ("/etc/systemd/system/systemd-nspawn@*.service.d", f"{_GUESTS}/*")
_WRITTEN = (
    *_PRUNED,
    *_OWN,
    "/etc",
    "/etc/systemd/system",
    "/etc/systemd/system/*.service.d",
    "/etc/systemd/system/*.timer.d",
    "/etc/systemd/network",
    "/etc/NetworkManager/conf.d",
    _SOCKETS,
    "/etc/sysctl.d",
    "/var/lib/machctl/store/bases/*",
)


def read_files(patterns: Iterable[str]) -> dict[str, str]:
    """Give the text of every readable regular file that matches one of the glob ``patterns``, by path."""
    texts = {path: read_text(path) for path in Directories().matching(patterns, files=True)}
    return {path: text for path, text in texts.items() if text is not None}


def read_text(path: str) -> str | None:
    """Give the text of a file of the host, with the ends of lines as open() has them; None where there is none to read.

    A fleet has hundreds of them, and open() takes three times as long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = part = os.read(fd, _PART)
        # What the kernel makes up comes in pieces of its own size (proc(5)).
        made_up = path.startswith(("/proc/", "/sys/"))
        while part and (made_up or len(part) == _PART):
            part = os.read(fd, _PART)
            data += part
    except OSError:
        return None
    finally:
        os.close(fd)
    text = data.decode(errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def mode_of(path: str) -> int:
    """Give the permissions of a file, those of a new one where it is none."""
    try:
        return os.stat(path).st_mode & 0o7777
    except OSError:
        return 0o644


def write_file(path: str, text: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file so that after a crash it holds the old text or the new one, never a part (rename(2), fsync(2)).

    One that somebody closed to others stays closed to them, and whose it is it stays.
    """
    directory = os.path.dirname(path)
    _make_directory(directory)
    owner = None
    with contextlib.suppress(OSError):
        there = os.lstat(path)
        mode &= there.st_mode | 0o700
        owner = (there.st_uid, there.st_gid)
    temporary = f"{directory}/.#machctl-{os.getpid()}-{os.path.basename(path)}"
    try:
        with contextlib.suppress(FileNotFoundError):
            # Of a process that had our number before and was killed.
            os.unlink(temporary)
        with open(temporary, "wb", opener=_exclusive) as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            if owner not in {None, (os.geteuid(), os.getegid())}:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, path)
        if directory in _MARKS:
            sync_directory(directory)
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be written: {error.strerror}", hint="run machctl as root") from error
    except OSError as error:
        raise MachctlError(f"{path} cannot be written: {error.strerror}", hint=_remedy(error, directory)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sync_directory(directory: str) -> None:
    """Return once a directory is on the disk: the new name of a file is so only with it (fsync(2))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_file(path: str) -> None:
    """Remove a file, then the directories around it that only machctl used and that are empty now; none is fine."""
    try:
        if path.startswith(f"{LOCK_DIRECTORY}/") and path.endswith(".lock"):
            _remove_lock(path)
        elif _is_own(path) and os.path.isdir(path):
            # Of a run that was killed before there was anything in it; somebody may have put something there since.
            with contextlib.suppress(OSError):
                os.rmdir(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise MachctlError(
            f"{path} cannot be removed: {error.strerror}", hint=_remedy(error, os.path.dirname(path))
        ) from error
    directory = os.path.dirname(path)
    while directory in _PRUNED or _is_own(directory):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.EROFS}:
                return
            raise
        directory = os.path.dirname(directory)


def _is_own(directory: str) -> bool:
    """Tell whether a directory is there for one machine or unit, and goes with what is in it."""
    drop_ins = (".service.d", ".target.d", ".timer.d")
    if directory.endswith(drop_ins) or directory.startswith(f"{LOCK_DIRECTORY}/started-"):
        return True
    return os.path.dirname(directory) in {_GUESTS, _ADOPTED}


def abandoned() -> list[str]:
    """Give the files that killed processes left: what write_file() was writing, and locks that nobody holds."""
    found = [path for path in matching(f"{LOCK_DIRECTORY}/*.lock") if not is_locked(os.path.basename(path)[:-5])]
    directories = Directories()
    for path in directories.matching(_OWN):
        name = os.path.basename(path).removeprefix("systemd-nspawn@").removesuffix(".service.d")
        if directories.entries(path) == [] and not is_locked(machine_lock(name)):
            found.append(path)
    # write_file() can do with its being gone again.
    if directories.entries(_SOCKETS) == []:
        found.append(_SOCKETS)
    for path in directories.matching(f"{directory}/.#machctl-*" for directory in _WRITTEN):
        pid = os.path.basename(path).split("-")[1]
        # Whoever was writing it may have ended just now.
        if not os.path.exists(f"/proc/{pid}") and os.path.lexists(path):
            found.append(path)
    return sorted(found)


def abandoned_directories() -> list[str]:
    """Give the directories that killed processes were bootstrapping with (machines.host.bootstrap.scratch)."""
    found = []
    for path in matching(f"{LOCK_DIRECTORY}/*"):
        words = os.path.basename(path).split("-")
        if len(words) > 2 and words[1].isdigit() and os.path.isdir(path) and not os.path.exists(f"/proc/{words[1]}"):
            found.append(path)
    return sorted(found)


@contextlib.contextmanager
def lock(name: str, *, what: str) -> Iterator[None]:
    """Hold the lock ``name`` (flock(2)); the kernel drops it with the process, however that ends.

    Raises Conflict if somebody else has it.
    """
    _make_directory(LOCK_DIRECTORY)
    path = f"{LOCK_DIRECTORY}/{name}.lock"
    looks = 3
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Who waited for it, or has it just now, is in no file yet.
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or next(iter(_holders(os.fstat(fd))), "")
            os.close(fd)
            looks -= 1
            if not holder and looks:  # they have given it back just now
                continue
            raise Conflict(
                f"{what} is being changed by another machctl (process {holder or '?'})",
                hint="wait for it to end, then try again",
            ) from None
        # Whoever had it before may have removed the file: a lock on a file without a name keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                break
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)


@contextlib.asynccontextmanager
async def fleet_lock() -> AsyncIterator[None]:
    """Hold the lock of the whole fleet once whoever has it is done with it; being cancelled ends the waiting."""
    _make_directory(LOCK_DIRECTORY)
    # The directory itself is what is locked: it needs no file that somebody would have to remove.
    fd = await _locked(LOCK_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def wait_lock(name: str) -> AsyncIterator[None]:
    """Hold the lock ``name`` once whoever has it is done with it; being cancelled ends the waiting."""
    _make_directory(LOCK_DIRECTORY)
    path = f"{LOCK_DIRECTORY}/{name}.lock"
    while True:
        fd = await _locked(path, os.O_RDWR | os.O_CREAT)
        # Whoever had it before has removed the file: a lock on a file without a name keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                break
        os.close(fd)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)


async def _locked(path: str, flags: int) -> int:
    """Give a descriptor of ``path`` that holds its lock (flock(2)), which the caller closes."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except BlockingIOError:
        pass
    await looped()
    import asyncio
    import threading

    loop = asyncio.get_running_loop()
    held: asyncio.Future[None] = loop.create_future()

    def got() -> None:
        if held.cancelled():
            os.close(fd)
        else:
            held.set_result(None)

    def wait() -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and this process is about to
            loop.call_soon_threadsafe(got)

    # flock(2) cannot be polled; a daemon thread that waits in it does not keep the process from ending.
    threading.Thread(target=wait, daemon=True).start()
    try:
        await held
    except asyncio.CancelledError:
        if held.done() and not held.cancelled():
            os.close(fd)
        raise
    return fd


def is_locked(name: str) -> bool:
    """Tell whether a process holds the lock ``name`` right now, without taking it for even a moment (proc_locks(5))."""
    try:
        return bool(_holders(os.stat(f"{LOCK_DIRECTORY}/{name}.lock")))
    except FileNotFoundError:
        return False


def _holders(found: os.stat_result) -> list[str]:
    """Give the numbers of the processes that hold the lock of a file (proc_locks(5))."""
    lines = [line for line in (read_text("/proc/locks") or "").splitlines() if f":{found.st_ino} " in line]
    return [words[4] for words in map(str.split, lines) if words[1] == "FLOCK"]


def this_process() -> str:
    """Give what is_alive() tells this process by."""
    return f"{os.getpid()}.{_start_time(os.getpid())}"


def is_alive(process: str) -> bool:
    """Tell whether the process that this_process() gave ``process`` in still runs, and not another by its number."""
    number, _, start = process.partition(".")
    return number.isdigit() and _start_time(int(number)) == start


def _start_time(process: int) -> str:
    # starttime is the 22nd field, the 20th behind the name in parentheses (proc_pid_stat(5)).
    text = read_text(f"/proc/{process}/stat") or ""
    return "".join(text.rpartition(")")[2].split()[19:20]) or "-"


def _remove_lock(path: str) -> None:
    """Remove the file of a lock that nobody holds: under a holder, it would let a second one in."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def _make_directory(path: str) -> None:
    try:
        if path.startswith(f"{_GUESTS}/"):
            # A machine reads of it what is its own, whoever it belongs to there; nobody else of this host has to.
            os.makedirs(_GUESTS, mode=0o700, exist_ok=True)
            os.chmod(_GUESTS, 0o700)
        os.makedirs(path, mode=0o755, exist_ok=True)
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be made: {error.strerror}", hint="run machctl as root") from error
    except OSError as error:
        raise MachctlError(f"{path} cannot be made: {error.strerror}", hint=_remedy(error, "/")) from error


def _remedy(error: OSError, directory: str) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"make room: df {directory}"
    if error.errno == errno.EROFS:
        return f"the file system is read-only: mount -o remount,rw, or see dmesg ({directory})"
    return f"look at what is there: ls -la {directory}"


def _exclusive(path: str, flags: int) -> int:
    flags |= os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        # Another machctl found the directory empty just now, and took it away.
        _make_directory(os.path.dirname(path))
        return os.open(path, flags, 0o600)
