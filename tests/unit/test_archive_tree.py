# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees, tar archives and back again: nothing is lost on the way."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machines.host.archive.compress import create_archive, open_archive
from machines.host.archive.entries import SECOND, Entry, below
from machines.host.archive.tar import read_tar, write_tar
from machines.host.archive.tree import read_tree, write_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes and gives files away")

CAPABILITY_2 = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in (
        (1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (0x10, 4, 2**32 - 1), (0x20, 4, 2**32 - 1),
    )
)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def make_tree(root: Path) -> None:
    """Make a tree with one of everything."""
    root.mkdir()
    (root / "etc").mkdir(mode=0o750)
    (root / "etc/shadow").write_text("secret")
    (root / "etc/empty").write_bytes(b"")
    (root / "etc/ünïcode \n").write_text("x")
    (root / os.fsdecode(b"etc/\xff\xfe")).write_text("not utf-8")
    (root / ("n" * 200)).mkdir()
    (root / ("n" * 200) / ("m" * 250)).write_text("long")
    (root / "big").write_bytes(os.urandom(1024 * 1024 + 17))
    (root / "etc/hard").write_text("one file")
    (root / "usr").mkdir()
    os.link(root / "etc/hard", root / "usr/hard2")
    (root / "link").symlink_to("/etc/shadow")
    (root / "dangling").symlink_to("x/" * 150 + "y")
    os.link(root / "link", root / "usr/link2", follow_symlinks=False)
    with (root / "sparse").open("wb") as file:
        for offset in (1 << 20, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(b"data" * 1024)
        file.truncate(64 << 20)
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 20)
    os.mkfifo(root / "fifo")
    (root / "su").write_text("#!")
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(8, 300))
        os.chown(root / "su", 12, 3_000_000, follow_symlinks=False)
        os.setxattr(root / "su", "security.capability", CAPABILITY_2)
        os.chown(root / "link", 7, 8, follow_symlinks=False)
    (root / "su").chmod(0o6755)
    os.setxattr(root / "etc/shadow", "user.note", b"a\0b\n=\xff")
    os.setxattr(root / "etc/shadow", "system.posix_acl_access", ACL)
    os.setxattr(root / "usr", "system.posix_acl_default", ACL)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 320_357_371), follow_symlinks=False)
    # The year 2200, with more digits than a float has.
    os.utime(root / "big", ns=(0, 7_258_118_400_320_357_371))
    os.utime(root / "etc", ns=(0, -5_000_000_000))


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Give all that matters of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, list[str]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(root))
        names.setdefault(status.st_ino, []).append(name)
        what: object = None
        xattrs: dict[str, bytes] = {}
        if stat.S_ISLNK(status.st_mode):
            what = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            what = path.read_bytes()
        if not stat.S_ISLNK(status.st_mode):
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
        found[name] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns if path != root else 0,
            status.st_rdev, what, xattrs, names[status.st_ino][0],
        )  # fmt: skip
    return found


def test_tree_to_tree(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    (tmp_path / "b").mkdir()
    said: list[tuple[str, int, int | None]] = []
    with opened(tmp_path / "a") as source, opened(tmp_path / "b") as target:
        counts = write_tree(read_tree(source), target, progress=lambda *what: said.append(what), stage="copying")
    assert described(tmp_path / "b") == described(tmp_path / "a")
    assert (tmp_path / "b/sparse").stat().st_blocks * 512 < 1 << 20
    assert (tmp_path / "b/hole").stat().st_blocks == 0
    assert counts.xattrs_lost == 0
    assert said[-1] == ("copying", counts.size, None)


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "zstd"])
def test_tree_to_archive_to_tree(tmp_path: Path, compression: str) -> None:
    make_tree(tmp_path / "a")
    (tmp_path / "b").mkdir()
    archive = str(tmp_path / "a.tar")
    with opened(tmp_path / "a") as source, create_archive(archive, compression=compression) as stream:  # type: ignore[arg-type]
        write_tar(read_tree(source), stream)
    with opened(tmp_path / "b") as target, open_archive(archive) as stream:
        write_tree(read_tar(stream, name=archive), target)
    assert described(tmp_path / "b") == described(tmp_path / "a")
    assert (tmp_path / "b/sparse").stat().st_blocks * 512 < 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tar", "b"]


@needs_root
@pytest.mark.parametrize("format", ["gnu", "posix", "--sparse-version=0.0", "--sparse-version=0.1"])
def test_archives_of_gnu_tar_both_ways(tmp_path: Path, format: str) -> None:
    make_tree(tmp_path / "a")
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    options = ["--sparse", "--numeric-owner"]
    if format != "gnu":
        options += ["--xattrs", "--xattrs-include=*"]
    choice = [f"--format={format}"] if "=" not in format else ["--format=posix", format]
    subprocess.run(["tar", *options, *choice, "-cf", "a.tar", "-C", "a", "."], cwd=tmp_path, check=True)
    with opened(tmp_path / "b") as target, open_archive(str(tmp_path / "a.tar")) as stream:
        write_tree(read_tar(stream, name="a.tar"), target)
    wanted, have = described(tmp_path / "a"), described(tmp_path / "b")
    if format == "gnu":
        wanted = {name: (*what[:3], 0, *what[4:6], {}, what[7]) for name, what in wanted.items()}
        have = {name: (*what[:3], 0, *what[4:6], {}, what[7]) for name, what in have.items()}
    assert have == wanted
    with opened(tmp_path / "a") as source, (tmp_path / "mine.tar").open("wb") as file:
        write_tar(read_tree(source), file)
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(["tar", *options, "-xpf", "mine.tar", "-C", "c"], cwd=tmp_path, check=True)
    assert described(tmp_path / "c") == described(tmp_path / "a")


