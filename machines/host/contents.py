# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading what a root tree holds: its packages, /etc, units, users and size.

The tree is a guest's, who may have put anything anywhere: no symlink in it is followed, nothing but regular files
and directories is opened, and how much is read is bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from machines.errors import MachctlError, NotFound
from machines.model.difference import Contents, File, Size
from machines.model.ids import SIZE

# The list of packages of a large desktop takes 10 MiB.
DATABASE_MAX = 64 * 1024 * 1024
# What is larger is compared by its size and time of change.
DIGEST_MAX = 4 * 1024 * 1024
DIGEST_SUM_MAX = 64 * 1024 * 1024
TEXT_MAX = 64 * 1024
TEXT_SUM_MAX = 8 * 1024 * 1024
ENTRIES_MAX = 100_000
# A descriptor is held for each directory on the way down.
DEPTH_MAX = 256

RPM = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_WIRED = (".wants", ".requires", ".upholds")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL}


def read_contents(root: str, *, shift: int = 0) -> Contents:
    """Give what the tree ``root`` holds; ``shift`` is the host's uid of its root user, where files are chowned to it.

    A running machine's tree may be read: what vanishes meanwhile is left out. Raises NotFound where there is no
    directory, PermissionError, and MachctlError where the file system fails.
    """
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no tree {root}") from None
    try:
        return _Reader(top, shift).contents()
    except PermissionError:
        raise
    except OSError as error:
        raise MachctlError(
            f"the tree {root} cannot be read: {error.strerror}", hint="dmesg says whether its file system is damaged"
        ) from error
    finally:
        os.close(top)


class _Reader:
    """One reading of one tree: ``top`` is a descriptor of its root directory."""

    def __init__(self, top: int, shift: int) -> None:
        self.top = top
        self.shift = shift
        self.etc: dict[str, File] = {}
        self.digest_left = DIGEST_SUM_MAX
        self.text_left = TEXT_SUM_MAX
        self.unread: dict[str, None] = {}

    def contents(self) -> Contents:
        self._read_etc()
        return Contents(
            packages=self._packages(),
            etc=self.etc,
            units=_units(self.etc),
            users=_accounts(self._database("etc/passwd", limit=DIGEST_MAX), width=7, fields=(2, 3, 5, 6)),
            groups=_accounts(self._database("etc/group", limit=DIGEST_MAX), width=4, fields=(2, 3)),
            size=self._size(),
            unread=tuple(self.unread),
        )

    def _size(self) -> Size:
        """Add up the whole tree, without what is mounted in it."""
        device = os.fstat(self.top).st_dev
        linked: set[tuple[int, int]] = set()
        blocks = files = 0
        for _, entry, _ in _walk(self.top, self.unread, device=device):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno in _NOTHING:
                    continue
                raise
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in linked:
                    continue
                linked.add((found.st_dev, found.st_ino))
            files += 1
            blocks += found.st_blocks
        return Size(blocks * 512, files)

    def _read_etc(self) -> None:
        try:
            found = os.stat("etc", dir_fd=self.top, follow_symlinks=False)
        except FileNotFoundError:
            return
        self.etc["/etc"] = self._file("etc", self.top, found)
        directory = _open_below(self.top, "etc")
        if directory is None:
            return
        try:
            for path, entry, parent in _walk(directory, self.unread, device=found.st_dev):
                if len(self.etc) >= ENTRIES_MAX:
                    self.unread[f"/etc beyond its first {ENTRIES_MAX} files"] = None
                    return
                try:
                    file = self._file(entry.name, parent, entry.stat(follow_symlinks=False))
                except OSError as error:
                    if error.errno not in _NOTHING:
                        raise
                else:
                    self.etc[f"/etc/{_text(path)}"] = file
        finally:
            os.close(directory)

    def _file(self, name: str, parent: int, found: os.stat_result) -> File:
        mode, uid, gid = stat.S_IMODE(found.st_mode), self._owner(found.st_uid), self._owner(found.st_gid)
        if stat.S_ISLNK(found.st_mode):
            # The kernel gives every symlink the same mode (symlink(7)).
            return File("link", 0, uid, gid, target=_text(os.readlink(name, dir_fd=parent)))
        if stat.S_ISDIR(found.st_mode):
            return File("directory", mode, uid, gid)
        if not stat.S_ISREG(found.st_mode):
            return File("other", mode, uid, gid, digest=f"{stat.S_IFMT(found.st_mode):o} {found.st_rdev}")
        if self.digest_left < found.st_size <= DIGEST_MAX:
            self.unread[f"the content of /etc beyond its first {DIGEST_SUM_MAX // 2**20} MB"] = None
        if found.st_size > min(DIGEST_MAX, self.digest_left):
            return File("file", mode, uid, gid, digest=f"{found.st_size} bytes of {found.st_mtime_ns}")
        data = _read(parent, name, limit=DIGEST_MAX)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "gone", name)
        self.digest_left -= len(data)
        # What not everybody may read, as passwords and keys, is not for showing either.
        text = self._short(data) if mode & stat.S_IROTH else None
        return File("file", mode, uid, gid, _sha256(data), text)

    def _short(self, data: bytes) -> str | None:
        if len(data) > min(TEXT_MAX, self.text_left) or b"\0" in data:
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        self.text_left -= len(data)
        return text

    def _owner(self, number: int) -> int:
        return number - self.shift if self.shift <= number < self.shift + SIZE else number

    def _packages(self) -> dict[str, str]:
        packages = _dpkg(self._database("var/lib/dpkg/status"))
        # Images without dpkg itself list each package in a file of its own.
        for name in self._names("var/lib/dpkg/status.d"):
            if not name.endswith(".md5sums"):
                packages |= _dpkg(self._database(f"var/lib/dpkg/status.d/{name}", limit=DIGEST_MAX))
        for path in ("lib/apk/db/installed", "usr/lib/apk/db/installed"):
            packages |= _apk(self._database(path))
        for name in self._names("var/lib/pacman/local"):
            # libalpm reads name and version off the directory too (local_db_populate).
            words = name.rsplit("-", 2)
            if len(words) == 3:
                packages[words[0]] = f"{words[1]}-{words[2]}"
        if any(name.startswith(("rpmdb.sqlite", "Packages")) for path in RPM for name in self._names(path)):
            self.unread["the packages of rpm"] = None
        return packages

    def _database(self, path: str, *, limit: int = DATABASE_MAX) -> str:
        directory, _, name = path.rpartition("/")
        parent = _open_below(self.top, directory)
        if parent is None:
            return ""
        try:
            data = _read(parent, name, limit=limit)
        finally:
            os.close(parent)
        if data is not None and len(data) > limit:
            self.unread[f"/{path} beyond its first {limit // 2**20} MB"] = None
        return (data or b"")[:limit].decode(errors="backslashreplace")

    def _names(self, path: str) -> list[str]:
        directory = _open_below(self.top, path)
        if directory is None:
            return []
        try:
            with os.scandir(directory) as entries:
                names = [_text(entry.name) for entry, _ in zip(entries, range(ENTRIES_MAX + 1), strict=False)]
        finally:
            os.close(directory)
        if len(names) > ENTRIES_MAX:
            self.unread[f"/{path} beyond its first {ENTRIES_MAX} files"] = None
        return names[:ENTRIES_MAX]


