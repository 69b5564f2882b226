# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whoever has just been started is waited for until it is healthy, or known not to be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.errors import CommandFailed, NotRunning
from machines.model.health import HEALTHY, STARTING, UNHEALTHY, Health, State, write_state
from machines.operations import waiting
from machines.render import paths
from machines.render.health import health_files
from samples import machine

HEALTH = Health("tcp", ("80",), start_period=0, interval=1, timeout=1, retries=1)


class Watched(FakeHost):
    """A host on which a machine has one state of health after the other, each of which is an event."""

    def __init__(self, *states: str) -> None:
        super().__init__()
        self.states = list(states)
        files = health_files(machine("web", health=HEALTH), header="# h", payload=None)
        self.files.texts[paths.probe_file("web")] = files[paths.probe_file("web")]
        self.reading, self.writing = os.pipe2(os.O_NONBLOCK)
        self.next()

    def next(self) -> None:
        if self.states:
            state = State(self.states.pop(0), 1.0, 7, 0, "port 80: no")
            self.files.texts[paths.health_file("web")] = write_state(state)
            os.write(self.writing, b"x")

    def registered(self) -> dict[str, Any]:
        text = self.files.texts.get(paths.health_file("web"), "")
        return {} if "gone" in text else {"web": SimpleNamespace(name="web", unit="", leader=7)}

    @contextmanager
    def watch(self, unit: str) -> Iterator[Any]:
        def take() -> None:
            with suppress(BlockingIOError):
                os.read(self.reading, 1)
                self.next()

        yield SimpleNamespace(filenos=lambda: [self.reading], take=take)
        os.close(self.reading)
        os.close(self.writing)


def wait(host: Watched) -> None:
    asyncio.run(waiting.await_well("web", HEALTH, host))  # type: ignore[arg-type]


def test_it_is_waited_for() -> None:
    wait(Watched(STARTING, STARTING, HEALTHY))


def test_one_that_is_unhealthy_or_ends_is_not_waited_for() -> None:
    with pytest.raises(CommandFailed, match="machine web is unhealthy: port 80: no"):
        wait(Watched(STARTING, UNHEALTHY))
    with pytest.raises(NotRunning, match="ended before"):
        wait(Watched(STARTING, "gone"))


def test_one_that_never_says_anything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_SLACK_SECONDS", -1.9)
    with pytest.raises(CommandFailed, match=r"is not healthy 0\.1 seconds after its start"):
        wait(Watched(STARTING))
