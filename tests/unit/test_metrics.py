# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Prometheus reads, and what is looked at for it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.errors import NotFound, NotRunning
from machines.model.tree import Tree
from machines.model.usage import HostUsage, Pressure, Usage
from machines.operations.metrics import escape, exposition
from machines.operations.usage import look, running

SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (\d+(?:\.\d+)?)')


class FakeMeters:
    """machines.operations.usage.Meters"""

    def __init__(self) -> None:
        self.usage = Usage(
            at=1.0, cpu_usec=5, user_usec=3_500_000, memory=0, pressure={"io": Pressure(1, 0, 7_000_000, 0)}
        )
        self.whole = HostUsage()

    def read(self, leader: int, unit: str) -> Usage:
        return self.usage

    def read_host(self) -> HostUsage:
        return self.whole


@pytest.fixture
def host() -> Any:
    host: Any = FakeHost()
    host.registered = lambda: {
        name: SimpleNamespace(
            name=name, unit=f"systemd-nspawn@{name}.service", leader=7, since_usec=1500000, class_="container"
        )
        for name in ("db", "web")
    }
    host.running = lambda: {name: entry.unit for name, entry in host.registered().items()}
    host.placed["idle"] = Tree("idle", "/var/lib/machines/idle", "directory")
    host.os_release = lambda leader, tree: {"ID": 'a"b\\c\nd'} if leader else {}
    host.units.states = lambda patterns: {
        "systemd-nspawn@web.service": "activating", "systemd-nspawn@db.service": "active",
        "systemd-nspawn@lost.service": "failed", "systemd-nspawn@idle.service": "inactive",
    }  # fmt: skip
    return host


def test_the_format(host: Any) -> None:
    text = exposition(host, FakeMeters())
    assert text.endswith("\n")
    samples, seen = {}, ""
    for line in text.splitlines():
        if line.startswith("# "):
            assert line.startswith(("# HELP machctl_machine_", "# TYPE machctl_machine_"))
            seen = line.split()[2]
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] == seen, "the samples of a metric stand together, below its type"
        assert seen.endswith("_total") == (f"# TYPE {seen} counter" in text)
        assert (match[1], match[2]) not in samples
        samples[match[1], match[2]] = float(match[3])
    assert samples["machctl_machine_state", 'machine="web",state="starting"'] == 1
    assert samples["machctl_machine_state", 'machine="idle",state="stopped"'] == 1
    assert samples["machctl_machine_cpu_seconds_total", 'machine="db",mode="user"'] == 3.5
    assert samples["machctl_machine_memory_bytes", 'machine="db"'] == 0
    assert samples["machctl_machine_start_time_seconds", 'machine="db"'] == 1.5
    assert samples["machctl_machine_pressure_seconds_total", 'machine="db",resource="io",tasks="some"'] == 7
    assert "machctl_machine_tasks" not in text, "what the host cannot tell is left out"
    assert 'os="a\\"b\\\\c\\nd"' in text


def test_what_a_guest_calls_itself_is_short(host: Any) -> None:
    host.os_release = lambda leader, tree: {"ID": "x" * 1000}
    assert f'os="{"x" * 64}"' in exposition(host, FakeMeters())


def test_nothing_at_all() -> None:
    host: Any = FakeHost()
    assert exposition(host, FakeMeters()).strip() == ""
    assert escape("plain") == "plain"


def test_health_is_there_where_it_is_probed(host: Any) -> None:
    host.files.texts["/run/machctl/health/web"] = "state=unhealthy\nsince=1\nleader=7\nfailures=3\nwhy=refused\n"
    text = exposition(host, FakeMeters())
    assert 'machctl_machine_health{machine="web",health="unhealthy"} 1' in text
    assert 'machctl_machine_health{machine="db"' not in text


def test_a_look_and_the_next(host: Any) -> None:
    meters = FakeMeters()
    first = look(host, meters)
    assert first.states == {"running": 1, "starting": 1, "failed": 1}
    assert first.cpu is None
    assert first.machines["web"].row()["cpu_percent"] is None
    meters.usage = Usage(at=3.0, cpu_usec=1_000_005, net_in=5)
    meters.whole = HostUsage(cpu_ticks=100, idle_ticks=25)
    second = look(host, meters, wanted=lambda name: name == "web", before=first)
    assert second.cpu == 75
    assert second.machines.keys() == {"web"}
    row = second.machines["web"].row()
    assert (row["state"], row["cpu_percent"], row["net_in"], row["net_in_rate"]) == ("starting", 50.0, 5, None)
    assert (row["since"], row["memory"], row["health"]) == ("1970-01-01T00:00:01.500000+00:00", None, None)
    assert row["pressure"] == {"cpu": None, "memory": None, "io": None}
    host.registered = lambda: {"web": SimpleNamespace(unit="x.scope", leader=8, since_usec=0)}
    assert look(host, meters, before=second).machines["web"].rates.cpu is None, "it was started anew"


def test_which_machines_are_meant(host: Any) -> None:
    assert running([], host) == ["db", "web"]
    assert running(["w*", "idl?"], host) == ["web"]
    with pytest.raises(NotRunning, match="idle"):
        running(["web", "idle"], host)
    with pytest.raises(NotFound, match="wbe"):
        running(["wbe"], host)
