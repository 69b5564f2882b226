# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl pool create: snapshots and limits on a host whose own file system has neither."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host

TREE = """
mkdir -p $1/tree/etc $1/tree/usr/lib
echo ID=tiny >$1/tree/usr/lib/os-release
tar -C $1/tree -cf $1/tiny.tar .
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Host]:
    """A host of its own, with an ext4 pool."""
    host = Host("t-pool", "--suite", "trixie", "--pool", "ext4")
    host.down()
    host.up()
    yield host
    host.down()


def test_a_pool_takes_snapshots_and_limits(plain: Host) -> None:
    plain.machctl("pool", "create", "--btrfs", "2G", status=5).says("/var/lib/machines", "file system of its own")
    plain.sh("umount /var/lib/machines")
    plain.sh(TREE, "/root")
    plain.machctl("create", "tar:/root/tiny.tar", "early", "--storage", "copy")
    plain.machctl("pool", "create", "--btrfs", "2G", status=5).says("early", "machctl export", "images")
    plain.machctl("rm", "early")
    plain.machctl("image", "prune", "--all")
    before = plain.snapshot()
    assert "make a btrfs" in plain.machctl("pool", "create", "--btrfs", "2G", "--dry-run").stdout
    plain.assert_same(before)

    plain.machctl("pool", "create", "--btrfs", "2G")
    assert plain.machctl("pool", "show", "--json").json()["storage"] == "btrfs"
    plain.machctl("create", "tar:/root/tiny.tar", "one", "--disk", "1G")
    shown = plain.machine("one")
    assert (shown["storage"], shown["disk_max"]) == ("btrfs", 2**30)
    assert "Disk quota exceeded" in plain.sh("fallocate -l 1100M /var/lib/machines/one/big 2>&1", status=1)
    plain.machctl("set", "one", "disk=")
    plain.sh("fallocate -l 1100M /var/lib/machines/one/big && rm /var/lib/machines/one/big")
    plain.machctl("pool", "create", "--btrfs", "2G", status=5)
    for mount in ("/var/lib/machctl/pool", "/var/lib/machines", "/var/lib/machctl/store"):
        unit = plain.sh('systemd-escape --path --suffix=mount "$1"', mount)
        assert plain.sh('systemctl is-enabled "$1"; systemctl is-active "$1"', unit).split() == ["enabled", "active"]
    plain.machctl("rm", "one")
    assert plain.machctl("plan").stdout == ""


def test_what_is_no_size_is_said(plain: Host) -> None:
    plain.machctl("pool", "create", status=2).says("--btrfs 50G")
    plain.machctl("pool", "create", "--btrfs", "lots", status=2).says("lots")
    plain.machctl("pool", "create", "--btrfs", "300M", status=5)
