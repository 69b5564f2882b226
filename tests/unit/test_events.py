# SPDX-License-Identifier: LGPL-2.1-or-later
"""What signals, state files and the journal's entries are as events."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.errors import CommandFailed, InvalidValue, MachctlError, NotPermitted
from machines.operations.events import Event, Tracker, from_journal, history, machine_of, state_of

UNIT = "systemd-nspawn@web.service"


def changed(active: str, sub: str = "", **more: object) -> dict[str, object]:
    return {"ActiveState": active, "SubState": sub, **more}


def words(tracker: Tracker, *told: tuple[str, dict[str, object]]) -> list[str]:
    found = [event for name, properties in told for event in tracker.told("unit", name, properties, 1.0)]
    return [f"{event.machine or event.unit} {event.event} {event.why}".rstrip() for event in found]


def test_only_what_is_new_of_a_unit_is_an_event() -> None:
    tracker = Tracker(FakeHost())
    assert words(tracker, (UNIT, changed("inactive", "dead"))) == []
    assert words(tracker, (UNIT, changed("activating", "start")), (UNIT, changed("activating", "start"))) == [
        "web starting"
    ]
    assert words(tracker, (UNIT, changed("active", "running")), (UNIT, changed("reloading", "reload"))) == [
        "web running"
    ]
    assert words(tracker, (UNIT, {"MemoryCurrent": 5})) == []
    assert words(
        tracker, (UNIT, changed("deactivating")), (UNIT, {"Result": "success"}), (UNIT, changed("inactive"))
    ) == [
        "web stopping",
        "web stopped",
    ]


def test_a_failure_says_why() -> None:
    tracker = Tracker(FakeHost())
    told = [
        (UNIT, changed("active")), (UNIT, {"Result": "oom-kill"}), (UNIT, changed("activating", "auto-restart")),
        (UNIT, {"Result": "success"}), (UNIT, changed("active")), (UNIT, {"Result": "exit-code"}),
        (UNIT, changed("failed")),
    ]  # fmt: skip
    assert words(tracker, *told) == ["web running", "web restarting oom-kill", "web running", "web failed exit-code"]


def test_units_of_machctl_are_told_but_for_those_that_come_and_go() -> None:
    tracker = Tracker(FakeHost())
    told = [("machctl-health@10.service", changed("active")), ("machctl-bridge@br0.service", changed("active"))]
    assert words(tracker, *told) == ["machctl-bridge@br0.service running"]


def test_machined() -> None:
    host = FakeHost()
    host.registered = lambda: {"web": SimpleNamespace(unit=UNIT, leader=7)}  # type: ignore[method-assign]
    tracker = Tracker(host)
    assert list(tracker.told("new", "web", {}, 2.0)) == [Event(2.0, "web", "machine", "registered", UNIT, 7)]
    assert list(tracker.told("gone", "web", {}, 3.0)) == [Event(3.0, "web", "machine", "gone")]
    assert list(tracker.told("listening", "", {}, 3.0)) == []


def test_health() -> None:
    host = FakeHost()
    path = "/run/machctl/health/web"
    host.files.texts[path] = "state=healthy\nsince=5.5\nleader=7\nfailures=0\nwhy=\n"
    tracker = Tracker(host)
    assert list(tracker.told("files", "", {}, 9.0)) == [], "it was so before"
    host.files.texts[path] = "state=unhealthy\nsince=6.5\nleader=7\nfailures=3\nwhy=refused = yes\n"
    assert list(tracker.told("files", "", {}, 9.0)) == [
        Event(6.5, "web", "health", "unhealthy", leader=7, why="refused = yes")
    ]
    host.files.texts[path] = "state=unhealthy\nsince=never\nleader=x\n"
    assert list(tracker.told("files", "", {}, 9.0)) == [Event(9.0, "web", "health", "unhealthy")], "of another leader"
    del host.files.texts[path]
    assert list(tracker.told("files", "", {}, 9.0)) == []


def test_an_event_for_programs() -> None:
    assert Event(1795358236.5, "web", "unit", "failed", UNIT, why="timeout").row() == {
        "time": "2026-11-22T14:37:16.500000+00:00", "machine": "web", "kind": "unit", "event": "failed", "unit": UNIT,
        "leader": None, "why": "timeout",
    }  # fmt: skip


def entry(at: int, **fields: str) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(at * 1_000_000), **fields})


NEW = entry(2, MESSAGE_ID="24d8d4452573402496068381a6312df2", NAME="web", LEADER="7")
STARTED = entry(1, MESSAGE_ID="7d4958e842da4a758f6c1cdc7b36dcc5", UNIT=UNIT)
FAILED = entry(3, MESSAGE_ID="d9b373ed55a64feb8242e02dbe79a49c", UNIT=UNIT, UNIT_RESULT="exit-code")


def test_the_journal() -> None:
    quiet = entry(3, MESSAGE_ID="7d4958e842da4a758f6c1cdc7b36dcc5", UNIT="machctl-metrics.service")
    other = entry(3, MESSAGE_ID="00000000000000000000000000000000", UNIT=UNIT)
    assert list(from_journal([NEW, STARTED, FAILED, quiet, other, entry(4)])) == [
        Event(2.0, "web", "machine", "registered", leader=7),
        Event(1.0, "web", "unit", "starting", UNIT),
        Event(3.0, "web", "unit", "failed", UNIT, why="exit-code"),
    ]


def test_rounds_of_probes_in_the_journal() -> None:
    def said(message: str) -> str:
        return entry(5, _SYSTEMD_UNIT="machctl-health@10.service", MESSAGE=message)

    messages = (
        "machine web is healthy", "machine web is unhealthy: 500 is not: well", "machine web is unhealthy: restart it",
        "machine web is", "something else",
    )  # fmt: skip
    assert list(from_journal(map(said, messages))) == [
        Event(5.0, "web", "health", "healthy"),
        Event(5.0, "web", "health", "unhealthy", why="500 is not: well"),
    ]


@pytest.mark.usefixtures("as_root")
def test_history_is_in_the_order_of_time() -> None:
    host: Any = FakeHost()
    asked: list[list[str]] = []

    def run(argv: list[str], *, check: bool) -> Any:
        asked.append(argv)
        if "_TRANSPORT=stdout" in argv:
            return SimpleNamespace(returncode=1, stdout="", stderr="")
        mine = "_SYSTEMD_UNIT=systemd-machined.service" in argv
        return SimpleNamespace(returncode=0, stdout=NEW if mine else f"{STARTED}\n{FAILED}\n", stderr="")

    host.tools.run = run
    assert [event.event for event in history(host, ["--since=yesterday"])] == ["starting", "registered", "failed"]
    assert all("--since=yesterday" in argv for argv in asked)
    # Only the service manager's word counts, whatever else logs the name of a unit.
    assert "_PID=1" in asked[0]


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [(1, "Failed to parse timestamp: nonsense\n", InvalidValue),
     (1, "No space left on device: permissions\n", CommandFailed), (1, "", None),
     (1, "Failed to add filter for units: No data available\n", None),
     (0, "Journal file x is truncated, ignoring file.\n", None)],
)  # fmt: skip
@pytest.mark.usefixtures("as_root")
def test_what_journalctl_refuses_is_no_empty_history(status: int, said: str, error: type[MachctlError] | None) -> None:
    host: Any = FakeHost()
    host.tools.run = lambda argv, *, check: SimpleNamespace(returncode=status, stdout="", stderr=said)
    with pytest.raises(error, match=r"nonsense|permissions") if error else nullcontext():
        assert history(host, ["--since=nonsense"]) == []


@pytest.mark.parametrize(
    "said",
    ["Hint: You are currently not seeing messages from other users and the system.\n",
     "No journal files were opened due to insufficient permissions.\n"],
)  # fmt: skip
def test_a_history_of_ones_own_entries_only_is_none(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    host: Any = FakeHost()
    host.tools.run = lambda argv, *, check: SimpleNamespace(
        returncode=0, stdout="", stderr="" if "--quiet" in argv else said
    )
    with pytest.raises(NotPermitted, match="root") as caught:
        history(host, ["--boot"])
    assert "sudo" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/org/freedesktop/systemd1/unit/systemd_2dnspawn_40web_2d1_2eservice", "systemd-nspawn@web-1.service"),
        ("/org/freedesktop/systemd1/unit/_31_2eservice", "1.service"),
        ("/org/freedesktop/systemd1/unit/a_zz", ""),
        ("/org/freedesktop/systemd1/job/5", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")
def test_the_unit_that_an_object_is(path: str, unit: str) -> None:
    from machines.host.bus.events import unit_of

    assert unit_of(path) == unit


def test_words_for_states() -> None:
    assert [state_of(active, "") for active in ("active", "activating", "inactive", "failed", "maintenance")] == [
        "running", "starting", "stopped", "failed", "stopped"
    ]  # fmt: skip
    assert machine_of(UNIT) == "web"
    assert machine_of("machctl-bridge@web.service") == ""
