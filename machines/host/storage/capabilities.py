# SPDX-License-Identifier: LGPL-2.1-or-later
"""How this host can copy a tree, the cheapest way first: snapshot, overlay, reflink, plain copy."""

from __future__ import annotations

import errno
import os
import re
from io import FileIO

from machines.errors import InvalidValue, Unsupported
from machines.host.storage import places, pool

DRIVERS = ("btrfs", "overlay", "reflink", "copy")

# File systems whose mounts can be id-mapped and that keep what an overlay's upper layer needs (mount_setattr(2)).
_UPPER = ("ext4", "xfs", "btrfs", "f2fs")

# overlayfs takes id-mapped layers since then.
_KERNEL = (5, 19)
# X-mount.idmap= of mount(8)
_UTIL_LINUX = (2, 39)

_HINTS = {
    "btrfs": "make a btrfs pool with machctl pool create --btrfs SIZE, or use --storage auto",
    "overlay": "use --storage auto, or make a btrfs pool with machctl pool create --btrfs SIZE",
    "reflink": "use --storage auto, or keep the pool on xfs or btrfs",
}


def drivers() -> dict[str, str]:
    """Give each driver, the cheapest first: "" where the pool can use it, otherwise why it cannot."""
    return {driver: reason(driver) for driver in DRIVERS}


def choose(preference: str) -> str:
    """Give the driver for ``preference``: the cheapest that works for "auto", otherwise the one it names.

    Raises Unsupported where that one cannot be used here, InvalidValue for a word that names none.
    """
    if preference == "auto":
        return next(driver for driver in DRIVERS if not reason(driver))
    if preference not in DRIVERS:
        raise InvalidValue(
            f"there is no storage driver {preference!r}", hint=f"choose one of: auto, {', '.join(DRIVERS)}"
        )
    if why := reason(preference):
        raise Unsupported(f"storage driver {preference} cannot be used here: {why}", hint=_HINTS[preference])
    return preference


def reason(driver: str) -> str:
    """Give why the pool cannot use one of DRIVERS, in a few words; "" where it can."""
    try:
        match driver:
            case "btrfs":
                return _btrfs()
            case "overlay":
                return _overlay()
            case "reflink":
                return _reflink()
            case _:
                return ""
    except PermissionError as error:
        return f"{error.filename or pool.POOL} cannot be opened: {error.strerror}"
    except OSError as error:
        return os.strerror(error.errno or errno.EIO)


def _btrfs() -> str:
    trees, store = places.mount_of(pool.POOL), places.mount_of(places.STORE)
    if trees.kind != "btrfs":
        return f"the pool is {trees.kind}"
    if trees.device != store.device:
        return f"{places.MACHCTL} is on another file system than {pool.POOL}"
    return ""


def _overlay() -> str:
    kind = places.mount_of(places.STORE).kind
    if kind not in _UPPER:
        return f"{places.MACHCTL} is {kind}, whose mounts cannot be id-mapped or lie below an overlay"
    release = os.uname().release
    if _numbers(release) < _KERNEL:
        return f"kernel {release} is older than {'.'.join(map(str, _KERNEL))}"
    return _mount()


def require_idmap() -> None:
    """Raise Unsupported where mount(8) has no X-mount.idmap=: it would pass over that and map nothing."""
    if why := _mount():
        raise Unsupported(f"the owners of a layer cannot be mapped: {why}", hint="upgrade util-linux")


def _mount() -> str:
    version = _util_linux()
    if not version:
        return "mount(8) is not installed"
    if _numbers(version) < _UTIL_LINUX:
        return f"util-linux {version} is older than {'.'.join(map(str, _UTIL_LINUX))}"
    return ""


def _util_linux() -> str:
    """Give the version of mount(8), which systemd runs for a .mount unit; "" where there is none.

    It is in the program's text; asking the program itself takes longer than all else that creates a machine.
    """
    try:
        with open("/usr/bin/mount", "rb") as file:
            found = re.search(rb"\0util-linux ([0-9.]+)", file.read())
    except FileNotFoundError:
        return ""
    if found:
        return found[1].decode()
    from machines.host.run import run

    return run(["mount", "--version"], check=False).stdout.partition("util-linux ")[2].split(" ")[0]


def _reflink() -> str:
    """Try it: whether files can share blocks is a matter of how the file system was made (mkfs.xfs(8), reflink=)."""
    import fcntl

    from machines.host.storage.ioctl import iow

    try:
        # A file without a name needs no tidying up, and nobody sees it (O_TMPFILE in open(2)).
        with _unnamed(places.STORE) as source, _unnamed(pool.POOL) as target:
            os.write(source.fileno(), bytes(4096))
            fcntl.ioctl(target.fileno(), iow(0x94, 9, 4), source.fileno())
    except OSError as error:
        if error.errno == errno.EXDEV:
            return f"{places.MACHCTL} is on another file system than {pool.POOL}"
        if error.errno in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}:
            return f"the pool is {places.mount_of(pool.POOL).kind}, whose files cannot share blocks"
        raise
    return ""


def _unnamed(path: str) -> FileIO:
    fd = os.open(places.existing(path), os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    return FileIO(fd, "r+")


def _numbers(version: str) -> tuple[int, ...]:
    """Give the numbers that a version begins with: (6, 1, 0) of "6.1.0-18-amd64"."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(word) for word in found[0].split(".")) if found else ()
