# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine with a machine in it, whose tree comes from a host where making it takes seconds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from throwaway import KEEP, Host, Roads


@pytest.fixture(scope="module")
def vm(roads: Roads) -> Iterator[Host]:
    """A virtual machine, its machine running."""
    vm = Host("t-vm", "--suite", "trixie", "--pool", "btrfs", "--kind", "vm")
    if not KEEP:
        vm.down()
    vm.up()
    if vm.state("debian") == "":
        _copy_machine(vm, roads)
    yield vm
    if not KEEP:
        vm.down()


def _copy_machine(vm: Host, roads: Roads) -> None:
    # Emulated, a bootstrap would take minutes.
    road = roads.get("trixie")
    road.host.machctl("stop", "debian", status=None)
    tar = "tar --numeric-owner --xattrs --acls --directory=/var/lib/machines"
    pack = f"{tar} --create --exclude='debian/var/log/journal/*' debian | zstd -1"
    unpack = f"zstd -d | {tar} --extract && : >/var/lib/machines/debian/etc/machine-id"
    with subprocess.Popen(road.host.argv("sh", "-c", pack), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as source:
        subprocess.run(vm.argv("sh", "-c", unpack), stdin=source.stdout, check=True, timeout=300)
    assert source.returncode == 0
    road.host.machctl("start", "debian", "--wait", "ip")
    vm.write("/etc/machctl/fleet.d/debian.toml", road.host.read("/etc/machctl/fleet.d/debian.toml"))
    vm.machctl("apply", "debian")
    vm.machctl("start", "debian", "--wait", "ip")
