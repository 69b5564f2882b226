# SPDX-License-Identifier: LGPL-2.1-or-later
"""What takes a kernel of its own: limits with all cgroup controllers, ports of VLANs, ipvlan, and hard resets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lan
from throwaway import Host, until

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
DECLARED = "/etc/machctl/fleet.d/debian.toml"
HEALTH = """
[machines.debian.health]
unit = "nginx.service"
interval = "2s"
retries = 2
on-failure = "restart"
"""
# Disks with a partition of the generic type that has a tree, and before it one of another type that has nothing.
DISKS = r"""
set -e
mkdir -p /root/disk/usr/lib
echo 'ID=small' >/root/disk/usr/lib/os-release
mkfs.ext4 -q -E offset=2097152 -d /root/disk /root/swap.img 16M
truncate -s 19M /root/swap.img
cp /root/swap.img /root/uefi.img
for kind in swap uefi; do
    sfdisk -q /root/$kind.img <<END
label: gpt
start=2048, size=2048, type=$kind
start=4096, size=32768, type=linux
END
done
rm -r /root/disk
"""
MARK = "/var/lib/machctl/applying.json"
MORE = ("more-1", "more-2")
# Only the files are sure to be on the disk; what apply has done by then is, or is not.
RESET = f"""
sync
machctl apply >/dev/null 2>&1 &
until test -e {MARK} && test -e /run/systemd/machines/{MORE[0]}; do kill -0 $! || exit; done
echo b >/proc/sysrq-trigger
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
    vm.machctl("set", "debian", "memory=", "cpus=", "swap=", "restart=", "cpu-weight=", "io-weight=", "tasks=")


def limit(vm: Host, name: str) -> str:
    return vm.read(f"{CGROUP}/{name}").strip()


def leader(vm: Host) -> int:
    return int(vm.machine("debian")["leader"])


def test_the_main_job_works_in_a_virtual_machine(vm: Host) -> None:
    assert vm.machctl("exec", "debian", "--", "systemctl", "is-system-running", "--wait").stdout == "running\n"
    assert "nginx" in vm.get("http://127.0.0.1:8080")
    assert vm.machctl("apply").stderr == "nothing to do\n"


def test_stats_have_what_the_controllers_count(vm: Host) -> None:
    vm.inside("debian", "dd if=/dev/zero of=/root/written bs=1M count=4 conv=fsync 2>/dev/null; rm /root/written")
    (row,) = vm.machctl("stats", "debian", "--json", "-d", "0").json()
    assert row["memory"] > row["memory_cache"] > 0
    assert row["memory_max"] is None
    assert row["io_write"] >= 4 * 2**20
    assert row["tasks"] >= 5
    assert row["oom_kills"] == 0


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


def test_weights_and_tasks_are_limited_at_once(unlimited: Host) -> None:
    vm = unlimited
    before = leader(vm)
    vm.machctl("set", "debian", "cpu-weight=50", "io-weight=20", "tasks=500", "swap=0")
    names = ("cpu.weight", "io.weight", "pids.max", "memory.swap.max")
    assert [limit(vm, name) for name in names] == ["50", "default 20", "500", "0"]
    assert vm.machctl("apply").stderr == "nothing to do\n"
    vm.machctl("set", "debian", "cpu-weight=", "io-weight=", "tasks=", "swap=")
    assert [limit(vm, name) for name in names] == ["100", "default 100", "16384", "max"]
    assert leader(vm) == before


def test_a_machine_that_ran_out_of_memory_is_started_again(unlimited: Host) -> None:
    vm = unlimited
    before = leader(vm)
    vm.machctl("set", "debian", "memory=200M", "swap=0", "restart=on-failure")
    # Without the first its system outlives whoever took the memory.
    vm.machctl("exec", "debian", "--", "sh", "-c", "echo 1000 >/proc/1/oom_score_adj; tail /dev/zero", status=None)
    after = until(
        lambda: vm.machine("debian"),
        lambda found: found["leader"] not in {None, before} and found["state"] == "running",
        limit=240,
        every=2,
    )
    assert (after["state"], after["restarts"]) == ("running", 1)


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


def test_what_is_unhealthy_is_restarted(vm: Host) -> None:
    plain = vm.read(DECLARED)
    vm.write(DECLARED, plain + HEALTH)
    try:
        before = leader(vm)
        vm.machctl("apply")
        vm.machctl("wait", "debian", "healthy", "--timeout", "120")
        assert leader(vm) == before
        vm.inside("debian", "systemctl stop nginx")
        until(lambda: vm.machine("debian"), lambda found: found["leader"] not in {None, before}, limit=180, every=2)
        vm.machctl("wait", "debian", "healthy", "--timeout", "180")
        assert leader(vm) != before
    finally:
        vm.write(DECLARED, plain)
        vm.machctl("apply")


def test_a_reset_in_the_middle_of_apply_is_made_up_for_at_boot(vm: Host) -> None:
    for name in MORE:
        vm.machctl("clone", "debian", name)
        path = f"/etc/machctl/fleet.d/{name}.toml"
        vm.write(path, vm.read(path) + 'autostart = true\nmemory = "512M"\n')
    assert vm.run("sh", "-c", RESET, status=None, timeout=200).status != 0
    states = until(lambda: [vm.state(name) for name in MORE], lambda now: set(now) == {"running"}, limit=300, every=5)
    assert states == ["running", "running"]
    code = until(
        lambda: vm.machctl("plan", "--detailed-exitcode", status=None).status, lambda code: code == 0, limit=60, every=2
    )
    assert code == 0
    assert not vm.exists(MARK)
    assert vm.sh("ls /var/lib/machines").split() == ["debian", *MORE]


def test_a_disk_image_with_partitions_is_a_source(vm: Host) -> None:
    vm.sh(DISKS)
    # Of an ESP without a file system: systemd-dissect fails when the root is mounted already.
    vm.machctl("create", "raw:/root/uefi.img", "part", status=1).says("no tree can be mounted from raw:/root/uefi.img")
    assert vm.sh("ls /run/machctl | grep image-; losetup --list; machctl image ls | grep uefi.img; :") == ""
    vm.machctl("create", "raw:/root/swap.img", "part")
    read = "systemd-dissect --copy-from /var/lib/machines/part.raw /usr/lib/os-release -"
    assert vm.sh(f"{read}; rm /root/*.img") == "ID=small"
    vm.machctl("rm", "part")