@pytest.mark.parametrize(
    ("written", "mtime"),
    [
        ("1767323045.320357371", 1_767_323_045_320_357_371),
        ("1767323045.3203573719", 1_767_323_045_320_357_371),
        ("7258118400", 7_258_118_400_000_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.000000001", -1),
        ("0.25", 250_000_000),
        ("5e-05", 50_000),
    ],
)
def test_times_are_exact(written: str, mtime: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.pax_headers = {"mtime": written}
        tar.addfile(info)
    (entry,) = read_tar(io.BytesIO(file.getvalue()), name="x")
    assert entry.mtime == mtime
    again = io.BytesIO()
    write_tar([entry], again)
    assert [entry.mtime for entry in read_tar(io.BytesIO(again.getvalue()), name="x")] == [mtime]


@pytest.mark.parametrize("mtime", [10**40, -(10**40)])
def test_times_that_nothing_can_hold_are_as_near_as_can_be(mtime: int, tmp_path: Path) -> None:
    with opened(tmp_path) as target:
        write_tree([Entry("f", "file", uid=os.geteuid(), gid=os.getegid(), mtime=mtime)], target)
    assert abs((tmp_path / "f").stat().st_mtime_ns) >= 2**31 * SECOND


@needs_root
def test_ids_of_a_machine_are_shifted_both_ways(tmp_path: Path) -> None:
    shift = 0x12340000
    make_tree(tmp_path / "a")
    os.chown(tmp_path / "a/big", 65535, 65534)
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    with opened(tmp_path / "a") as source, opened(tmp_path / "b") as target:
        write_tree(read_tree(source), target, shift=shift)
    assert (tmp_path / "b/etc").stat().st_uid == shift
    assert (tmp_path / "b/su").stat()[4:6] == (shift + 12, shift + 65534)
    assert (tmp_path / "b/su").stat().st_mode & 0o7777 == 0o6755
    assert struct.unpack("<IIIIII", os.getxattr(tmp_path / "b/su", "security.capability"))[5] == shift
    with opened(tmp_path / "b") as source, opened(tmp_path / "c") as target:
        write_tree(read_tree(source, shift=shift), target)
    wanted, have = described(tmp_path / "a"), described(tmp_path / "c")
    # An id that a machine cannot have is nobody's.
    assert have.pop("su")[1:3] == (12, 65534)
    del wanted["su"]
    assert have == wanted
    with opened(tmp_path / "a") as source:
        assert {(entry.uid, entry.gid) for entry in read_tree(source, shift=shift)} == {(65534, 65534)}


@needs_root
def test_owner_for_all_and_devices_left_out(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with opened(tmp_path / "a") as source, opened(tmp_path / "b") as target:
        counts = write_tree(read_tree(source), target, owner=(77, 78), devices=False)
    assert counts.devices_skipped == 2
    assert not (tmp_path / "b/null").exists()
    assert {path.lstat()[4:6] for path in (tmp_path / "b").rglob("*")} == {(77, 78)}


def test_single_file_and_another_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with opened(tmp_path / "a") as source, opened(tmp_path) as target:
        write_tree(below(read_tree(source), "x/y"), target)
    assert (tmp_path / "x/y").read_text() == "text"


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A place for trees that are too deep for pytest to remove."""
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "a", tmp_path / "b"], check=True)


def test_deeper_than_paths_and_open_files_reach(deep: Path) -> None:
    tmp_path = deep
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(600):
        os.mkdir("directory", dir_fd=fd)
        below_fd = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        os.close(fd)
        fd = below_fd
    os.close(fd)
    archive = io.BytesIO()
    with opened(tmp_path / "a") as source:
        write_tar(read_tree(source), archive)
    archive.seek(0)
    with opened(tmp_path / "b") as target:
        assert write_tree(read_tar(archive, name="deep"), target).entries == 1201
    from machines.host.removal import remove_directory

    with opened(tmp_path) as parent:
        remove_directory(parent, "a")
        remove_directory(parent, "b")
    assert list(tmp_path.iterdir()) == []


def test_what_changes_while_it_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "a"
    tree.mkdir()
    for name in ("1", "2", "3", "4"):
        (tree / name).write_bytes(b"x" * 5000)
    archive = io.BytesIO()
    with opened(tree) as source:

        def meddled() -> Iterator[object]:
            for entry in read_tree(source):
                if entry.path == "1":
                    (tree / "1").write_bytes(b"y" * 10)
                    (tree / "2").unlink()
                    (tree / "3").unlink()
                    (tree / "3").symlink_to("/etc/passwd")
                    (tree / "4").unlink()
                    os.mkfifo(tree / "4")
                yield entry

        write_tar(meddled(), archive)  # type: ignore[arg-type]
    archive.seek(0)
    found = {entry.path: entry for entry in read_tar(archive, name="a") if entry.path}
    assert {path: entry.kind for path, entry in found.items()} == {"1": "file", "3": "symlink", "4": "fifo"}
    assert found["1"].size == 5000


@needs_root
def test_mounts_are_not_crossed(tmp_path: Path) -> None:
    (tmp_path / "a/mnt").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/secret").write_text("")
    done = subprocess.run(["mount", "--bind", tmp_path / "b", tmp_path / "a/mnt"], capture_output=True)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with opened(tmp_path / "a") as source:
            assert [entry.path for entry in read_tree(source)] == ["", "mnt"]
    finally:
        subprocess.run(["umount", tmp_path / "a/mnt"], check=True)
