# SPDX-License-Identifier: LGPL-2.1-or-later
"""Times at which a fleet is applied and machines are updated: what is taken for one, and what is written for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.cli.scheduling import say_schedule
from machines.errors import Conflict, InvalidValue, NotFound
from machines.model.names import update_timer
from machines.model.update import SAVING, Update, Volume, write_update
from machines.operations import schedule
from machines.plan import steps
from machines.plan.remove import plan_remove
from machines.plan.rename import plan_rename
from machines.plan.schedule import APPLY_TIMER, plan_schedule, plan_unschedule, scheduled
from machines.plan.steps import Plan
from machines.plan.updatesteps import DropVolume, ForgetUpdate
from machines.render import paths
from samples import host_with, machine

pytestmark = pytest.mark.usefixtures("as_root")

SAID = """\
  Original form: daily
Normalized form: *-*-* 00:00:00
    Next elapse: {}
       From now: 5h left
"""
TIMER = update_timer("web")


def analyzing(host: FakeHost, answer: str = "Mon 2026-11-23 00:00:00 UTC", status: int = 0) -> FakeHost:
    def run(argv: Sequence[str], **_: Any) -> Any:
        assert argv[:3] == ["systemd-analyze", "calendar", "--"]
        return SimpleNamespace(returncode=status, stdout=SAID.format(answer) if not status else "", stderr="no")

    host.tools.run = run
    return host


def texts(plan: Plan) -> dict[str, str]:
    """Give the unit files that a plan writes."""
    return {step.path: step.text for step in plan if isinstance(step, steps.WriteFile) and step.text}


def test_drop_in_says_that_time_alone() -> None:
    plan = plan_schedule(APPLY_TIMER, "Sun 03:00")
    text = texts(plan)["/etc/systemd/system/machctl-apply-scheduled.timer.d/50-machctl.conf"]
    assert text.splitlines()[1:] == ["[Timer]", "OnCalendar=", "OnCalendar=Sun 03:00"]
    assert scheduled(text) == "Sun 03:00"
    assert (scheduled(None), scheduled("[Timer]\n")) == ("", "")
    flags = texts(plan_schedule(APPLY_TIMER, "daily", flags=["--recreate"]))
    assert 'Environment="FLAGS=--recreate"' in flags[paths.unit_dropin("machctl-apply-scheduled.service")]


def test_time_that_is_behind_is_not_made_up_for() -> None:
    # It is stopped before systemd reads the new time, and counts from now on when it starts.
    plan = plan_schedule(APPLY_TIMER, "Wed 03:00")
    kinds = [steps.StopUnit, steps.WriteFile, steps.RemoveFile, steps.ReloadUnits, steps.WriteFile, steps.EnableUnit]
    assert [type(step) for step in plan] == [*kinds, steps.StartUnit]
    stamp = plan[4]
    assert isinstance(stamp, steps.WriteFile)
    assert (stamp.path, stamp.text) == (f"/var/lib/systemd/timers/stamp-{APPLY_TIMER}", "")
    assert stamp.path in {step.path for step in plan_unschedule(APPLY_TIMER) if isinstance(step, steps.RemoveFile)}


@pytest.mark.parametrize("when", ["", " ", "daily\nOnBootSec=1", "%n", "daily; rm", "Sun 03:00#", "'daily'"])
def test_a_time_is_no_syntax(when: str, host: FakeHost) -> None:
    with pytest.raises(InvalidValue, match="no time to do something at"):
        schedule.next_time(when, host)


def test_what_systemd_does_not_take_for_a_time_is_none(host: FakeHost) -> None:
    assert schedule.next_time("daily", analyzing(host)) == "Mon 2026-11-23 00:00:00 UTC"
    with pytest.raises(InvalidValue, match="is over"):
        schedule.next_time("2001-01-01", analyzing(host, "never"))
    with pytest.raises(InvalidValue, match="no time"):
        schedule.next_time("someday", analyzing(host, status=1))
    assert host.files.texts == {}


def test_fleet_is_scheduled_and_no_more(host: FakeHost) -> None:
    analyzing(host)
    asyncio.run(schedule.schedule_apply("daily", host, REPORTER))
    assert schedule.apply_time(host) == ("daily", "Mon 2026-11-23 00:00:00 UTC")
    assert host.done == [
        f"stop {APPLY_TIMER}", "reload systemd", f"enable {APPLY_TIMER}", "reload systemd", f"restart {APPLY_TIMER}"
    ]  # fmt: skip
    asyncio.run(schedule.schedule_apply("off", host, REPORTER))
    assert (schedule.apply_time(host), host.files.texts) == (("", ""), {})
    with pytest.raises(NotFound, match="no time is set"):
        asyncio.run(schedule.schedule_apply("off", host, REPORTER))


def test_a_time_that_is_over_is_not_said_to_come(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    for answer, words in (("Mon 2026-11-23 00:00:00 UTC", "next on Mon"), ("never", "2026-11-23 00:00, which is over")):
        asyncio.run(schedule.schedule_apply("2026-11-23 00:00", analyzing(host), REPORTER))
        say_schedule(analyzing(host, answer))  # type: ignore[arg-type]
        assert words in capsys.readouterr().err


def test_updates_are_scheduled_for_each(host: FakeHost) -> None:
    plans = asyncio.run(schedule.schedule_updates(["web", "db"], "daily", analyzing(host), REPORTER, dry_run=True))
    assert [path for plan in plans.values() for path in texts(plan)] == [
        paths.unit_dropin(TIMER), paths.unit_dropin(update_timer("db"))
    ]  # fmt: skip
    assert host.files.texts == {}


def test_machine_takes_its_timer_and_its_copies_along() -> None:
    web = machine()
    host = host_with(web)
    (timer,) = texts(plan_schedule(TIMER, "daily", machine="web")).items()
    volume = Volume("/srv/data", "/srv/.machctl-web-1", "directory")
    record = write_update(Update("web", SAVING, "before-update-1", running=True, volumes=(volume,)))
    killed = replace(host, files={**host.files, timer[0]: timer[1], paths.update_record("web"): record})
    plan = plan_remove("web", killed, {"web": web})
    assert all(step in plan for step in plan_unschedule(TIMER, machine="web", reason="the machine is removed"))
    assert [type(step) for step in plan if isinstance(step, (DropVolume, ForgetUpdate))] == [DropVolume, ForgetUpdate]
    with pytest.raises(Conflict, match="to be taken back"):
        plan_rename("web", "shop", killed, {"web": web})
    named = plan_rename("web", "shop", replace(host, files={**host.files, timer[0]: timer[1]}), {"web": web})
    assert texts(named)[paths.unit_dropin(update_timer("shop"))] == timer[1]
    assert steps.RemoveFile(reason="web is renamed to shop", machine="web", path=timer[0]) in named
