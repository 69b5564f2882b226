# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl image: bases that are pulled, named, shown, refreshed, exported, imported; and limits of disks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host, Roads

TREE = """
set -e
rm -rf /root/image*
mkdir -p /root/image/sbin /root/image/etc /root/image/usr/lib
printf 'ID=small\\nVERSION_ID=1\\n' >/root/image/usr/lib/os-release
cp /usr/bin/true /root/image/sbin/init
echo mine >/root/image/etc/mine
tar -C /root/image -cf /root/image.tar .
"""


@pytest.fixture(params=("trixie", "static"))
def pool(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host that copies by btrfs, and one that copies by overlay, with a small archive; without images of it later."""
    with roads.get(request.param).ready().host.only_debian() as host:
        host.sh(TREE)
        yield host
        host.sh("rm -rf /root/image*")
    host.machctl("image", "prune", "--all")


def test_an_image_has_a_name_and_is_a_source(pool: Host) -> None:
    pool.machctl("image", "build", "small", "tar:/root/image.tar").says("image small")
    shown = pool.machctl("image", "show", "small", "--json").json()
    assert (shown["name"], shown["source"], shown["os"], shown["users"]) == (
        "small",
        "tar:/root/image.tar",
        "small 1",
        [],
    )
    assert shown["size"] > 1000
    assert not shown["stale"]
    table = pool.machctl("image", "ls").stdout.splitlines()
    assert table[0].split() == ["IMAGE", "SOURCE", "OS", "SIZE", "AGE", "USERS"]
    assert any(row.startswith("small ") for row in table)
    pool.machctl("create", "image:small", "web")
    assert pool.read(f"{pool.tree('web')}/etc/mine") == "mine\n"
    pool.machctl("image", "rm", "small", status=5).says("small", "web")
    pool.machctl("create", "image:nosuch", "two", status=4).says("nosuch")


def test_an_image_that_is_stale_is_made_anew(pool: Host) -> None:
    pool.machctl("image", "pull", "tar:/root/image.tar", "--name", "small")
    old = pool.machctl("image", "show", "small", "--json").json()
    assert pool.machctl("image", "show", "small", "--max-age", "0.0000001", "--json").json()["stale"] is True
    pool.machctl("image", "refresh", "--dry-run", "small").says("would refresh small")
    pool.machctl("image", "refresh", "small").says("refreshed small")
    new = pool.machctl("image", "show", "small", "--json").json()
    assert new["id"] != old["id"]
    assert new["digest"] == old["digest"]
    # The one before had no users.
    pool.machctl("image", "show", old["id"], status=4)


def test_an_image_is_exported_and_imported(pool: Host) -> None:
    pool.machctl("image", "build", "small", "tar:/root/image.tar")
    for form, file in (("tar", "/root/image-out.tar.zst"), ("oci", "/root/image-out.oci")):
        pool.machctl("image", "export", "small", file, "--format", form).says("exported")
        pool.machctl("image", "import", f"again-{form}", file).says(f"image again-{form}")
        pool.machctl("create", f"image:again-{form}", f"web-{form}")
        assert pool.read(f"{pool.tree(f'web-{form}')}/etc/mine") == "mine\n"


def test_prune_takes_only_what_nobody_uses(pool: Host) -> None:
    pool.machctl("image", "build", "small", "tar:/root/image.tar")
    pool.machctl("image", "prune")
    assert pool.machctl("image", "show", "small", "--json").json()["users"] == []
    pool.machctl("create", "image:small", "web")
    pool.machctl("image", "prune", "--all")
    pool.machctl("image", "show", "small")
    pool.machctl("rm", "web")
    assert "no machine was copied from it" in pool.machctl("--dry-run", "image", "prune", "--all").stdout
    pool.machctl("image", "show", "small")
    pool.machctl("image", "prune", "--all").says("removed 1 image")
    pool.machctl("image", "show", "small", status=4)
    assert pool.exists(pool.base_tree())


def test_a_disk_limit_holds_where_the_driver_can_and_is_refused_elsewhere(pool: Host) -> None:
    words = ("create", "debian", "web", "--bridge", "br0", "--package", "nginx-light", "--disk", "300M")
    if "(btrfs)" not in pool.machctl("doctor").stdout:
        pool.machctl(*words, status=7).says("web", "overlay", "pool create --btrfs")
        assert pool.state("web") == ""
        return
    pool.machctl(*words, "--start", "--wait", "ip")
    fill = "dd if=/dev/urandom of=/root/fill bs=1M count=400 conv=fsync 2>&1; stat -c %s /root/fill"
    said = pool.inside("web", fill, status=None)
    assert "quota" in said.lower() or "No space" in said, said
    assert int(said.splitlines()[-1]) < 310 * 2**20
    assert pool.inside("web", "rm /root/fill; systemctl is-active dbus") == "active"
    assert "300" in next(line for line in pool.machctl("status", "web").stdout.splitlines() if "Disk:" in line)
    # Another machine is not held by it.
    assert "records out" in pool.inside("debian", "dd if=/dev/zero of=/root/fill bs=1M count=1 2>&1; rm /root/fill")
