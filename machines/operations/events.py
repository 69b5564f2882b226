# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happened to machines, from the host's journal, and what happens, from signals and state files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from machines.errors import CommandFailed, InvalidValue, NotPermitted
from machines.model.frozen import dataclass
from machines.operations.inspect import STATES

if TYPE_CHECKING:
    from machines.host.interfaces import Host

HEALTH_DIRECTORY = "/run/machctl/health"
HEALTH = ("healthy", "unhealthy", "starting")
PATTERNS = ("systemd-nspawn@*.service", "machctl-*")
# What comes and goes by itself every few seconds.
_QUIET = ("machctl-health@", "machctl-metrics.", "machctl-probe")
_ROUND = _QUIET[0]
_PREFIX, _SUFFIX = "systemd-nspawn@", ".service"

# systemd/sd-messages.h; a unit's own end is told with or without a job that stops it.
_NEW, _GONE = "24d8d4452573402496068381a6312df2", "58432bd3bace477cb514b56381b8a758"
_UNIT_MESSAGES = {
    "7d4958e842da4a758f6c1cdc7b36dcc5": "starting",
    "39f53479d3a045ac8e11786248231fbf": "running",
    "de5b426a63be47a7b6ac3eaac82e2f6f": "stopping",
    "7ad2d189f7e94e70a38c781354912448": "stopped",
    "d9b373ed55a64feb8242e02dbe79a49c": "failed",
    "5eb03494b6584870a536b337290809b3": "restarting",
    "fe6faa94e7774663a0da52717891d8ef": "out-of-memory",
}
_FIELDS = "__REALTIME_TIMESTAMP,MESSAGE_ID,UNIT,UNIT_RESULT,NAME,LEADER,_SYSTEMD_UNIT,MESSAGE"


@dataclass(frozen=True)
class Event:
    """Something that happened ``at`` a moment (seconds since the epoch): ``kind`` is machine, unit or health.

    ``machine`` is empty for a unit of machctl's that is no machine, ``why`` says more where something went wrong.
    """

    at: float
    machine: str
    kind: str
    event: str
    unit: str = ""
    leader: int | None = None
    why: str = ""

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has; those are stable."""
        import datetime

        return {
            "time": datetime.datetime.fromtimestamp(self.at, datetime.UTC).isoformat(timespec="microseconds"),
            "machine": self.machine or None,
            "kind": self.kind,
            "event": self.event,
            "unit": self.unit or None,
            "leader": self.leader,
            "why": self.why or None,
        }


class Tracker:
    """What units and probes were last known to be, to tell what is new."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._units: dict[str, str] = {}
        self._results: dict[str, str] = {}
        self._health = self._read_health()

    def told(self, what: str, name: str, properties: Mapping[str, Any], at: float) -> Iterator[Event]:
        """Give what a message of machines.host.bus.events means."""
        if what == "new":
            entry = self._host.registered().get(name)
            yield Event(at, name, "machine", "registered", entry.unit if entry else "", entry.leader if entry else None)
        elif what == "gone":
            yield Event(at, name, "machine", "gone")
        elif what == "files":
            yield from self._probed(at)
        elif what == "unit" and not name.startswith(_QUIET):
            yield from self._changed(name, properties, at)

    def _changed(self, unit: str, properties: Mapping[str, Any], at: float) -> Iterator[Event]:
        # It comes in a signal of its own, before the state that it is the reason of.
        self._results[unit] = str(properties.get("Result", self._results.get(unit, "")))
        if "ActiveState" not in properties:
            return
        state = state_of(str(properties["ActiveState"]), str(properties.get("SubState", "")))
        before, self._units[unit] = self._units.get(unit), state
        # What is loaded only now was stopped before.
        if state != (before or "stopped"):
            why = self._results[unit] if state in {"failed", "restarting"} else ""
            yield Event(at, machine_of(unit), "unit", state, unit, why="" if why == "success" else why)

    def _probed(self, at: float) -> Iterator[Event]:
        before, self._health = self._health, self._read_health()
        for name, values in self._health.items():
            state = values.get("state", "")
            if state and (state, values.get("leader")) != tuple(map(before.get(name, {}).get, ("state", "leader"))):
                leader = values.get("leader", "")
                yield Event(
                    _seconds(values.get("since", ""), at), name, "health", state,
                    leader=int(leader) if leader.isdigit() else None, why=values.get("why", ""),
                )  # fmt: skip

    def _read_health(self) -> dict[str, dict[str, str]]:
        files = self._host.files.read_files([f"{HEALTH_DIRECTORY}/*"])
        return {
            path.rsplit("/", 1)[1]: dict(line.partition("=")[::2] for line in text.splitlines())
            for path, text in files.items()
        }


