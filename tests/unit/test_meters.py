# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's files say of machines, also where some are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machines.host import meters
from machines.host.meters import cgroup, network, textfile, whole
from machines.model.usage import HostUsage, Pressure, Rates, Usage, host_cpu, rates

FILES = {
    "cpu.stat": "usage_usec 731022\nuser_usec 371327\nsystem_usec 359695\nnr_throttled 3\nthrottled_usec 1200\n",
    "cpu.max": "150000 100000\n",
    "memory.current": "209715200\n",
    "memory.max": "536870912\n",
    "memory.stat": "anon 1000\nfile 4096\nkernel 5\n",
    "memory.swap.current": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
    "io.stat": "254:0 rbytes=1000 wbytes=2000 rios=1 wios=2 dbytes=0\n8:0 rbytes=24 wbytes=0 rios=1 wios=0\n7:0\n",
    "pids.current": "23\n",
    "pids.max": "max\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.29 avg300=0.13 total=534207\nfull avg10=0.25 avg60=0.20 total=359284\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}

DEV = """Inter-|   Receive                                             |  Transmit
 face |bytes  packets errs drop fifo frame compressed multicast|bytes  packets errs drop fifo colls carrier compressed
  lo:  100    0  0  0  0  0       0      0   100    0  0  0  0  0    0       0
 host0:  3948   44  0  0  0  0       0      0  1678   20  0  0  0  0    0       0
  eth1:1000000000000   1  0  0  0  0       0      0     2    1  0  0  0  0    0       0
podman0:   3000   44  0  0  0  0       0      0  1000   20  0  0  0  0    0       0
 veth3:  3000   44  0  0  0  0       0      0  1000   20  0  0  0  0    0       0
"""


def group(directory: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (directory / name).write_text(text)
    return str(directory)


def test_a_group_with_every_controller(tmp_path: Path) -> None:
    assert cgroup.read_group(group(tmp_path, FILES)) == {
        "cpu_usec": 731022, "user_usec": 371327, "system_usec": 359695, "throttled_usec": 1200, "cpus": 1.5,
        "memory": 209715200, "memory_max": 536870912, "cache": 4096, "swap": 0, "oom_kills": 1,
        "io_read": 1024, "io_write": 2000, "tasks": 23, "tasks_max": None,
        "pressure": {"cpu": Pressure(1.5, 0.25, 534207, 359284), "memory": Pressure(0.0, 0.0, 0, 0)},
    }  # fmt: skip


@pytest.mark.parametrize("left", [{}, {"cpu.stat": FILES["cpu.stat"]}])
def test_what_a_host_cannot_tell_is_none(tmp_path: Path, left: dict[str, str]) -> None:
    found = cgroup.read_group(group(tmp_path, left))
    assert found.pop("pressure") == {}
    assert found.pop("cpu_usec") == (731022 if left else None)
    assert {key for key, value in found.items() if value is not None} <= {"user_usec", "system_usec", "throttled_usec"}


@pytest.mark.parametrize("text", ["", "max", "max 100000", "nonsense\n", "some avg10=x total=1", "some\n", "\n\n"])
def test_what_makes_no_sense_is_none_too(tmp_path: Path, text: str) -> None:
    found = cgroup.read_group(group(tmp_path, dict.fromkeys(FILES, text)))
    assert found.pop("pressure") == {}
    assert set(found.values()) <= {None, 0}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0::/machine.slice/systemd-nspawn@web.service/payload/a.scope\n", "machine.slice/systemd-nspawn@web.service"),
        ("9:name=systemd:/\n1:cpu:/\n0::/a.slice/a-b.slice/systemd-nspawn@web.service\n",
         "a.slice/a-b.slice/systemd-nspawn@web.service"),
        ("0::/machine.slice/systemd-nspawn@web2.service/payload\n", None),
        ("0::/\n", None),
        ("1:cpu:/machine.slice/systemd-nspawn@web.service\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_group_of_a_unit(tmp_path: Path, text: str, wanted: str | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(text)
    found = cgroup.group_of(7, "systemd-nspawn@web.service", proc=str(tmp_path), root="/r")
    assert found == (wanted and f"/r/{wanted}")
    assert cgroup.group_of(8, "systemd-nspawn@web.service", proc=str(tmp_path)) is None


def test_own_links_are_counted_and_no_others() -> None:
    assert network.parse_dev(DEV) == (3948 + 10**12, 1680)
    assert network.parse_dev("") == (0, 0)


def test_who_shares_the_hosts_network_has_none_of_its_own() -> None:
    assert network.traffic(os.getpid()) is None


def test_a_machine_that_has_ended() -> None:
    found = meters.read(2**22 + 5, "systemd-nspawn@web.service")
    assert (found.cpu_usec, found.memory, found.net_in) == (None, None, None)


def test_the_host() -> None:
    stat = "cpu  10 20 30 40 50 6 7 8 1000 1000\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5 6\nctxt 3\n"
    assert whole.parse_stat(stat) == (171, 90, 2)
    assert whole.parse_meminfo("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 40 kB\n") == (102400, 40960)
    assert whole.parse_meminfo("") == (None, None)
    found = whole.read_host()
    assert found.cpus == os.cpu_count()
    assert found.memory_max
    assert found.memory is not None
    assert 0 < found.memory < found.memory_max


def test_rates() -> None:
    before = Usage(at=10, cpu_usec=1_000_000, io_read=0, net_in=500, net_out=10)
    after = Usage(at=12, cpu_usec=2_000_000, io_read=4096, net_in=1500, net_out=5)
    assert rates(before, after) == Rates(50.0, 2048.0, None, 500.0, 0.0)
    assert rates(None, after) == Rates()
    assert rates(after, after) == Rates()
    assert rates(after, Usage(at=20, cpu_usec=5)) == Rates(), "it was started anew"


def test_processors_of_the_host() -> None:
    assert host_cpu(HostUsage(cpu_ticks=100, idle_ticks=50), HostUsage(cpu_ticks=200, idle_ticks=75)) == 75
    assert host_cpu(HostUsage(), HostUsage()) is None


def test_a_textfile_is_there_whole_and_follows_no_link(tmp_path: Path) -> None:
    path, other = tmp_path / "machctl.prom", tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "machctl.prom.new").symlink_to(other)
    textfile.publish(str(path), "a 1\n")
    textfile.publish(str(path), "a 2\n")
    assert path.read_text() == "a 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert other.read_text() == "kept"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["machctl.prom", "other"]
