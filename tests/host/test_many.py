# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fifty machines on one host: what they take of its disk, and that all of them come, run and go."""

from __future__ import annotations

import sys
import time

import pytest

from throwaway import Host, Road, Roads

COUNT = 50
DISK_MAX = 10 * 1024 * 1024
NAMES = [f"m{number}" for number in range(COUNT)]


@pytest.fixture(params=("trixie", "static"))
def pool(request: pytest.FixtureRequest, roads: Roads) -> Road:
    """A host that copies by btrfs, and one that copies by overlay."""
    return roads.get(request.param).ready()


def used(host: Host) -> int:
    """Give how many bytes of the pool are used, once all is written and what was removed is gone."""
    return int(
        host.sh(
            "test $(stat -f -c %T /var/lib/machines) != btrfs || btrfs subvolume sync /var/lib/machines >&2; sync;"
            "df --output=used --block-size=1 /var/lib/machines | tail -n 1"
        )
    )


def test_fifty_machines(pool: Road, capsys: pytest.CaptureFixture[str]) -> None:
    host = pool.host
    took = {}
    with host.only_debian():
        before = used(host)
        began = time.monotonic()
        create = "for name; do machctl -q create debian $name --bridge br0 --package nginx-light || exit; done"
        host.sh(create, *NAMES, timeout=300)
        took["create"] = time.monotonic() - began
        made = used(host)
        began = time.monotonic()
        host.machctl("start", "m*", "--wait", "ip", timeout=300)
        took["start"] = time.monotonic() - began
        began = time.monotonic()
        rows = host.machctl("list", "m*", "--json").json()
        took["list"] = time.monotonic() - began
        assert sorted(row["name"] for row in rows) == sorted(NAMES)
        assert {row["state"] for row in rows} == {"running"}
        assert len({address for row in rows for address in row["addresses"]}) == 2 * COUNT
        booted = used(host)
        began = time.monotonic()
        host.machctl("rm", "--force", "m*", timeout=300)
        took["rm"] = time.monotonic() - began
    each = {"made": (made - before) / COUNT, "booted": (booted - before) / COUNT}
    with capsys.disabled():
        times = ", ".join(f"{verb} {seconds:.1f} s" for verb, seconds in took.items())
        sizes = ", ".join(f"{size / 2**20:.2f} MB {state}" for state, size in each.items())
        sys.stdout.write(f"\n{COUNT} machines on {pool.suite}: {times}; each takes {sizes}\n")
    assert each["booted"] <= DISK_MAX
