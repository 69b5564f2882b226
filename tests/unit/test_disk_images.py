# SPDX-License-Identifier: LGPL-2.1-or-later
"""raw: what is read from the first blocks of a disk image, and what is said of those that can be no machine."""

from __future__ import annotations

import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machines.errors import CommandFailed, MachctlError, Unsupported
from machines.host.sources import disk
from machines.host.sources.raw import unpack

ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_ARM = "b921b045-1df0-41c3-af44-4c6f280d3fae"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
SIZE = 1 << 20


def gpt(*partitions: tuple[str, int, int, int], sector: int = 512) -> bytes:
    """Give a disk with partitions: type, first and last sector, flags."""
    data = bytearray(SIZE)
    data[510:512] = b"\x55\xaa"
    struct.pack_into("<8s64xQII", data, sector, b"EFI PART", 2, 128, 128)
    for number, (kind, first, last, flags) in enumerate(partitions):
        place = 2 * sector + 128 * number
        struct.pack_into("<16s16xQQQ", data, place, uuid.UUID(kind).bytes_le, first, last, flags)
    return bytes(data)


def mbr(*partitions: tuple[int, int]) -> bytes:
    """Give a disk with partitions of 512 KiB: flags and type."""
    data = bytearray(SIZE)
    data[510:512] = b"\x55\xaa"
    for number, (flags, kind) in enumerate(partitions):
        struct.pack_into("<B3xB3xII", data, 446 + 16 * number, flags, kind, 512, 1024)
    return bytes(data)


def ext4(blocks: int) -> bytes:
    data = bytearray(SIZE)
    struct.pack_into("<I16xI", data, 0x404, blocks, 2)
    data[0x438:0x43A] = b"\x53\xef"
    return bytes(data)


def at(offset: int, magic: bytes) -> bytes:
    return (bytes(offset) + magic).ljust(SIZE, b"\0")


@pytest.fixture
def image(tmp_path: Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        (tmp_path / "a b.img").write_bytes(data)
        return str(tmp_path / "a b.img")

    return write


@pytest.mark.parametrize(
    ("data", "number", "start"),
    [
        (gpt((ESP, 40, 99, 0), (ROOT, 512, 1535, 0)), 2, 512 * 512),
        (gpt((ESP, 40, 99, 0), (disk.GENERIC, 512, 1535, 0)), 2, 512 * 512),
        (gpt((disk.GENERIC, 40, 99, 0), (disk.GENERIC, 100, 199, 0), (ROOT, 512, 1535, 0)), 3, 512 * 512),
        (gpt((disk.GENERIC, 40, 99, 1 << 63), (disk.GENERIC, 100, 199, 0)), 2, 100 * 512),
        (gpt((ROOT, 64, 127, 0), sector=4096), 1, 64 * 4096),
        (mbr((0, 0x82), (0x80, 0x83)), 2, 512 * 512),
    ],
)
def test_the_partition_with_the_tree_is_found(
    image: Callable[[bytes], str], data: bytes, number: int, start: int
) -> None:
    found = disk.examine(image(data), "raw:x", machine="x86_64")
    assert found is not None
    assert (found.number, found.start) == (number, start)


@pytest.mark.parametrize("data", [ext4(SIZE // 4096), at(0, b"hsqs"), at(0x400, b"\xe2\xe1\xf5\xe0")])
def test_a_file_system_alone_has_no_partition(image: Callable[[bytes], str], data: bytes) -> None:
    assert disk.examine(image(data), "raw:x") is None


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (at(0, b"QFI\xfb"), "raw:x is a qcow2 image, not a raw one", "qemu-img convert -f qcow2 -O raw 'DIR/a b.img'"),
        (at(0, b"KDMV"), "raw:x is a vmdk image", "then raw:DIR/a b.raw"),
        (at(0x40, b"\x7f\x10\xda\xbe"), "raw:x is a vdi image", "qemu-utils"),
        (at(257, b"ustar"), "raw:x is not a raw disk image", "take it as tar:PATH"),
        (b"", "raw:x is not a raw disk image", "file 'DIR/a b.img'"),
        (gpt((ESP, 40, 99, 0)), "raw:x has no partition with the root of a Linux for x86_64", "type root"),
        (gpt((ROOT_ARM, 40, 99, 0)), "raw:x has no partition with the root of a Linux for x86_64", "type root"),
        (gpt((disk.GENERIC, 40, 99, 0), (disk.GENERIC, 100, 199, 0)), "which of its partitions 1 and 2", "type root"),
        (mbr((0, 0x83)), "raw:x has no partition with the root", "bootable"),
        (gpt((ROOT, 512, 4095, 0)), f"cut off: its partition 1 ends at byte {2 * SIZE}, the image at {SIZE}", "again"),
        (ext4(1024), f"cut off: its file system ends at byte {4 * SIZE}, the image at {SIZE}", "again"),
    ],
)
def test_what_can_be_no_machine_is_told_why(image: Callable[[bytes], str], data: bytes, said: str, hint: str) -> None:
    path = image(data)
    with pytest.raises(MachctlError) as caught:
        disk.examine(path, "raw:x", machine="x86_64")
    assert said in caught.value.message
    assert hint.replace("DIR", str(Path(path).parent)) in caught.value.hint
    assert caught.value.exit_code == 1


def test_nobody_opens_an_encrypted_image(image: Callable[[bytes], str]) -> None:
    with pytest.raises(Unsupported, match=r"^raw:x is encrypted"):
        disk.examine(image(at(0, b"LUKS\xba\xbe")), "raw:x")
    data = gpt((ROOT, 512, 1535, 0))
    data = data[: 512 * 512] + b"LUKS\xba\xbe" + data[512 * 512 + 6 :]
    with pytest.raises(Unsupported, match=r"^partition 1 of raw:x is encrypted"):
        disk.examine(image(data), "raw:x", machine="x86_64")


def test_a_compressed_image_is_unpacked_its_zeros_are_holes(tmp_path: Path) -> None:
    data = b"x" * 4096 + bytes(8 * SIZE)
    plain, target = tmp_path / "d.raw", tmp_path / "out"
    plain.write_bytes(data)
    assert not unpack(str(plain), str(target), "raw:x", lambda *_: None)
    subprocess.run(["gzip", "-k", plain], check=True)
    packed = tmp_path / "d.raw.gz"
    assert unpack(str(packed), str(target), "raw:x", lambda *_: None)
    assert target.read_bytes() == data
    assert target.stat().st_blocks * 512 < SIZE
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(MachctlError, match="raw:x is truncated"):
        unpack(str(packed), str(target), "raw:x", lambda *_: None)


def test_what_cannot_be_mounted_is_told_with_what_can_be_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def fail(image: str) -> Iterator[str]:
        raise CommandFailed("systemd-dissect ended with exit status 1: disk.raw: Cannot dissect image: No such device")
        yield

    monkeypatch.setattr(disk, "edit_image", fail)
    partition = disk.Partition(1, 1 << 20, 2 << 20, tree=True)
    monkeypatch.setattr(disk, "_CONTAINER", str(tmp_path))
    with pytest.raises(Unsupported, match="it is a container itself") as caught:
        disk.look_into("disk.raw", "raw:/a.img", partition, called="/a.img")
    assert "dd if=/a.img of=/a-root.raw skip=2048 count=4096" in caught.value.hint
    with pytest.raises(MachctlError, match=r"^no tree can be mounted from raw:/a\.img: No such device$"):
        disk.look_into("disk.raw", "raw:/a.img", None, called="/a.img")