def _walk(
    directory: int, unread: dict[str, None], *, device: int, path: str = "", depth: int = 1
) -> Iterator[tuple[str, os.DirEntry[str], int]]:
    """Give all below ``directory``: path, entry, and the descriptor of what it is in; mounts are not entered."""
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            yield path + entry.name, entry, directory
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
    if below and depth == DEPTH_MAX:
        unread[f"directories more than {DEPTH_MAX} deep"] = None
        return
    for name in below:
        inner = _open_below(directory, name)
        if inner is None:
            continue
        try:
            # On an overlay only directories are sure to be of its device.
            if os.fstat(inner).st_dev == device:
                yield from _walk(inner, unread, device=device, path=f"{path}{name}/", depth=depth + 1)
        finally:
            os.close(inner)


def _open_below(directory: int, path: str) -> int | None:
    """Open a directory by a path without any symlink in it; None where there is none."""
    at = directory
    for name in path.split("/"):
        try:
            below = os.open(name, _DIRECTORY, dir_fd=at)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise
        finally:
            if at != directory:
                os.close(at)
        at = below
    return at


def _read(parent: int, name: str, *, limit: int) -> bytes | None:
    """Give the first ``limit`` bytes of a regular file and one more, which tells that there are; None for no file."""
    try:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise
    try:
        # Opening a device or a fifo does something by itself; so what it is is known before, and cannot be swapped.
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        with open(f"/proc/self/fd/{place}", "rb", buffering=0) as file:
            parts = []
            left = limit + 1
            while left and (part := file.read(min(left, 1024 * 1024))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
    finally:
        os.close(place)


def _dpkg(text: str) -> dict[str, str]:
    """Read dpkg's list of packages: those that are there, foreign architectures by name (dpkg-query(1))."""
    found = []
    native = ""
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.split("\n"):
            key, colon, value = line.partition(": ")
            if colon and key in {"Package", "Status", "Architecture", "Version"}:
                fields.setdefault(key, value.strip())
        if "Package" not in fields or fields.get("Status", "").endswith(("not-installed", "config-files")):
            continue
        # dpkg is always of the tree's own architecture.
        if fields["Package"] == "dpkg":
            native = fields.get("Architecture", "")
        found.append((fields["Package"], fields.get("Architecture", ""), fields.get("Version", "")))
    return {
        name if not native or architecture in {native, "all", ""} else f"{name}:{architecture}": version
        for name, architecture, version in found
    }


def _apk(text: str) -> dict[str, str]:
    """Read apk's list of packages, where P: is the name and V: the version."""
    packages = {}
    name = ""
    for line in text.split("\n"):
        if line.startswith("P:"):
            name = line[2:]
        elif line.startswith("V:") and name:
            packages[name] = line[2:]
    return packages


def _accounts(text: str, *, width: int, fields: tuple[int, ...]) -> dict[str, str]:
    """Read passwd(5) or group(5): by name, the ``fields`` that say what it may do, as they stand there."""
    accounts = {}
    for line in text.split("\n"):
        words = line.split(":")
        if len(words) == width and words[0]:
            accounts[words[0]] = ":".join(words[field] for field in fields)
    return accounts


def _units(etc: Mapping[str, File]) -> dict[str, str]:
    """Give the units that links in /etc/systemd/system enable or mask."""
    units = {}
    for path, file in etc.items():
        words = path.split("/")
        if file.kind != "link" or words[:4] != ["", "etc", "systemd", "system"]:
            continue
        if len(words) == 5 and file.target == "/dev/null":
            units[words[4]] = "masked"
        elif len(words) == 6 and words[4].endswith(_WIRED):
            units.setdefault(words[5], "enabled")
    return units


def _text(name: str) -> str:
    """Give a name as text that can be printed and written as JSON, whatever bytes it has."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
