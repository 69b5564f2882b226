# SPDX-License-Identifier: LGPL-2.1-or-later
"""A job that ended before anybody listened: the state of its unit says how, or it is done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from machines.errors import CommandFailed

# dbus-next imports gi where that is installed.
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")

UNIT = "web.service"


@pytest.mark.parametrize(
    ("verb", "state", "again"),
    [
        ("start", "active", []),
        ("stop", "inactive", []),
        ("stop", "failed", []),
        ("stop", "active", [f"StopUnit {UNIT}"]),
        ("reload-or-restart", "active", [f"ReloadOrRestartUnit {UNIT}"]),
    ],
)
def test_how_a_job_ended_that_is_no_more(
    monkeypatch: pytest.MonkeyPatch, verb: str, state: str, again: list[str]
) -> None:
    assert asked(monkeypatch, verb, state) == again


def test_a_start_that_failed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandFailed):
        asked(monkeypatch, "start", "failed")


def asked(monkeypatch: pytest.MonkeyPatch, verb: str, state: str) -> list[str]:
    from machines.host.bus import jobs

    found: list[str] = []

    @asynccontextmanager
    async def watching() -> AsyncIterator[SimpleNamespace]:
        async def connected() -> None:
            """No connection."""

        yield SimpleNamespace(connected=connected)

    async def exists(bus: object, job: str) -> bool:
        return False

    async def unit_property(bus: object, unit: str, interface: str, name: str) -> str:
        return state if name == "ActiveState" else "exit-code"

    async def run_job(member: str, unit: str) -> None:
        found.append(f"{member} {unit}")

    monkeypatch.setattr(jobs, "_watching", watching)
    monkeypatch.setattr(jobs, "_exists", exists)
    monkeypatch.setattr(jobs, "_unit_property", unit_property)
    monkeypatch.setattr(jobs, "run_job", run_job)
    asyncio.run(jobs.wait(verb, UNIT, "/job/7"))
    return found
