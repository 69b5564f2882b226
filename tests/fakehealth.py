# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory whose machines are probed, and its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from fakes import FakeHost
from machines.model.health import Health, Outcome
from machines.operations.health import Round, health_of
from machines.render import paths
from machines.render.health import health_files
from samples import machine

HTTP = Health("http", ("80", "/"), interval=10, retries=2, on_failure="restart")
OK, FAILED = Outcome(ok=True, seconds=0.002, said="200 OK"), Outcome(ok=False, seconds=0.002, said="refused")
LEADER = 4711


class FakeProber:
    """What comes of each probe is said by ``answers``, one after the other; time passes while it waits."""

    def __init__(self, host: HealthHost) -> None:
        self.host = host
        self.begun: list[str] = []
        self.done: list[tuple[str, Outcome]] = []
        self.slow = 0.0

    def begin(self, name: str, health: Health, leader: int, *, payload: Any = None) -> None:
        # It may have ended since somebody looked.
        assert leader == self.host.leaders.get(name, leader)
        self.begun.append(name)
        self.done.append((name, next(self.host.answers)))

    def busy(self, name: str) -> bool:
        return any(name == each for each, _ in self.done)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        # One at a time, each of which takes its time.
        done, self.done = self.done[:1], self.done[1:]
        self.host.now += self.slow
        if not done:
            self.host.now += seconds + 0.001
            self.host.meanwhile()
        return done

    def close(self) -> None:
        self.host.closed += 1


class HealthHost(FakeHost):
    """A host whose machines, by their leaders, have probes, and a clock."""

    def __init__(self, *answers: Outcome, **machines: Health) -> None:
        super().__init__()
        self.leaders = dict.fromkeys(machines, LEADER)
        self.answers: Iterator[Outcome] = iter(answers)
        self.now = 1_000_000.0
        self.ahead = 0.0
        self.closed = 0
        self.said: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.units.dispatch = lambda verb, unit: self.call(f"{verb} {unit}")
        self.units.states = lambda patterns: dict.fromkeys(patterns if self.leaders else (), "active")
        self.tried = FakeProber(self)
        for name, health in machines.items():
            self.probed(name, health)

    def probed(self, name: str, health: Health) -> None:
        made = machine(name, health=health)
        header = paths.machine_header(name, made.origin)
        self.files.texts |= health_files(made, header=header, payload=None)

    def registered(self) -> dict[str, Any]:
        return {
            name: SimpleNamespace(name=name, leader=leader, unit=f"systemd-nspawn@{name}.service")
            for name, leader in self.leaders.items()
        }

    def prober(self) -> FakeProber:
        return self.tried

    def watch(self, unit: str) -> Any:
        return FakeEvents(self)

    def health(self, name: str = "web") -> str:
        return health_of(name, self.leaders.get(name), self)

    def round(self, interval: int = 10) -> str:
        Round(interval, self, self.said.append).run()
        return self.health()


class FakeEvents:
    """Whatever is waited for, what the host does meanwhile is an event."""

    def __init__(self, host: HealthHost) -> None:
        self.host = host

    def __enter__(self) -> FakeEvents:
        return self

    def __exit__(self, *exc: object) -> None:
        self.host.closed += 1

    def filenos(self) -> list[int]:
        return []

    def wait(self, seconds: float | None) -> None:
        self.host.now += min(seconds or 1, 1)
        self.host.meanwhile()

    def take(self) -> None:
        pass


clock = SimpleNamespace(now=0.0, ahead=0.0)


def host(*answers: Outcome, **machines: Health) -> HealthHost:
    """Give a host that the clock of this test is that of."""
    global clock
    clock = made = HealthHost(*answers, **machines or {"web": HTTP})  # type: ignore[assignment]
    return made