def state_of(active: str, sub: str) -> str:
    """Give machctl's word for the state of a unit (org.freedesktop.systemd1(5), ActiveState and SubState)."""
    if active == "activating" and sub.startswith("auto-restart"):
        return "restarting"
    return STATES.get(active, "running" if active == "active" else "stopped")


def machine_of(unit: str) -> str:
    """Give the machine that a unit is, or ""."""
    return unit[len(_PREFIX) : -len(_SUFFIX)] if unit.startswith(_PREFIX) and unit.endswith(_SUFFIX) else ""


def history(host: Host, selection: Sequence[str]) -> list[Event]:
    """Give what the host's journal has, oldest first; ``selection`` are words of journalctl(1): --since=, --boot.

    Raises InvalidValue for a time that is none, NotPermitted for whoever may not read what the system says there,
    CommandFailed where the journal cannot be read.
    """
    if os.geteuid() != 0:
        _check_permitted(host)
    journalctl = ("journalctl", "--quiet", "--no-pager", "--output=json", f"--output-fields={_FIELDS}", *selection)
    ids = [f"MESSAGE_ID={number}" for number in _UNIT_MESSAGES]
    units = [f"--unit={pattern}" for pattern in PATTERNS]
    texts = [
        _read(host, [*journalctl, *units, "_PID=1", *ids]),
        _read(
            host, [*journalctl, "_SYSTEMD_UNIT=systemd-machined.service", f"MESSAGE_ID={_NEW}", f"MESSAGE_ID={_GONE}"]
        ),
        # What a round of probes says itself, not what is said of its start (operations.health).
        _read(host, [*journalctl, f"--unit={_ROUND}*.service", "_TRANSPORT=stdout"]),
    ]
    return sorted((event for text in texts for event in from_journal(text.splitlines())), key=lambda event: event.at)


def _check_permitted(host: Host) -> None:
    # journalctl(1) shows a user's own entries and no others without an error; it says so unless it is to be quiet.
    said = host.tools.run(["journalctl", "--no-pager", "--lines=0"], check=False).stderr
    if "insufficient permissions" in said or "not seeing messages" in said:
        raise NotPermitted("the journal of this host needs root", hint="run it again with sudo")


def _read(host: Host, argv: Sequence[str]) -> str:
    """Give what journalctl prints. No entry at all may be a failure to it, of which it then says nothing."""
    done = host.tools.run(argv, check=False)
    said = done.stderr.strip()
    # ENODATA: a pattern of units of which the journal has none yet (add_units() of journalctl).
    if not done.returncode or not said or said.endswith("No data available"):
        return done.stdout
    if "timestamp" in said:
        since = next((word.removeprefix("--since=") for word in argv if word.startswith("--since=")), "")
        raise InvalidValue(f"{since!r} is no time", hint="as in yesterday, -1h or '2026-01-31 12:00' (systemd.time(7))")
    raise CommandFailed(f"the journal of this host cannot be read: {said.splitlines()[0]}")


def from_journal(lines: Iterable[str]) -> Iterator[Event]:
    """Read entries of the journal, one JSON object a line; what is no event is passed over."""
    import json

    for line in lines:
        entry = json.loads(line)
        at, number = int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6, entry.get("MESSAGE_ID")
        unit = str(entry.get("UNIT", ""))
        if number in {_NEW, _GONE}:
            leader = str(entry.get("LEADER", ""))
            yield Event(
                at, str(entry.get("NAME", "")), "machine", "registered" if number == _NEW else "gone",
                leader=int(leader) if leader.isdigit() and number == _NEW else None,
            )  # fmt: skip
        elif str(entry.get("_SYSTEMD_UNIT", "")).startswith(_ROUND):
            yield from _from_round(at, str(entry.get("MESSAGE", "")))
        elif number in _UNIT_MESSAGES and unit and not unit.startswith(_QUIET):
            yield Event(
                at, machine_of(unit), "unit", _UNIT_MESSAGES[number], unit, why=str(entry.get("UNIT_RESULT", ""))
            )


def _from_round(at: float, message: str) -> Iterator[Event]:
    """Read what a round of probes says: "machine web is unhealthy: connection refused"."""
    start, _, said = message.partition(" is ")
    state, _, why = said.partition(": ")
    # What is done about it is an event of the unit.
    if start.startswith("machine ") and state in HEALTH and why not in {"restart it", "stop it"}:
        yield Event(at, start.removeprefix("machine "), "health", state, why=why)


def _seconds(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise
