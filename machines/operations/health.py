# SPDX-License-Identifier: LGPL-2.1-or-later
"""The health of machines: what it is, and the rounds in which all that are due are probed.

A round is a short process that systemd starts by a timer (units/machctl-health@.timer), one for all machines with the
same interval: what systemd does to start a service costs ten times what most probes do. While a machine starts, the
round goes on, so that it is known at once when it is healthy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from machines.errors import MachctlError
from machines.model.base import Payload
from machines.model.frozen import NamedTuple
from machines.model.health import (
    KEPT,
    STARTING,
    UNHEALTHY,
    Health,
    Outcome,
    State,
    calls_for,
    judge,
    next_probe,
    read_state,
    write_state,
)
from machines.model.names import machine_lock, machine_unit, waiting_lock
from machines.render import paths
from machines.render.health import read_probe

if TYPE_CHECKING:
    from machines.host.interfaces import Host, Prober

# How early a machine may be probed by a round that another machine's start began, as a part of its interval.
_EARLY = 0.5
_LOOK_SECONDS = 0.25
# What runs faster or slower than the other clock by less than that between two looks was not set.
_STEP_SECONDS = 1.0

# systemd(1), "Units": nspawn passes on that its machine shuts down, so that this is "deactivating" as well.
_RUNS, _ENDING = {"active", "reloading"}, {"deactivating", "inactive", "failed"}

Say = Callable[[str], None]


def health_of(name: str, leader: int | None, host: Host) -> str:
    """Give "healthy", "unhealthy" or "starting"; "" for a machine that has no probe or does not run (no ``leader``)."""
    if leader is None:
        return ""
    state = state_of(name, leader, host)
    if state is not None:
        return state.state
    return STARTING if host.files.read_text(paths.probe_file(name)) is not None else ""


def state_of(name: str, leader: int, host: Host) -> State | None:
    """Give the health of a machine as it is known; None where nothing is known of it since it was started."""
    text = host.files.read_text(paths.health_file(name))
    state = read_state(text) if text else None
    return state if state is not None and state.leader == leader else None


def probe_of(name: str, host: Host) -> tuple[Health, Payload | None] | None:
    """Give the probe of a machine, and what the machine runs without an init; None where it has no probe."""
    text = host.files.read_text(paths.probe_file(name))
    return read_probe(text) if text else None


def results_of(name: str, host: Host) -> list[dict[str, object]]:
    """Give what the last probes of a machine said, oldest first: at (seconds since the epoch), ok, ms, said."""
    text = host.files.read_text(paths.results_file(name)) or ""
    found = []
    for line in text.splitlines():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found


def describe_health(name: str, host: Host) -> dict[str, object]:
    """Give all that is known of the health of a machine."""
    entry = host.registered().get(name)
    leader = entry.leader if entry else None
    state = state_of(name, leader, host) if leader is not None else None
    probe = probe_of(name, host)
    health = probe[0] if probe else None
    return {
        "name": name,
        "health": health_of(name, leader, host) or None,
        "since": state.since if state else None,
        "failures": state.failures if state else 0,
        "why": state.why or None if state else None,
        "probe": str(health) if health else None,
        "start_period": health.start_period if health else None,
        "interval": health.interval if health else None,
        "timeout": health.timeout if health else None,
        "retries": health.retries if health else None,
        "on_failure": health.on_failure if health else None,
        "results": results_of(name, host) if leader is not None else [],
    }


class _Probed(NamedTuple):
    """A machine of a round: when it is probed next (by the monotonic clock), and the pause before that.

    ``text`` is what its probe was read from, and ``had`` tells whether it has had its turn in this round.
    """

    text: str
    health: Health
    payload: Payload | None
    state: State
    due: float
    had: bool = False
    pause: float = 0.0


class Round:
    """Probes of all machines that run and that are to be probed every ``interval`` seconds."""

    def __init__(self, interval: int, host: Host, say: Say) -> None:
        self._interval = interval
        self._host = host
        self._say = say
        self._machines: dict[str, _Probed] = {}
        self._booting: set[str] = set()
        self._looked = 0.0
        self._ahead = time.time() - time.monotonic()

    def run(self) -> None:
        """Probe each that is due once, and those that are starting until they are healthy, or no longer starting."""
        prober = self._host.prober()
        try:
            self._look(first=True)
            while self._unfinished(prober):
                self._begin(prober)
                outcomes = prober.wait(self._pause(prober))
                self._follow_clock()
                leaders = self._leaders() if outcomes else {}
                for name, outcome in outcomes:
                    self._take(name, outcome, leaders.get(name))
                self._look(first=False)
        finally:
            prober.close()
        self._sweep()

    def _look(self, *, first: bool) -> None:
        """Take note of machines that have come and gone, and of those that boot, unless that was done just now."""
        if not first and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        registered = self._host.registered()
        for name, entry in registered.items():
            known = self._machines.get(name)
            text = self._host.files.read_text(paths.probe_file(name)) or ""
            if known is not None and known.state.leader == entry.leader and known.text == text:
                continue
            self._machines.pop(name, None)
            probe = read_probe(text)
            if probe is None or probe[0].interval != self._interval:
                continue
            state, due, had = state_of(name, entry.leader, self._host), time.monotonic(), False
            if state is None:
                state = State(STARTING, time.time(), entry.leader)
                self._host.files.write_file(paths.health_file(name), write_state(state))
            elif first and self._fresh(name):
                due, had = due + self._interval, True
            self._machines[name] = _Probed(text, *probe, state, due, had)
        for name in self._machines.keys() - registered.keys():
            del self._machines[name]
        starting = {name: machine_unit(name) for name, each in self._machines.items() if each.state.state == STARTING}
        states = self._host.units.states(list(starting.values())) if starting else {}
        self._booting = {name for name, unit in starting.items() if states.get(unit) == "activating"}

    def _leaders(self) -> dict[str, int]:
        return {name: entry.leader for name, entry in self._host.registered().items()}

    def _follow_clock(self) -> None:
        """Where the clock was set meanwhile, or the host slept, the times at which machines started move along."""
        ahead = time.time() - time.monotonic()
        step, self._ahead = ahead - self._ahead, ahead
        for name, each in self._machines.items() if abs(step) > _STEP_SECONDS else ():
            if each.state.state == STARTING:
                state = each.state._replace(since=each.state.since + step)
                self._machines[name] = each._replace(state=state)
                self._host.files.write_file(paths.health_file(name), write_state(state))

    def _fresh(self, name: str) -> bool:
        """Tell whether a machine was probed just now: what began this round is another machine that started."""
        results = results_of(name, self._host)
        elapsed = time.time() - float(str(results[-1].get("at", 0))) if results else -1.0
        # A clock that was set back says nothing.
        return 0 <= elapsed < self._interval * _EARLY

    def _begin(self, prober: Prober) -> None:
        now, goes_on = time.monotonic(), self._goes_on()
        for name, each in self._machines.items():
            # Before it has booted there is nothing to find, at the price of what boots.
            if each.due > now or name in self._booting or prober.busy(name) or (each.had and not goes_on):
                continue
            if each.state.state == STARTING and not each.state.why and not self._in_start_period(each):
                # It took long to boot: its start period begins with the first probe.
                each = each._replace(state=each.state._replace(since=time.time()))
                self._host.files.write_file(paths.health_file(name), write_state(each.state))
            due, pause = next_probe(each.state, each.health, time.time(), each.pause)
            self._machines[name] = each._replace(due=now + due - time.time(), pause=pause, had=True)
            if self._host.freezer.is_paused(name):
                continue
            # Somebody holds it still to copy it, or is about to stop it; or waits for what comes of this.
            if not self._host.files.is_locked(machine_lock(name)) or self._host.files.is_locked(waiting_lock(name)):
                prober.begin(name, each.health, each.state.leader, payload=each.payload)

    def _pause(self, prober: Prober) -> float:
        """Give how long there is nothing to do but to wait for outcomes; others may start in the meantime."""
        now, goes_on = time.monotonic(), self._goes_on()
        idle = [
            each.due - now
            for name, each in self._machines.items()
            if not prober.busy(name) and name not in self._booting and (goes_on or not each.had)
        ]
        return max(min([_LOOK_SECONDS, *idle]), 0)

    def _take(self, name: str, outcome: Outcome, leader: int | None) -> None:
        """Judge a machine, which ``leader`` leads now, by what came of its probe; keep that, do what is called for."""
        each = self._machines.get(name)
        if each is None or leader != each.state.leader:
            return
        if self._host.files.read_text(paths.probe_file(name)) != each.text:
            # It has been removed meanwhile, or is to be probed otherwise.
            del self._machines[name]
            return
        known = each.state
        if each.state.since > time.time():
            # The clock was set back: it began now, not at some time to come.
            each = each._replace(state=each.state._replace(since=time.time()))
        unit = "active" if outcome.ok else self._unit_state(name)
        if unit in _ENDING or (not outcome.ok and self._host.freezer.is_paused(name)):
            # It was told to stop or to pause, by whomever: no failure, and nothing to be done about.
            return
        starts = each.state.state == STARTING and time.time() - each.state.since >= each.health.start_period
        if not outcome.ok and starts and unit == "activating":
            # It has not finished booting: its start period is yet to come.
            state = State(STARTING, time.time(), each.state.leader)
        else:
            state = judge(each.state, each.health, outcome, time.time())
        self._machines[name] = each._replace(state=state)
        self._keep_result(name, outcome)
        if (*state[:4], bool(state.why)) != (*known[:4], bool(known.why)):
            self._host.files.write_file(paths.health_file(name), write_state(state))
        if state.state != each.state.state:
            why = f": {state.why}" if state.why and state.state == UNHEALTHY else ""
            self._say(f"machine {name} is {state.state}{why}")
        if not outcome.ok and unit in _RUNS:
            self._act(name, calls_for(state, each.health))

    def _act(self, name: str, action: str) -> None:
        if not action or self._host.files.is_locked(machine_lock(name)):
            return
        self._say(f"machine {name} is unhealthy: {action} it")
        try:
            self._host.units.dispatch(action, machine_unit(name))
        except MachctlError as error:
            # Its unit may be masked; the others are judged all the same.
            self._say(f"machine {name}: {error.message}")

    def _unit_state(self, name: str) -> str:
        unit = machine_unit(name)
        return self._host.units.states([unit]).get(unit, "")

    def _keep_result(self, name: str, outcome: Outcome) -> None:
        result = {"at": round(time.time(), 3), "ok": outcome.ok, "ms": round(outcome.seconds * 1000, 1)}
        lines = [*results_of(name, self._host), {**result, "said": outcome.said}][-KEPT:]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._host.files.write_file(paths.results_file(name), text)

    def _unfinished(self, prober: Prober) -> bool:
        """Tell whether a probe is under way, or yet to come in this round."""
        return self._goes_on() or any(
            prober.busy(name) or not (each.had or name in self._booting) for name, each in self._machines.items()
        )

    def _goes_on(self) -> bool:
        """Tell whether a machine is starting that has its start period before it: others have another turn then."""
        return any(each.state.state == STARTING and self._in_start_period(each) for each in self._machines.values())

    def _in_start_period(self, each: _Probed) -> bool:
        return time.time() - each.state.since < each.health.start_period

    def _sweep(self) -> None:
        """Remove what is left of machines that were removed while they were probed."""
        found = self._host.files.read_files([f"{paths.HEALTH_DIRECTORY}/*", f"{paths.RESULTS_DIRECTORY}/*"])
        for path in found:
            if self._host.files.read_text(paths.probe_file(path.rsplit("/", 1)[1])) is None:
                self._host.files.remove_file(path)


def health_row(values: Mapping[str, object]) -> dict[str, object]:
    """Give what a table shows of describe_health()."""
    results = values["results"]
    last = results[-1] if isinstance(results, list) and results else {}
    return {**values, "took": f"{last['ms']} ms" if "ms" in last else None, "said": last.get("said") or None}
