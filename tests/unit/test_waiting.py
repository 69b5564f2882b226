# SPDX-License-Identifier: LGPL-2.1-or-later
"""What waits for a machine to become healthy, to run or to end."""

from __future__ import annotations

import asyncio
import time

import pytest

from fakehealth import HTTP, LEADER, OK, host
from machines.errors import CommandFailed, InvalidValue, NotRunning, TimedOut
from machines.model.frozen import replace
from machines.model.health import UNHEALTHY, State, write_state
from machines.operations.waiting import await_healthy, has_become, wait_until
from machines.render import paths

pytestmark = pytest.mark.usefixtures("its_clock")


def test_waiting_ends_with_what_is_waited_for() -> None:
    there = host(OK)
    there.meanwhile = lambda: there.round() and None
    wait_until("web", "healthy", there, timeout=5)
    assert there.closed == 2
    there.meanwhile = lambda: None
    with pytest.raises(TimedOut, match="runs after 5 seconds, and is not stopped"):
        wait_until("web", "stopped", there, timeout=5)
    there.files.texts[paths.health_file("web")] = write_state(State(UNHEALTHY, 1, LEADER, 2, "refused"))
    with pytest.raises(TimedOut, match="is unhealthy after 5 seconds: refused"):
        wait_until("web", "healthy", there, timeout=5)
    there.active.add("systemd-nspawn@web.service")
    assert has_become("web", "running", there)
    there.leaders.clear()
    there.active.clear()
    assert has_become("web", "stopped", there)
    assert not has_become("web", "running", there)
    with pytest.raises(InvalidValue, match="no probe"):
        wait_until("db", "healthy", there, timeout=5)


@pytest.mark.parametrize(("on_failure", "seconds"), [("none", 30), ("restart", 280)])
def test_what_waits_to_start_gives_up_one_that_nobody_mends(on_failure: str, seconds: int) -> None:
    there = host(OK, web=replace(HTTP, on_failure=on_failure))
    there.files.texts[paths.health_file("web")] = write_state(State(UNHEALTHY, 1, LEADER, 2, "refused"))
    began = time.monotonic()
    with pytest.raises(CommandFailed if seconds == 30 else TimedOut, match="web is unhealthy"):
        wait_until("web", "healthy", there, timeout=280, give_up=True)
    assert time.monotonic() - began == pytest.approx(seconds, abs=5)


def test_waiting_in_a_loop_ends_with_the_machine() -> None:
    there = host(OK)
    there.round()
    asyncio.run(await_healthy("web", there))
    there.leaders.clear()
    with pytest.raises(NotRunning):
        asyncio.run(await_healthy("web", there))
