# SPDX-License-Identifier: LGPL-2.1-or-later
"""One entry of a tree: what trees, tar archives and image layers are read into and written from."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from machines.errors import MachctlError
from machines.model.frozen import NamedTuple
from machines.model.ids import SIZE

NOBODY = 65534

CHUNK = 1024 * 1024
SECOND = 1_000_000_000

CAPABILITY = "security.capability"
ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"

# linux/capability.h: struct vfs_ns_cap_data is the one before it and the id of the root user it counts for.
_CAPABILITY_2, _CAPABILITY_3 = 0x02000000, 0x03000000
_CAPABILITY_REVISION = 0xFF000000
_CAPABILITY_2_SIZE, _CAPABILITY_3_SIZE = 20, 24
# linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry; only these tags have an id.
_ACL_TAGS_WITH_ID = {0x02, 0x08}


class Content(NamedTuple):
    """What a file holds.

    ``segments`` are the (offset, length) of its data in ascending order, what is between them are holes;
    ``chunks`` gives that data as (offset, bytes) pieces, once, before the next entry is asked for. ``fd`` is the
    open file itself where there is one, for copies that the kernel makes.
    """

    segments: Sequence[tuple[int, int]]
    chunks: Callable[[], Iterator[tuple[int, bytes]]]
    fd: int | None = None


class Entry(NamedTuple):
    """One entry of a tree.

    ``path`` is relative, normalized and "" for the root itself; ``kind`` is file, directory, symlink, hardlink,
    character, block, fifo or socket; ``mode`` are the permission bits with setuid, setgid and sticky; ``mtime``
    is in nanoseconds; ``target`` is a symlink's text or the path of an earlier entry that a hardlink is one more name
    of; ``device`` is major and minor; ``content`` is what a file of a size above 0 holds.
    """

    path: str
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = {}
    content: Content | None = None


class Counts(NamedTuple):
    """What was written: entries, bytes of data, device nodes left out, extended attributes that could not be kept."""

    entries: int = 0
    size: int = 0
    devices_skipped: int = 0
    xattrs_lost: int = 0


def is_kept(xattr: str) -> bool:
    """Tell whether an extended attribute belongs to a tree: not those of overlayfs, and of the host's security."""
    return xattr.startswith("user.") or xattr in {CAPABILITY, ACL_ACCESS, ACL_DEFAULT}


def clean_path(text: str, *, archive: str, what: str = "member") -> str:
    """Give the path of an archive's member, normalized.

    Raises MachctlError, which names the member, for one that is absolute, that has ``..`` or a NUL in it.
    """
    if text.startswith("/"):
        raise refused(text, archive=archive, reason=f"{what} has an absolute name")
    if "\0" in text:
        raise refused(text, archive=archive, reason=f"{what} has a NUL in its name")
    parts = [part for part in text.split("/") if part and part != "."]
    if ".." in parts:
        raise refused(text, archive=archive, reason=f"{what} leads out of the tree")
    return "/".join(parts)


def refused(member: str, *, archive: str, reason: str) -> MachctlError:
    """Give the error that names the member for which an archive is not taken."""
    return MachctlError(
        f"{archive}: {reason}: {shown(member)}",
        hint="nothing honest makes such archives; find out where it comes from",
    )


def shown(path: str) -> str:
    """Give a name from an archive as it may be printed: nothing in it can steer a terminal, and it has an end."""
    text = repr(path)
    return text if len(text) <= 200 else f"{text[:200]}..."


def below(entries: Iterable[Entry], path: str) -> Iterator[Entry]:
    """Give the entries with ``path`` as the place of their root."""
    for entry in entries:
        target = entry.target
        if entry.kind == "hardlink":
            target = f"{path}/{target}" if target else path
        yield entry._replace(path=f"{path}/{entry.path}" if entry.path else path, target=target)


def id_out(number: int, shift: int) -> int:
    """Give an id of a machine whose private ids begin at ``shift`` as the machine sees it."""
    return number - shift if shift <= number < shift + SIZE else NOBODY


def id_in(number: int, shift: int) -> int:
    """Give the host's id for an id in a machine whose private ids begin at ``shift``."""
    return shift + (number if number < SIZE else NOBODY)


def xattr_out(name: str, value: bytes, shift: int) -> bytes:
    """Give an attribute that carries ids as the machine sees it (capabilities(7), acl(5))."""
    if name == CAPABILITY:
        # The kernel stores what a machine's root sets with that root's id (user_namespaces(7), file capabilities).
        if len(value) != _CAPABILITY_3_SIZE:
            return value
        magic, root = struct.unpack_from("<I", value)[0], struct.unpack_from("<I", value, 20)[0]
        if magic & _CAPABILITY_REVISION != _CAPABILITY_3 or root != shift:
            return value
        return struct.pack("<I", magic & ~_CAPABILITY_REVISION | _CAPABILITY_2) + value[4:_CAPABILITY_2_SIZE]
    return _shifted_acl(value, lambda number: id_out(number, shift)) if name in {ACL_ACCESS, ACL_DEFAULT} else value


def xattr_in(name: str, value: bytes, shift: int) -> bytes:
    """Give an attribute that carries ids as it has to be stored on the host for a machine."""
    if name == CAPABILITY:
        if len(value) not in {_CAPABILITY_2_SIZE, _CAPABILITY_3_SIZE}:
            return value
        magic = struct.unpack_from("<I", value)[0] & ~_CAPABILITY_REVISION | _CAPABILITY_3
        return struct.pack("<I", magic) + value[4:_CAPABILITY_2_SIZE] + struct.pack("<I", shift)
    return _shifted_acl(value, lambda number: id_in(number, shift)) if name in {ACL_ACCESS, ACL_DEFAULT} else value


def _shifted_acl(value: bytes, shifted: Callable[[int], int]) -> bytes:
    if len(value) % 8 != 4:
        return value
    acl = bytearray(value)
    for offset in range(4, len(acl), 8):
        tag, permissions, number = struct.unpack_from("<HHI", acl, offset)
        if tag in _ACL_TAGS_WITH_ID:
            struct.pack_into("<HHI", acl, offset, tag, permissions, shifted(number))
    return bytes(acl)
