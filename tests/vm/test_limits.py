# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits as the kernel enforces them, on a host of its own with all cgroup controllers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from throwaway import Host

CGROUP = "/sys/fs/cgroup/machine.slice/systemd-nspawn@debian.service"


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
