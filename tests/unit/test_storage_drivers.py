# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways to copy a tree: which this host has, layers, copies, and what a tree takes on disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, Unsupported
from machines.host.storage import capabilities, copying, ioctl, loop_pool, overlay, places, pool, usage

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool and a store of this test's own."""
    monkeypatch.setattr(pool, "POOL", str(tmp_path / "machines"))
    monkeypatch.setattr(places, "STORE", str(tmp_path / "store"))
    monkeypatch.setattr(places, "LAYERS", str(tmp_path / "store/layers"))
    monkeypatch.setattr(places, "POOL_IMAGE", str(tmp_path / "pool.btrfs"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "mount"),
    [
        ("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", ("8:1", "/", "ext4", "/dev/sda1")),
        # Without an optional field, and with several.
        ("9 1 0:5 /a /b rw - btrfs /dev/x rw,subvol=/a", ("0:5", "/b", "btrfs", "/dev/x")),
        ("9 1 0:5 / /b rw shared:1 master:2 - tmpfs none rw", ("0:5", "/b", "tmpfs", "none")),
        (r"9 1 0:5 / /a\040b\134040 rw - fuse.x \011 rw", ("0:5", r"/a b\040", "fuse.x", "\t")),
    ],
)
def test_a_line_of_mountinfo(line: str, mount: tuple[str, ...]) -> None:
    assert places.parse(line) == mount


def test_the_mount_of_a_path_that_is_not_there(room: Path) -> None:
    assert places.mount_of(f"{room}/not/there") == places.mount_of(str(room))
    assert places.mount_of("/proc/self").kind == "proc"
    assert "/proc" in places.mounts_below("/proc")


def test_request_numbers_are_those_of_the_kernel() -> None:
    if os.uname().machine.startswith(("ppc", "mips", "sparc")):
        pytest.skip("other numbers")
    # BTRFS_IOC_SNAP_CREATE_V2, BTRFS_IOC_GET_SUBVOL_INFO, BTRFS_IOC_TREE_SEARCH_V2
    assert ioctl.iow(0x94, 23, 4096) == 0x50009417
    assert ioctl.ior(0x94, 60, 504) == 0x81F8943C
    assert ioctl.iowr(0x94, 17, 112) == 0xC0709411


def test_auto_is_the_first_driver_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def reason(driver: str) -> str:
        asked.append(driver)
        return "" if driver == "overlay" else "the pool is ext4"

    monkeypatch.setattr(capabilities, "reason", reason)
    assert capabilities.choose("auto") == "overlay"
    assert asked == ["btrfs", "overlay"]
    assert list(capabilities.drivers()) == ["btrfs", "overlay", "reflink", "copy"]
    with pytest.raises(Unsupported, match=r"btrfs cannot be used here: the pool is ext4") as error:
        capabilities.choose("btrfs")
    assert "pool create" in error.value.hint
    with pytest.raises(InvalidValue, match="zfs"):
        capabilities.choose("zfs")


@pytest.mark.parametrize(
    ("kind", "release", "version", "why"),
    [
        ("ext4", "6.12.1+deb13-amd64", "2.41.5", ""),
        ("ext4", "5.19", "2.39", ""),
        ("ext4", "5.15.0-91-generic", "2.41", "kernel 5.15.0-91-generic is older than 5.19"),
        ("ext4", "6.1.0-18-amd64", "2.38.1", "util-linux 2.38.1 is older than 2.39"),
        ("ext4", "6.1.0", "", "mount(8) is not installed"),
        ("zfs", "6.12.1", "2.41", "/var/lib/machctl is zfs, whose mounts cannot be id-mapped or lie below an overlay"),
    ],
)
def test_what_overlay_needs(kind: str, release: str, version: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "mount_of", lambda _: places.Mount("8:1", "/", kind, "/dev/sda1"))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "#1", "x86_64")))
    monkeypatch.setattr(capabilities, "_util_linux", lambda: version)
    assert capabilities.reason("overlay") == why


def test_the_version_of_mount_is_found_in_the_program() -> None:
    version = capabilities._util_linux()
    assert capabilities._numbers(version) > (2, 30)


