# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of small layers: equal to cp's but for their owners, and nothing at all where cp has to do it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from machines.errors import CommandFailed, NotFound
from machines.host.storage import capabilities, layer_copy, overlay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mknod(2) and chown(2) need root")

SOURCE, TARGET = 1 << 20, 3 << 20
ACL = "system.posix_acl_access"


def acl(user: int) -> bytes:
    """An ACL with an entry for one user."""
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, 5, user), (4, 5, none), (0x10, 5, none), (0x20, 0, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(root: int) -> bytes:
    """CAP_NET_RAW in a file, for the machine whose root has that id."""
    return struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, root)


def look(tree: Path, shift: int = 0) -> dict[str, object]:
    """Give all that a copy keeps, by path; ids of the machine with ``shift``."""

    def moved(number: int) -> int:
        return number + shift if number >= SOURCE else number

    found: dict[str, object] = {}
    first: dict[int, str] = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        status, name = path.lstat(), str(path.relative_to(tree))
        attributes = {}
        for key in os.listxattr(path, follow_symlinks=False):
            value = os.getxattr(path, key, follow_symlinks=False)
            if shift and key.startswith("system.posix_acl"):
                value = value[:16] + struct.pack("<I", moved(*struct.unpack("<I", value[16:20]))) + value[20:]
            if shift and key == "security.capability":
                value = value[:20] + struct.pack("<I", moved(*struct.unpack("<I", value[20:])))
            attributes[key] = value
        is_file = stat.S_ISREG(status.st_mode)
        found[name] = (
            status.st_mode, moved(status.st_uid), moved(status.st_gid), status.st_mtime_ns, status.st_rdev,
            status.st_nlink, first.setdefault(status.st_ino, name), attributes,
            path.readlink() if path.is_symlink() else None, path.read_bytes() if is_file else None,
            status.st_blocks if is_file else None,
        )  # fmt: skip
    return found


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An upper layer with everything in it that machines leave there."""
    layer = tmp_path / "upper"
    (layer / "etc/deep/er").mkdir(parents=True)
    (layer / "etc/file").write_text("text")
    (layer / "etc/empty").touch(0o600)
    (layer / "other name").hardlink_to(layer / "etc/file")
    (layer / "etc/host").symlink_to("/etc/passwd")
    (layer / "up").symlink_to("../../../outside")
    os.link(layer / "up", layer / "up too", follow_symlinks=False)
    (layer / os.fsdecode(b"\xff\n'name")).write_text("odd")
    with (layer / "sparse").open("wb") as file:
        file.seek(1 << 22)
        file.write(b"end")
        file.truncate(1 << 23)
    (layer / "su").write_text("#!")
    for path in [layer, *layer.rglob("*")]:
        os.lchown(path, SOURCE, SOURCE + 8)
    os.chown(layer / "su", SOURCE, SOURCE + 65535)
    (layer / "su").chmod(0o6755)
    os.mknod(layer / "gone", stat.S_IFCHR, 0)
    os.link(layer / "gone", layer / "etc/gone too")
    os.mkfifo(layer / "etc/fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{layer}/socket")
    os.chown(layer / "socket", SOURCE + 7, SOURCE + 7)
    os.setxattr(layer / "etc/deep", "trusted.overlay.opaque", b"y")
    os.setxattr(layer / "etc/deep/er", "trusted.overlay.redirect", b"/usr/lib")
    os.setxattr(layer / "etc/file", "user.mine", b"\0\xff")
    os.setxattr(layer / "etc", ACL, acl(SOURCE + 4))
    os.setxattr(layer / "etc", "system.posix_acl_default", acl(SOURCE + 5))
    os.setxattr(layer / "su", "security.capability", capability(SOURCE))
    (layer / "etc/deep").chmod(0o2711)
    for number, path in enumerate([*layer.rglob("*"), layer]):
        os.utime(path, ns=(number, 10**18 + number), follow_symlinks=False)
    return layer


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir(0o755)
    return folder


def copied(upper: Path, target: Path, target_uid: int = TARGET) -> bool:
    return layer_copy.copy_plain(str(upper), str(target), source_uid=SOURCE, target_uid=target_uid)


def test_a_copy_is_what_cp_makes_of_it(upper: Path, target: Path) -> None:
    other = target.with_name("other")
    subprocess.run(["cp", "-a", "--sparse=auto", upper, other], check=True)
    wanted = look(other)
    assert copied(upper, target, SOURCE)
    assert look(target) == wanted == look(upper)


def test_owners_move_to_the_other_machine_wherever_they_are_named(upper: Path, target: Path) -> None:
    wanted = look(upper, TARGET - SOURCE)
    assert copied(upper, target)
    assert look(target) == wanted
    assert (target / "gone").stat().st_uid == 0
    assert os.getxattr(target / "su", "security.capability") == capability(TARGET)
    assert os.getxattr(target / "etc", ACL) == acl(TARGET + 4)


def device(layer: Path) -> None:
    os.mknod(layer / "etc/null", stat.S_IFCHR, os.makedev(1, 3))


def many(layer: Path) -> None:
    for number in range(4001):
        (layer / f"{number}").touch()


def large(layer: Path) -> None:
    for number in range(2):
        (layer / f"{number}").write_bytes(bytes(33 << 20))


def deep(layer: Path) -> None:
    for _ in range(200):
        layer /= "d"
        layer.mkdir()


def attribute(layer: Path) -> None:
    os.setxattr(layer / "su", "trusted.other", b"1")


@pytest.mark.parametrize("unusual", [device, many, large, deep, attribute])
def test_what_is_unusual_is_left_to_cp(unusual: Callable[[Path], None], upper: Path, target: Path) -> None:
    unusual(upper)
    assert not copied(upper, target)
    assert list(target.iterdir()) == []


def test_a_disk_that_is_full_is_an_error_that_says_so(upper: Path, target: Path) -> None:
    (upper / "large").write_bytes(os.urandom(3 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "test", target], check=True)
    work = overlay.copy_upper(
        str(upper), str(target), source_uid=SOURCE, target_uid=SOURCE, log=f"{target}.log", progress=print
    )
    try:
        with pytest.raises(CommandFailed, match=r"cannot be copied to .*: no space left on device"):
            asyncio.run(work)
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_disk_that_is_full_is_left_to_cp(upper: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    assert not copied(upper, target)
    assert list(target.iterdir()) == []


def test_what_a_guest_changes_meanwhile_leads_nowhere(
    upper: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("secret")
    found = os.listdir

    def listdir(fd: int) -> list[str]:
        names = found(fd)
        if "file" in names:
            # Between being listed and being opened.
            (upper / "etc/file").unlink()
            (upper / "etc/file").symlink_to(tmp_path / "secret/file")
            shutil.rmtree(upper / "etc/deep")
            (upper / "etc/deep").symlink_to(tmp_path / "secret")
        return names

    monkeypatch.setattr(os, "listdir", listdir)
    assert copied(upper, target)
    assert (target / "etc/file").readlink() == tmp_path / "secret/file"
    assert (target / "etc/deep").is_symlink()


def test_a_layer_that_is_not_there(target: Path) -> None:
    with pytest.raises(NotFound, match="none"):
        asyncio.run(
            overlay.copy_upper(
                f"{target}/none", str(target), source_uid=SOURCE, target_uid=SOURCE, log=f"{target}.log", progress=print
            )
        )


def test_a_small_layer_needs_no_program(upper: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_util_linux", lambda: "")
    work = overlay.copy_upper(
        str(upper), str(target), source_uid=SOURCE, target_uid=TARGET, log=f"{target}.log", progress=print
    )
    with pytest.raises(StopIteration):
        # It does not even wait.
        work.send(None)
    assert (target / "etc/file").read_text() == "text"
