# SPDX-License-Identifier: LGPL-2.1-or-later
"""top, stats, events, logs of several machines, metrics."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from terminal import Terminal
from throwaway import Host, Road, until

pytestmark = pytest.mark.usefixtures("unchanged")

TEXTFILES = "/var/lib/prometheus/node-exporter"


@pytest.fixture
def web(debian: Road) -> Iterator[Host]:
    """A second machine called web."""
    debian.host.copy("web", "--start")
    yield debian.host
    debian.host.machctl("rm", "--force", "web")


def events_of(process: subprocess.Popen[bytes], name: str, count: int) -> list[str]:
    assert process.stdout is not None
    found: list[str] = []
    while len(found) < count:
        line = process.stdout.readline()
        assert line, "it has ended"
        event = json.loads(line)
        found += [event["event"]] if event["machine"] == name else []
    return found


def greetings(process: subprocess.Popen[bytes], count: int) -> list[str]:
    assert process.stdout is not None
    found: list[str] = []
    while len(found) < count:
        line = process.stdout.readline().decode()
        assert line, "it has ended"
        found += [line.split("]: ")[-1].strip()] if " greeter[" in line else []
    return found


def test_stats_are_what_the_machine_does(debian: Road) -> None:
    host = debian.host
    host.inside(
        "debian", "systemd-run --quiet --unit busy sh -c 'while :; do :; done'; curl -s localhost >/dev/null; true"
    )
    (row,) = until(
        lambda: host.machctl("stats", "debian", "--json", "-d", "0.5").json(), lambda rows: rows[0]["cpu_percent"] > 5
    )
    host.inside("debian", "systemctl stop busy")
    assert (row["name"], row["state"]) == ("debian", "running")
    assert row["cpu_percent"] > 5
    assert row["cpu_seconds"] > 0
    assert row["net_in"] > 0
    assert row["net_out"] > 0
    assert row["pressure"]["cpu"]["some"] >= 0
    # What this host has no controller for it does not tell; it is no error.
    assert row.keys() >= {"memory", "memory_max", "io_read_rate", "tasks"}
    (at_once,) = host.machctl("stats", "-d", "0", "-o", "json").json()
    assert at_once["cpu_percent"] is None
    heading, line = host.machctl("top", "-d", "0.1").stdout.splitlines()
    assert heading.split()[:3] == ["NAME", "STATE", "CPU%"]
    assert line.split()[:2] == ["debian", "running"]
    host.machctl("stats", "nosuch", status=4).says("nosuch")
    host.machctl("top", "--sort", "colour", status=2).says("colour", "memory")


def test_top_lives_on_a_terminal_and_leaves_it_as_it_was(host: Host) -> None:
    with Terminal(host.argv("machctl", "top", "-d", "0.5")) as terminal:
        terminal.expect(r"(?s)1 running.*NAME.*STATE.*debian")
        terminal.resize(24, 200)
        terminal.expect("CPU-TIME")
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.seen.endswith("\x1b[?1049l") or "\x1b[?1049l" in terminal.expect(r"\x1b\[\?1049l").string
        assert terminal.modes() == terminal.before


def test_what_happens_to_a_machine(web: Host) -> None:
    with (
        web.background("machctl", "events", "-f", "--json", "-n", "1") as events,
        web.background("machctl", "logs", "debian", "web", "-f", "-n", "1") as logs,
    ):
        # What has been is told once it listens to what is to come.
        assert events.stdout is not None
        assert events.stdout.readline()
        # The last one of both journals; what is written into either from here on is followed.
        assert logs.stdout is not None
        assert logs.stdout.readline()
        web.machctl("exec", "web", "--", "logger", "-t", "greeter", "first boot")
        web.machctl("restart", "web")
        web.machctl("exec", "web", "--", "logger", "-t", "greeter", "second boot")
        found = events_of(events, "web", 6)
        assert sorted(found[:3]) == ["gone", "stopped", "stopping"]
        assert found[3:] == ["starting", "registered", "running"]
        assert greetings(logs, 2) == ["first boot", "second boot"]
        # What is followed is in the order it comes in, and another boot's journal takes a moment to be read.
        web.machctl("exec", "debian", "--", "logger", "-t", "greeter", "of another")
        assert greetings(logs, 1) == ["of another"]
        for process in (events, logs):
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 128 + signal.SIGINT
    past = [json.loads(line) for line in web.machctl("events", "web", "--json").stdout.splitlines()]
    assert [event["event"] for event in past if event["kind"] == "unit"][-2:] == ["starting", "running"]
    assert "registered (leader" in web.machctl("events", "-n", "5").stdout
    merged = web.machctl("logs", "web", "debian", "-n", "200").stdout.splitlines()
    assert [line for line in merged if " web " in line]
    assert "of another" in merged[-2] or "of another" in "".join(merged[-4:])
    web.machctl("logs", "web", "debian", "--since", "nonsense", status=1).says("nonsense")


def test_metrics_are_written_by_their_unit(debian: Road) -> None:
    host = debian.host
    assert host.sh("systemctl is-enabled machctl-metrics.timer", status=1).strip() == "disabled"
    text = host.machctl("metrics").stdout
    assert 'machctl_machine_state{machine="debian",state="running"} 1' in text
    host.machctl("metrics", "--write", "machctl.prom", status=2).says("absolute")
    host.sh(f"mkdir -p {TEXTFILES}; systemctl start machctl-metrics.service")
    written = host.read(f"{TEXTFILES}/machctl.prom")
    assert {line.split("{")[0] for line in written.splitlines()} >= {line.split("{")[0] for line in text.splitlines()}
    assert 'os="debian 13"' in written
    host.sh(f"rm -r {TEXTFILES}")
    score = host.sh("systemd-analyze security --no-pager machctl-metrics.service | tail -1")
    assert float(score.split(":")[1].split()[0]) < 5
