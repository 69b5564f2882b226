# SPDX-License-Identifier: LGPL-2.1-or-later
"""What takes a kernel of its own: limits with all cgroup controllers, ports of VLANs, and ipvlan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lan
from throwaway import Host

CGROUP = "/sys/fs/cgroup/machine.slice/systemd-nspawn@debian.service"

BRIDGE = "vbr0"
# Of an admin: who is in VLAN 20 is 10.20.0.1, who is in none is 10.20.0.2.
UP = f"""
{lan.DOWN}
{lan.UP}
ip link add {BRIDGE} type bridge vlan_filtering 1
bridge vlan add dev {BRIDGE} self vid 20
ip link add link {BRIDGE} name {BRIDGE}.20 type vlan id 20
ip address add 10.20.0.1/24 dev {BRIDGE}.20
ip link set {BRIDGE} up
ip link set {BRIDGE}.20 up
"""
DOWN = f"""
ip link delete {BRIDGE}
{lan.DOWN}
"""
LINKS = (f"{BRIDGE},vlan=20,ip=10.20.0.5/24", f"ipvlan:{lan.LINK},ip=192.0.2.20/24")
# The first answer comes once networkd inside has seen its new links.
TRY = f"""
reached() {{ "$@" -c 1 -w 30 >/dev/null 2>&1 && echo "$answer"; }}
answer=vlan; reached ping 10.20.0.5
answer=ipvlan; reached ip netns exec lan ping 192.0.2.20
ip address flush dev {BRIDGE}.20
ip address add 10.20.0.2/24 dev {BRIDGE}
ping -c 1 -W 2 10.20.0.5 >/dev/null 2>&1 || echo apart
"""


@pytest.fixture
def unlimited(vm: Host) -> Iterator[Host]:
    yield vm
    vm.machctl("set", "debian", "memory=", "cpus=")


def limit(vm: Host, name: str) -> str:
    return vm.read(f"{CGROUP}/{name}").strip()


def leader(vm: Host) -> int:
    return int(vm.machine("debian")["leader"])


def test_the_main_job_works_in_a_virtual_machine(vm: Host) -> None:
    assert vm.machctl("exec", "debian", "--", "systemctl", "is-system-running", "--wait").stdout == "running\n"
    assert "nginx" in vm.get("http://127.0.0.1:8080")
    assert vm.machctl("apply").stderr == "nothing to do\n"


def test_memory_is_limited_at_once_and_after_a_restart(unlimited: Host) -> None:
    vm = unlimited
    before = leader(vm)
    assert limit(vm, "memory.max") == "max"
    vm.machctl("set", "debian", "memory=256M")
    assert limit(vm, "memory.max") == str(256 * 1024**2)
    assert leader(vm) == before
    shown = vm.machine("debian")
    assert shown["memory_max"] == 256 * 1024**2
    assert 0 < shown["memory"] < 256 * 1024**2
    vm.machctl("restart", "debian")
    assert leader(vm) != before
    assert limit(vm, "memory.max") == str(256 * 1024**2)
    vm.machctl("set", "debian", "memory=")
    assert limit(vm, "memory.max") == "max"


def test_cpus_are_limited_at_once(unlimited: Host) -> None:
    vm = unlimited
    before = leader(vm)
    vm.machctl("set", "debian", "cpus=0.5")
    assert limit(vm, "cpu.max") == "50000 100000"
    assert leader(vm) == before
    vm.machctl("set", "debian", "cpus=")
    assert limit(vm, "cpu.max") == "max 100000"


def test_doctor_finds_nothing_bad(vm: Host) -> None:
    assert {finding["level"] for finding in vm.machctl("doctor", "--json").json()} <= {"ok", "warning"}


def test_vlans_are_kept_apart_and_an_ipvlan_is_reached_from_the_lan(vm: Host) -> None:
    try:
        vm.sh(UP)
        vm.machctl("net", "attach", "debian", *LINKS)
        assert vm.sh(TRY).split() == ["vlan", "ipvlan", "apart"]
        vm.machctl("net", "detach", "debian", "host1", f"iv-{lan.LINK}")
    finally:
        vm.sh(DOWN, status=None)
