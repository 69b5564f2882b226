# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rollout is told and what is kept of it; and what its stand-ins are to those who look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from machines.model.frozen import NamedTuple, replace
from machines.model.observed import Host as Observed
from machines.model.rollout import REPLACING, Rollout, read_rollout
from machines.model.snapshot import Snapshot
from machines.operations.copies import held, origin_of
from machines.operations.reporter import Reporter
from machines.plan.machine import Copy
from machines.plan.steps import Plan, Step, TakeSnapshot
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


class How(NamedTuple):
    """How a rollout is done: with ``force`` whatever there is to change, waiting ``drain`` seconds for connections to
    end, and ``limit`` seconds for machines to be healthy; as long as their probes are given, where that is None."""

    force: bool = False
    drain: float = 10.0
    limit: float | None = None


def read_state(name: str, host: Host) -> Rollout:
    """Give what is kept of the last rollout of a machine; one that there never was has no phase."""
    text = host.files.read_text(paths.rollout_file(name))
    return (read_rollout(text) if text else None) or Rollout(name)


def copy_of(name: str, observed: Observed, host: Host) -> Copy:
    """Give what the tree of a stand-in is copied from where that of its machine stays; held still as a clone has it."""
    origin = origin_of(name, observed, host)
    return Copy(name, origin, observed.records[name].payload, held=held(name, origin, observed))


def kept_tree(state: Rollout, observed: Observed, host: Host) -> Plan:
    """Give the step that keeps the tree that a machine gives up, where that may have to be gone back to."""
    name, before = state.name, state.current.before
    if state.phase != REPLACING or before is None or not before.snapshot or name not in observed.trees:
        return []
    if before.snapshot in host.storage.snapshots_of(name):
        return []
    origin = origin_of(name, observed, host)
    note = "before its rollout was undone"
    kept = Snapshot(name, before.snapshot, time.time(), origin.storage, origin.base, origin.uid, note)
    return [TakeSnapshot(reason="so that it can be had back", machine=name, snapshot=kept, origin=origin)]


def last_words(name: str, host: Host) -> list[str]:
    """Give the last that the journal of a stand-in has, which goes with it."""
    if name not in host.running():
        return []
    argv = ["journalctl", f"--machine={name}", "--lines=3", "--output=cat", "--no-pager"]
    done = host.tools.run([*argv, "--priority=err"], check=False)
    lines = ("".join(each for each in line if each.isprintable()) for line in done.stdout.splitlines())
    return [line[:200] for line in lines if line.strip()]


class AsMachine(Reporter):
    """Hears of steps of a stand-in as of the machine that it stands in for."""

    def __init__(self, name: str, reporter: Reporter) -> None:
        self._name, self._reporter = name, reporter

    def step(self, step: Step) -> None:
        self._reporter.step(replace(step, machine=self._name))

    def progress(self, machine: str, stage: str, done: int, total: int | None) -> None:
        self._reporter.progress(self._name, stage, done, total)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)

    def quietly(self) -> Reporter:
        return self._reporter.quietly()