@needs_root
def test_layers_come_and_go_whole(room: Path) -> None:
    path = overlay.make_layer("web", 1 << 20)
    assert {entry.name for entry in os.scandir(path)} == {"upper", "work", "lower"}
    upper = Path(path, "upper").stat()
    assert (upper.st_uid, upper.st_gid, upper.st_mode & 0o7777) == (1 << 20, 1 << 20, 0o755)
    assert Path(path).stat().st_mode & 0o7777 == 0o700
    with pytest.raises(Conflict, match="web"):
        overlay.make_layer("web", 1 << 20)
    overlay.rename_layer("web", "db")
    with pytest.raises(NotFound, match="web"):
        overlay.rename_layer("web", "db")
    (room / "store/layers/.db.new").mkdir()
    assert (overlay.layers(), overlay.leftovers()) == (["db"], {f"{room}/store/layers/.db.new": "db"})
    overlay.remove_layer("db")
    overlay.remove_layer("db")
    assert overlay.layers() == []


def test_a_path_that_is_syntax_is_no_layer() -> None:
    with pytest.raises(InvalidValue, match="a:b"), overlay.view("/a:b", "/base", 1):
        pass


@needs_root
def test_a_copy_is_equal(room: Path) -> None:
    source, target = room / "source", room / "target"
    (source / "it's").mkdir(parents=True)
    (source / "it's/file").write_text("text")
    (source / "cp: file").hardlink_to(source / "it's/file")
    os.setxattr(source / "it's", "trusted.overlay.opaque", b"y")
    os.mknod(source / "gone", 0o020000, 0)
    (source / "link").symlink_to("/etc/passwd")
    (source / "sparse").touch()
    os.truncate(source / "sparse", 1 << 30)
    os.chown(source, 1000, 1001)
    target.mkdir()
    seen: list[tuple[str, int, int | None]] = []
    log = room / "log"
    asyncio.run(
        copying.copy(
            str(source), str(target), reflink=False, log=log, progress=lambda *args: seen.append(args), total=None
        )
    )
    assert seen == [("copying", 6, 6)]
    assert os.getxattr(target / "it's", "trusted.overlay.opaque") == b"y"
    assert (target / "cp: file").samefile(target / "it's/file")
    assert (target / "link").readlink() == Path("/etc/passwd")
    assert (target / "gone").stat().st_rdev == 0
    assert (target / "sparse").stat().st_blocks < 100
    assert (target.stat().st_uid, target.stat().st_gid) == (1000, 1001)
    assert log.read_text().count("\n") == 1


@needs_root
def test_a_copy_that_fails_says_why(room: Path) -> None:
    (room / "target").mkdir()
    with pytest.raises(NotFound, match="none"):
        asyncio.run(
            copying.copy(f"{room}/none", f"{room}/target", reflink=False, log=room / "log", progress=print, total=None)
        )
    full = copying._explained("/a", "/b", "cp: error writing '/b/x': No space left on device", room / "log")
    assert (full.message, full.hint) == (
        "/a cannot be copied to /b: no space left on device",
        "make room there and try again",
    )


def test_usage_counts_hard_links_once_and_follows_nothing(room: Path) -> None:
    (room / "tree").mkdir()
    empty = usage.usage(f"{room}/tree")
    (room / "tree/a").write_bytes(bytes(100_000))
    one = usage.usage(f"{room}/tree")
    (room / "tree/b").hardlink_to(room / "tree/a")
    (room / "tree/usr").symlink_to("/usr")
    assert usage.usage(f"{room}/tree") == one >= empty + 100_000
    assert usage.usage(f"{room}/none") == 0


def test_a_pool_that_cannot_be(room: Path) -> None:
    with pytest.raises(InvalidValue, match="1 MiB is too small"):
        asyncio.run(loop_pool.make_image(1 << 20, log=room / "log"))
    with pytest.raises(MachctlError, match="too large"):
        asyncio.run(loop_pool.make_image(1 << 60, log=room / "log"))
    (room / "pool.btrfs").touch()
    with pytest.raises(Conflict, match=r"pool\.btrfs"):
        asyncio.run(loop_pool.make_image(1 << 30, log=room / "log"))
    assert loop_pool.leftovers() == []


def test_a_mount_that_would_map_nothing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_util_linux", lambda: "2.38.1")
    with pytest.raises(Unsupported, match=r"2\.38\.1 is older"), overlay.view("/upper", "/base", 1 << 20):
        pass
