# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a disk image, read from its first blocks: its file system, or the partition that has the tree.

systemd-nspawn takes what systemd-dissect(1) takes: a file system alone, a GPT with a root or /usr partition for this
architecture or with a single one of the generic type (the Discoverable Partitions Specification), or an MBR with a
single bootable Linux partition. It says little of anything else, and hears of it only when the machine starts.
"""

from __future__ import annotations

import os
import shlex
import struct

from machines.errors import CommandFailed, MachctlError, Unsupported
from machines.host.storage.trees import edit_image
from machines.model.frozen import NamedTuple

SECTOR = 512

_HEAD = 0x10080
_FILE_SYSTEMS = ((0x438, b"\x53\xef"), (0x10040, b"_BHRfS_M"), (0, b"hsqs"), (0, b"XFSB"), (0x400, b"\xe2\xe1\xf5\xe0"))
_LUKS = b"LUKS\xba\xbe"

# The formats that qemu-img(1) knows, by how they begin.
_FORMATS = (
    (0, b"QFI\xfb", "qcow2"), (0, b"KDMV", "vmdk"), (0, b"vhdxfile", "vhdx"), (0, b"conectix", "vpc"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"), (0, b"QED\0", "qed"),
)  # fmt: skip

GENERIC = "0fc63daf-8483-4772-8e79-3d69d8477de4"
# Root and /usr; of x86-64 those of x86 as well, which it runs.
_TREES = {
    "x86_64": {
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "8484680c-9521-48c6-9c11-b0720656f69e",
        "44479540-f297-41b2-9af7-d131d5f0458a", "75250d76-8cc6-458e-bd66-bd47cc81a812",
    },
    "aarch64": {"b921b045-1df0-41c3-af44-4c6f280d3fae", "b0e01050-ee5f-4390-949a-9101b17104e9"},
}  # fmt: skip
# systemd makes it where it runs in a container (systemd-detect-virt(1)).
_CONTAINER = "/run/systemd/container"
_NO_AUTO = 1 << 63
_MBR_LINUX = 0x83
_MBR_BOOTABLE = 0x80


class Partition(NamedTuple):
    """A partition of an image: its number, ``start`` and ``size`` in bytes, whether it may have the tree."""

    number: int
    start: int
    size: int
    tree: bool
    generic: bool = False


def examine(path: str, what: str, *, called: str = "", machine: str | None = None) -> Partition | None:
    """Give the partition of an image that has the tree, None where a file system is all there is in it.

    ``what`` is what errors call it and ``called`` its file in remedies (by default ``path``), ``machine`` the
    architecture as uname(2) has it, by default this host's.
    Raises MachctlError for what is no disk image or cut off, Unsupported for an encrypted one.
    """
    machine, called = machine or os.uname().machine, called or path
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        length = file.seek(0, os.SEEK_END)
        for offset, magic, name in _FORMATS:
            if head.startswith(magic, offset):
                raise MachctlError(f"{what} is a {name} image, not a raw one", hint=_convert(called, name))
        if head.startswith(_LUKS):
            raise _encrypted(what)
        partitions = _gpt(file.fileno(), head, machine)
        if partitions is None:
            if any(head.startswith(magic, offset) for offset, magic in _FILE_SYSTEMS):
                _require_length(what, _size_of(head), length, "its file system")
                return None
            partitions = _mbr(head)
        if partitions is None:
            raise MachctlError(f"{what} is not a raw disk image", hint=_other(called, head))
        found = _choose(what, partitions, machine)
        if found is None:
            return None
        _require_length(what, found.start + found.size, length, f"its partition {found.number}")
        if os.pread(file.fileno(), len(_LUKS), found.start) == _LUKS:
            raise _encrypted(f"partition {found.number} of {what}")
    return found


def look_into(image: str, what: str, partition: Partition | None, *, called: str) -> None:
    """Mount the tree of an image for a moment: what cannot be mounted here cannot be a machine's.

    As it will be for the machine: read-only, systemd-dissect(1) could not make the directory that an ESP goes on.

    ``partition`` and ``what`` are as examine() has them, ``called`` is the image's file in remedies.
    Raises Unsupported where the host is a container that is shown no partitions, else MachctlError.
    """
    try:
        with edit_image(image):
            pass
    except CommandFailed as error:
        if partition and os.path.exists(_CONTAINER):
            raise Unsupported(
                f"{what} has partitions, which this host cannot mount: it is a container itself",
                hint=_take_out(called, partition),
            ) from error
        said = error.message.rpartition(": ")[2]
        hint = f"dmesg, and what is in it: systemd-dissect {shlex.quote(called)}"
        raise MachctlError(f"no tree can be mounted from {what}: {said}", hint=hint) from error


def _take_out(path: str, partition: Partition) -> str:
    """Give what makes an image with nothing but the file system of a partition."""
    target = f"{os.path.splitext(path)[0]}-root.raw"
    skip, count = (value // SECTOR for value in (partition.start, partition.size))
    words = ["dd", f"if={path}", f"of={target}", f"skip={skip}", f"count={count}", "conv=sparse"]
    return f"take its file system: {shlex.join(words)}, then raw:{target}"


def _gpt(fd: int, head: bytes, machine: str) -> list[Partition] | None:
    """Read a GUID partition table (UEFI specification, 5.3), on a disk with sectors of 512 or 4096 bytes."""
    sector = next((size for size in (SECTOR, 4096) if head.startswith(b"EFI PART", size)), None)
    if sector is None:
        return None
    first, count, size = struct.unpack_from("<QII", head, sector + 72)
    if not 128 <= size <= 4096 or count > 1024:
        return []
    table = os.pread(fd, count * size, first * sector) if first * sector < 1 << 62 else b""
    trees = _TREES.get(machine)
    found = []
    for number in range(len(table) // size):
        kind, start, last, flags = struct.unpack_from("<16s16xQQQ", table, number * size)
        if kind == bytes(16) or flags & _NO_AUTO:
            continue
        name = _guid(kind)
        tree = name != GENERIC if trees is None else name in trees
        found.append(
            Partition(number + 1, start * sector, (last + 1 - start) * sector, tree, generic=name == GENERIC)
        )  # fmt: skip
    return found


def _guid(data: bytes) -> str:
    first, second, third = struct.unpack_from("<IHH", data)
    return f"{first:08x}-{second:04x}-{third:04x}-{data[8:10].hex()}-{data[10:].hex()}"


def _mbr(head: bytes) -> list[Partition] | None:
    if not head.startswith(b"\x55\xaa", 510):
        return None
    found = []
    for number in range(4):
        flags, kind, start, count = struct.unpack_from("<B3xB3xII", head, 446 + 16 * number)
        if kind == _MBR_LINUX and flags == _MBR_BOOTABLE:
            found.append(Partition(number + 1, start * SECTOR, count * SECTOR, tree=False, generic=True))
    return found


def _choose(what: str, partitions: list[Partition], machine: str) -> Partition | None:
    """Give the partition with the tree; None where only systemd can tell. Raises MachctlError."""
    trees = [each for each in partitions if each.tree]
    if trees:
        return trees[0] if machine in _TREES else None
    generic = [each for each in partitions if each.generic]
    if len(generic) == 1:
        return generic[0]
    wanted = "one has to be of the type root (sfdisk --part-type), or a single one of the type Linux and bootable"
    if generic:
        numbers = " and ".join(str(each.number) for each in generic)
        raise MachctlError(f"{what} does not say which of its partitions {numbers} is the root", hint=wanted)
    raise MachctlError(f"{what} has no partition with the root of a Linux for {machine}", hint=wanted)


def _size_of(head: bytes) -> int:
    """Give how long the file system in an image is by its own words, 0 where that is not read here."""
    if head.startswith(b"XFSB"):
        block, blocks = struct.unpack_from(">IQ", head, 4)
        return int(block * blocks)
    if head.startswith(b"_BHRfS_M", 0x10040):
        return int(struct.unpack_from("<Q", head, 0x10070)[0])
    if not head.startswith(b"\x53\xef", 0x438):
        return 0
    low, shift = struct.unpack_from("<I16xI", head, 0x404)
    wide = struct.unpack_from("<I", head, 0x460)[0] & 0x80
    high = struct.unpack_from("<I", head, 0x550)[0] if wide else 0
    return int((high << 32 | low) << (10 + min(shift, 6)))


def _require_length(what: str, wanted: int, have: int, part: str) -> None:
    if wanted > have:
        raise MachctlError(f"{what} is cut off: {part} ends at byte {wanted}, the image at {have}", hint="get it again")


def _convert(path: str, name: str) -> str:
    target = f"{os.path.splitext(path)[0]}.raw"
    command = shlex.join(["qemu-img", "convert", "-f", name, "-O", "raw", path, target])
    return f"{command} (on Debian: apt install qemu-utils), then raw:{target}"


def _other(path: str, head: bytes) -> str:
    if head.startswith(b"ustar", 257):
        return (
            "it is a tar archive: take it as tar:PATH if it has a tree in it, else unpack it and take the image in it"
        )
    return f"file {shlex.quote(path)} says what it is"


def _encrypted(what: str) -> MachctlError:
    return Unsupported(
        f"{what} is encrypted (LUKS), and machines have nobody to ask for its key",
        hint="open it (cryptsetup open), mount it, and make the machine of the directory: machctl create dir:PATH",
    )
