# SPDX-License-Identifier: LGPL-2.1-or-later
"""How it is told whether a machine does its work: the probe that is declared, and what is made of its results."""

from __future__ import annotations

from machines.model.frozen import NamedTuple, dataclass

KINDS = ("exec", "tcp", "http", "unit", "file")
ACTIONS = ("none", "restart", "stop")

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

# What is kept of the results of one machine.
KEPT = 5

# Once a machine runs it is looked at often until it is healthy for the first time; times in seconds.
FIRST, SLOWER, SLOWEST = 0.1, 1.5, 2.0


@dataclass(frozen=True)
class Health:
    """A probe of a machine. All times are in seconds.

    ``target`` is the command for ``kind`` "exec"; a port for "tcp"; a port and a path for "http"; the name of a unit in
    the machine for "unit"; a path in it for "file". While it starts, failures count from ``start_period`` on. With
    ``retries`` failures in a row it is unhealthy, and then ``on_failure`` is done: "none", "restart" or "stop".
    """

    kind: str
    target: tuple[str, ...]
    start_period: int = 30
    interval: int = 10
    timeout: int = 5
    retries: int = 3
    on_failure: str = "none"

    def __str__(self) -> str:
        match self.kind:
            case "http":
                return f"http {self.target[0]}{self.target[1]}"
            case "exec" if self.target[:2] == SHELL and len(self.target) == 3:
                return f"exec {self.target[2]}"
        return f"{self.kind} {' '.join(self.target)}"


# What a command that is one string is run by.
SHELL = ("/bin/sh", "-c")


class Outcome(NamedTuple):
    """What came of one probe: how long it took, and what there is to say of it, one printable line."""

    ok: bool
    seconds: float
    said: str


class State(NamedTuple):
    """The health of a machine that process ``leader`` leads, since ``since`` (seconds since the epoch).

    ``failures`` is how many probes in a row have failed, ``why`` what the last one said.
    """

    state: str
    since: float
    leader: int
    failures: int = 0
    why: str = ""


def judge(state: State, health: Health, outcome: Outcome, now: float) -> State:
    """Give what becomes of the health of a machine by the outcome of a probe at ``now``."""
    if outcome.ok:
        if state.state == HEALTHY:
            return state._replace(failures=0, why="")
        return State(HEALTHY, now, state.leader)
    if state.state == STARTING and now - state.since < health.start_period:
        return state._replace(why=outcome.said)
    failures = state.failures + 1
    if state.state != UNHEALTHY and failures >= health.retries:
        return State(UNHEALTHY, now, state.leader, failures, outcome.said)
    return state._replace(failures=failures, why=outcome.said)


def calls_for(state: State, health: Health) -> str:
    """Give what is to be done about a machine after a probe of it failed: "restart", "stop", or "" for nothing.

    Where it could not be done, it is asked for again after as many failures more.
    """
    if state.state != UNHEALTHY or health.on_failure == "none" or (state.failures - health.retries) % health.retries:
        return ""
    return health.on_failure


def next_probe(state: State, health: Health, began: float, pause: float) -> tuple[float, float]:
    """Give when to probe again, after a probe that began at ``began``, and the pause that was made of that.

    A machine that is starting is looked at often at first, then less and less.
    """
    if state.state == STARTING and began - state.since < health.start_period:
        longer = min(pause * SLOWER if pause else FIRST, SLOWEST, health.interval)
        return began + longer, longer
    return began + health.interval, 0.0


def write_state(state: State) -> str:
    """Give the text of a state file: KEY=VALUE lines."""
    return (
        f"state={state.state}\nsince={state.since:.3f}\nleader={state.leader}\nfailures={state.failures}\n"
        f"why={state.why}\n"
    )


def read_state(text: str) -> State | None:
    """Read a state file; None where it is none."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        return State(
            values["state"], float(values["since"]), int(values["leader"]), int(values["failures"]), values["why"]
        )
    except (KeyError, ValueError):
        return None
