# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading and writing files inside a root tree.

A guest's root may have put a symlink anywhere. Every path is resolved by the kernel with the tree as its root
(openat2(2), RESOLVE_IN_ROOT), and only regular files and directories are touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from machines.errors import MachctlError, NotFound
from machines.host.openat import IN_ROOT, NO_MAGICLINKS, open_at
from machines.host.removal import remove_directory

READ_MAX = 1024 * 1024

# O_NONBLOCK: opening a fifo that the guest left there must not wait for its other end.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES}


def open_in_root(root: str, path: str, *, flags: int = os.O_RDONLY) -> int:
    """Open ``path`` with ``root`` as "/" and give the file descriptor, which the caller closes.

    Raises OSError as open(2) does.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_at(directory, path, flags, resolve=IN_ROOT | NO_MAGICLINKS)
    except OSError as error:
        error.filename = f"{root}{path}"
        raise
    finally:
        os.close(directory)


def read_file(root: str, path: str) -> str | None:
    """Give the text of a regular file in the tree, 1 MiB of it at most; None where there is none that can be read."""
    text = read_plain_file(root, path)
    if text is not None:
        return text
    # Which error it is the guest decides, by what it puts there.
    with contextlib.suppress(OSError):
        return _read(open_in_root(root, path, flags=_READ))
    return None


def read_whole_file(root: str, path: str) -> str | None:
    """Give the text of a file in the tree that can be written anew; "" where there is nothing.

    None for what would not come back as it was: a symlink, what is no file or no text, more than READ_MAX bytes.
    """
    try:
        fd = _open_plain(root, path, flags=_READ)
    except FileNotFoundError:
        return ""
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            content = file.read(READ_MAX + 1)
        return content.decode() if len(content) <= READ_MAX else None
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)


def exists(root: str, path: str) -> bool:
    """Tell whether ``path`` leads to something within the tree."""
    try:
        os.close(open_in_root(root, path, flags=os.O_PATH))
    except OSError:
        return False
    return True


def is_executable(root: str, path: str) -> bool:
    """Tell whether ``path`` leads to a file within the tree that anybody may execute."""
    try:
        fd = open_in_root(root, path, flags=os.O_PATH)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return stat.S_ISREG(found.st_mode) and found.st_mode & 0o111 != 0


def read_plain_file(root: str, path: str) -> str | None:
    """Do as read_file(), but give None for a path with a symlink in it; needs no ctypes, which takes 4 ms to import."""
    with contextlib.suppress(OSError):
        return _read(_open_plain(root, path, flags=_READ))
    return None


def _read(fd: int) -> str | None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        # Room for all that may be read takes half a millisecond to come by.
        return file.read(min(found.st_size + 1, READ_MAX)).decode(errors="replace")


def _open_plain(root: str, path: str, *, flags: int) -> int:
    *parents, name = [part for part in path.split("/") if part] or ["."]
    if ".." in parents:
        raise OSError(errno.ELOOP, "not a plain path", path)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)


def write_file(root: str, path: str, text: str, *, mode: int = 0o644) -> None:
    """Write a file in the tree whole or not at all, as its root user's; missing directories are made.

    Raises MachctlError where something that is no directory is in the way.
    """
    directory, name = os.path.split(path)
    owner = os.stat(root)
    fd = _make_directories(root, directory, owner)
    # Not to be guessed, as the guest may put files there meanwhile.
    temporary = f".#machctl-{os.urandom(8).hex()}"
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(text.encode())
                os.fchmod(stream.fileno(), mode)
                os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            # rename(2) replaces a symlink itself and never follows it.
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(temporary, dir_fd=fd)
            raise
    except OSError as error:
        raise _in_the_way(root, path, error) from error
    finally:
        os.close(fd)


def link(root: str, path: str, target: str) -> None:
    """Make ``path`` in the tree a symlink to ``target``, in place of whatever file is there."""
    remove_file(root, path)
    directory, name = os.path.split(path)
    fd = _make_directories(root, directory, os.stat(root))
    try:
        os.symlink(target, name, dir_fd=fd)
    finally:
        os.close(fd)


def remove_file(root: str, path: str) -> None:
    """Remove a file or symlink in the tree, not what it points to; none is fine."""
    directory, name = os.path.split(path)
    try:
        fd = open_in_root(root, directory, flags=os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return
        raise _in_the_way(root, directory, error) from error
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _in_the_way(root, path, error) from error
    finally:
        os.close(fd)


def make_directory(root: str, path: str) -> None:
    """Make a directory in the tree, its root user's, with its parents; one that is there is left as it is.

    Raises MachctlError where something that is no directory is in the way.
    """
    os.close(_make_directories(root, path, os.stat(root)))


def copy_directories(root: str, other: str, path: str) -> None:
    """Make the directories above ``path`` that are missing in ``root`` as they are in the tree ``other``.

    They belong to the root of ``root`` where those of ``other`` belong to its own.
    """
    owner, done = os.stat(root), "/"
    for part in [part for part in os.path.dirname(path).split("/") if part]:
        parent, done = done, os.path.join(done, part)
        if exists(root, done):
            continue
        try:
            status = os.stat(other + done, follow_symlinks=False)
        except OSError:
            return
        if not stat.S_ISDIR(status.st_mode):
            return
        above = open_in_root(root, parent, flags=os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(part, dir_fd=above)
            os.chown(part, owner.st_uid + status.st_uid, owner.st_gid + status.st_gid, dir_fd=above)
            os.chmod(part, stat.S_IMODE(status.st_mode), dir_fd=above)
        finally:
            os.close(above)


def list_directory(root: str, path: str) -> list[str]:
    """Give the names in a directory of the tree, none where there is no such directory."""
    try:
        fd = open_in_root(root, path, flags=_READ | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _NOTHING:
            return []
        raise
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def remove_tree(root: str, path: str) -> None:
    """Remove a directory of the tree with all that is in it, following no symlink; none is fine."""
    directory, name = os.path.split(path.rstrip("/"))
    try:
        fd = open_in_root(root, directory, flags=_READ | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _NOTHING:
            return
        raise _in_the_way(root, directory, error) from error
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            remove_directory(fd, name)
        else:
            os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _in_the_way(root, path, error) from error
    finally:
        os.close(fd)


def _make_directories(root: str, path: str, owner: os.stat_result) -> int:
    """Give a descriptor of a directory in the tree, made with its parents where missing."""
    if not os.path.isdir(root):
        raise NotFound(f"there is no tree {root}")
    done = "/"
    try:
        for name in [part for part in path.split("/") if part]:
            parent, done = done, os.path.join(done, name)
            try:
                os.close(open_in_root(root, done, flags=os.O_PATH | os.O_DIRECTORY))
            except FileNotFoundError:
                above = open_in_root(root, parent, flags=os.O_PATH | os.O_DIRECTORY)
                try:
                    os.mkdir(name, 0o755, dir_fd=above)
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=above, follow_symlinks=False)
                finally:
                    os.close(above)
        return open_in_root(root, path or "/", flags=os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise _in_the_way(root, done, error) from error


def _in_the_way(root: str, path: str, error: OSError) -> MachctlError:
    """Whatever a guest puts where a file or directory of ours belongs is an error of that machine, no crash."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return MachctlError(
        f"{path} in the tree {root} cannot be used: {reason}", hint="look at what the machine has there, and remove it"
    )
