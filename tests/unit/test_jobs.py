# SPDX-License-Identifier: LGPL-2.1-or-later
"""A job that takes a moment is waited for without asyncio; what takes longer, and what is one of many, is not."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from machines.cli.jobs import Jobs
from machines.cli.running import run
from machines.errors import CommandFailed
from machines.host import bus

UNIT = "machctl-bridge@br0.service"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of systemd inside of the loop."""
    found: list[str] = []

    async def run_job(member: str, unit: str) -> None:
        found.append(f"{member} {unit}")

    async def wait(verb: str, unit: str, job: str) -> None:
        found.append(f"wait {verb} {unit} {job}")

    there = SimpleNamespace(run_job=run_job, wait=wait)
    monkeypatch.setitem(sys.modules, "machines.host.bus.jobs", there)
    monkeypatch.setattr(bus, "jobs", there, raising=False)
    return found


def units(job: str | Exception) -> Any:
    calls: list[str] = []

    def run_job(verb: str, unit: str, *, timeout: float) -> str:
        calls.append(f"{verb} {unit}")
        if isinstance(job, Exception):
            raise job
        return job

    return SimpleNamespace(run_job=run_job, calls=calls)


def test_a_moment_is_waited_for_at_once(asked: list[str]) -> None:
    there = units("")
    run(Jobs(there).start(UNIT), timeout=None, what="start", quick=True)
    run(Jobs(there).stop(UNIT), timeout=None, what="stop", quick=True)
    assert there.calls == [f"start {UNIT}", f"stop {UNIT}"]
    assert asked == []


def test_what_takes_longer_can_be_interrupted_from_then_on(asked: list[str]) -> None:
    run(Jobs(units("/job/7")).start(UNIT), timeout=None, what="start", quick=True)
    run(Jobs(units("/job/7")).stop(UNIT), timeout=None, what="stop", quick=True)
    assert asked == [f"wait start {UNIT} /job/7", f"wait stop {UNIT} /job/7"]


def test_what_fails_is_not_tried_again(asked: list[str]) -> None:
    with pytest.raises(CommandFailed):
        run(Jobs(units(CommandFailed("no"))).start(UNIT), timeout=None, what="start", quick=True)
    assert asked == []


def test_others_get_their_turn(asked: list[str]) -> None:
    there = units("")
    asyncio.run(Jobs(there).start(UNIT))
    assert there.calls == []
    assert asked == [f"StartUnit {UNIT}"]
