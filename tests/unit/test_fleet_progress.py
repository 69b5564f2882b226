# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of an apply: a line for each machine, and what a change costs."""

from __future__ import annotations

import json
import os

import pytest

from machines.cli.fleetdiff import show_diff
from machines.cli.fleetprogress import FleetProgress
from machines.cli.options import Options
from machines.cli.plans import show_plan
from machines.errors import Conflict
from machines.model.snapshot import Origin, Snapshot
from machines.operations.fleetplan import FleetPlan
from machines.plan import steps
from machines.plan.kinds import CREATE, LIVE, RESTART
from samples import machine

STEPS = [
    steps.MakeTree(reason="new", machine="web", declared=machine(), storage="btrfs", base="b"),
    steps.StartMachine(reason="autostart is on", machine="web", name="web"),
]
SNAPSHOT = steps.TakeSnapshot(
    reason="", machine="old", snapshot=Snapshot("old", "s", 1.0, "btrfs"), origin=Origin("/x", "btrfs")
)


def words(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition(" in ")[0] for line in capsys.readouterr().err.splitlines()]


def test_without_a_terminal_there_is_a_line_for_each_machine_that_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress = FleetProgress(Options())
    for step in STEPS:
        progress.step(step)
    progress.ended("web", None)
    progress.step(steps.SetSysctl(reason="", machine="db", name="a", value=1))
    progress.ended("db", Conflict("taken"))
    progress.ended("app", Conflict("it comes after db"))
    progress.step(SNAPSHOT)
    progress.step(steps.RemoveTree(reason="", machine="old", path="/x"))
    progress.ended("old", None)
    assert words(capsys) == ["web: made and started", "db: failed", "app: left as it is", "old: removed"]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = FleetProgress(Options(quiet=True))
    progress.step(STEPS[0])
    progress.ended("web", None)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_lines_are_drawn_in_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 4)))
    progress = FleetProgress(Options())
    progress.bar = True
    for number in range(4):
        progress.step(steps.StartMachine(reason="", machine=f"m{number}", name=f"m{number}"))
    drawn = capsys.readouterr().err.rpartition("\x1b[J")[2]
    assert [line.split("  ")[0] for line in drawn.splitlines()] == ["m0", "and 3 more"]
    progress.ended("m0", None)
    out = capsys.readouterr().err
    assert out.startswith("\x1b[2A\r\x1b[Jm0: started in ")
    progress.clear()
    assert capsys.readouterr().err == "\x1b[2A\r\x1b[J"


def test_plans_say_what_each_change_costs(capsys: pytest.CaptureFixture[str]) -> None:
    write = steps.WriteFile(reason="differs", machine="web", path="/etc/x", text="new\n", detail="+new", kind=RESTART)
    again = steps.RestartMachine(reason="Boot= changed since it started", machine="web", name="web", kind=RESTART)
    made = steps.StartMachine(reason="autostart is on", machine="db", name="db", kind=CREATE)
    nat = steps.LoadNat(reason="its files changed", kind=LIVE)
    plans = {"web": [write, again], "db": [made], "": [nat]}
    show_plan(plans, Options())
    assert capsys.readouterr().out.splitlines() == [
        "web: restart",
        "  restart   write /etc/x  (differs)",
        "    +new",
        "  restart   restart web  (Boot= changed since it started)",
        "db: create",
        "  create    start db  (autostart is on)",
        "this host: live",
        "  live      load the nft table inet machctl  (its files changed)",
    ]
    show_plan({"web": [again]}, Options(output="json"), notes={"app": "source changed"})
    rows = json.loads(capsys.readouterr().out)
    assert [(row["machine"], row["kind"], row.get("asked")) for row in rows] == [
        ("web", "restart", None),
        ("app", "recreate", False),
    ]
    show_diff(FleetPlan(plans, {}), {"/etc/x": "old\n"}, Options())
    assert capsys.readouterr().out.splitlines() == [
        "--- /etc/x", "+++ /etc/x", "@@ -1 +1 @@", "-old", "+new",
        "~ restart web  (Boot= changed since it started)", "~ start db  (autostart is on)",
        "~ load the nft table inet machctl  (its files changed)",
    ]  # fmt: skip
