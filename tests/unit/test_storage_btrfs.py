# SPDX-License-Identifier: LGPL-2.1-or-later
"""Subvolumes, what they take on disk and how much they may, on a btrfs in a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines.errors import Conflict, MachctlError, NotFound, Unsupported
from machines.host.storage import btrfs, quota, usage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MIB = 1 << 20


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    image, point = tmp_path_factory.mktemp("image") / "btrfs", tmp_path_factory.mktemp("btrfs")
    image.touch()
    os.truncate(image, 256 * MIB)
    for argv in (["mkfs.btrfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(point)]):
        try:
            subprocess.run(argv, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no btrfs: {error}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def tree(mounted: Path, request: pytest.FixtureRequest) -> str:
    """A subvolume with a file, and another subvolume far below."""
    path = f"{mounted}/{request.node.name}"
    btrfs.create(path)
    Path(path, "file").write_bytes(os.urandom(MIB))
    Path(path, "a/b").mkdir(parents=True)
    btrfs.create(f"{path}/a/b/nested")
    return path


def write(path: str, size: int) -> None:
    """Write a file through to the disk, where limits are looked at."""
    with Path(path).open("wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
            os.fsync(file.fileno())


def test_snapshot(tree: str) -> None:
    btrfs.snapshot(tree, f"{tree}.copy", read_only=True)
    assert btrfs.is_subvolume(f"{tree}.copy")
    assert {path.name for path in Path(f"{tree}.copy").iterdir()} == {"a", "file"}
    # What is nested is an empty directory there.
    assert not btrfs.is_subvolume(f"{tree}.copy/a/b/nested")
    with pytest.raises(OSError, match="Read-only"):
        Path(f"{tree}.copy/file").unlink()
    btrfs.set_read_only(f"{tree}.copy", on=False)
    Path(f"{tree}.copy/file").unlink()
    with pytest.raises(Conflict, match=r"cannot be made a snapshot"):
        btrfs.snapshot(tree, f"{tree}.copy")


def test_delete_takes_what_is_nested_and_read_only(tree: str) -> None:
    btrfs.create(f"{tree}/a/b/nested/again")
    btrfs.set_read_only(f"{tree}/a/b/nested", on=True)
    btrfs.set_read_only(tree, on=True)
    btrfs.delete(tree)
    assert not os.path.lexists(tree)


def test_delete_follows_no_symlink(tree: str) -> None:
    Path(f"{tree}.link").symlink_to(tree)
    with pytest.raises(MachctlError, match="Not a directory"):
        btrfs.delete(f"{tree}.link")
    assert not btrfs.is_subvolume(f"{tree}.link")
    assert btrfs.is_subvolume(tree)
    with pytest.raises(NotFound, match="none"):
        btrfs.delete(f"{tree}.none")


def test_more_subvolumes_than_one_answer_holds(tree: str) -> None:
    for number in range(300):
        btrfs.create(f"{tree}/{number}")
    fd = os.open(tree, os.O_RDONLY)
    found = list(btrfs.children(fd))
    os.close(fd)
    assert len(set(found)) == 301
    assert ("a/b", "nested") in found
    btrfs.delete(tree)


def test_other_file_systems(tree: str) -> None:
    assert not btrfs.on_btrfs("/proc")
    assert not btrfs.is_subvolume("/proc")
    with pytest.raises(Unsupported, match="different file systems"):
        btrfs.snapshot("/proc", f"{tree}.copy")
    with pytest.raises(MachctlError, match="not a subvolume"):
        btrfs.snapshot(f"{tree}/a", f"{tree}.copy")
    with pytest.raises(Unsupported, match="no btrfs subvolume") as error:
        quota.set_limit(f"{tree}/a", MIB)
    assert "--storage btrfs" in error.value.hint


def test_usage_of_a_snapshot_is_what_was_written_since(tree: str) -> None:
    os.sync()
    assert MIB < usage.usage(tree) < 1.2 * MIB
    btrfs.snapshot(tree, f"{tree}.copy")
    assert usage.usage(f"{tree}.copy") < MIB / 10
    Path(f"{tree}.copy/new").write_bytes(os.urandom(2 * MIB))
    os.sync()
    assert 2 * MIB < usage.usage(f"{tree}.copy") < 2.2 * MIB


def test_a_limit_holds_for_nested_subvolumes_too(tree: str) -> None:
    copy = f"{tree}.copy"
    btrfs.snapshot(tree, copy)
    assert quota.limit(copy) is None
    quota.set_limit(copy, 8 * MIB)
    assert (quota.limit(copy), quota.limit(tree)) == (8 * MIB, None)
    btrfs.create(f"{copy}/deeper")
    with pytest.raises(OSError, match="quota exceeded"):
        write(f"{copy}/deeper/file", 12 * MIB)
    quota.set_limit(copy, 64 * MIB)
    assert quota.limit(copy) == 64 * MIB
    quota.set_limit(copy, None)
    assert quota.limit(copy) is None
    quota.forget(copy)
    quota.forget(copy)
    btrfs.delete(copy)
