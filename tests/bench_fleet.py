# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside a throwaway host: a fleet of 30 machines from one file, beside machinectl, podman and Incus.

The floor of a start is what the machines themselves need of the processors until they are up, divided by these. Run
with the word prepare, it only has everybody ready.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import POOL, Failed, compare, head, report, sh
from bench_tools import KIND, MACHCTL, Incus, Podman

FILE, MANY = Path("/root/fleet.toml"), Path("/root/many.toml")
ROUNDS = 3
AT_ONCE = 4
MACHINES = 30
DECLARED = 200
FLEET = """\
[defaults]
source = "debian:trixie"
autostart = true
health = { unit = "dbus.service" }

[networks.data]
[networks.app]
[networks.web]

[machines.data]
replicas = 4
bridges = ["data"]

[machines.app]
replicas = 10
bridges = ["app", "data"]
after = ["data-1:healthy", "data-2"]

[machines.web]
replicas = 16
bridges = ["web", "app"]
after = ["app-1"]
publish = ["90{index}:80"]
"""
MANY_OF_THEM = f"""\
[networks.many]
subnet = "10.88.0.0/20"
[machines.many]
source = "debian:trixie"
bridges = ["many"]
replicas = {DECLARED}
memory = "512M"
"""


def members() -> list[str]:
    """Give the names of the fleet's machines."""
    groups = (("data", 4), ("app", 10), ("web", 16))
    return [f"{group}-{number}" for group, count in groups for number in range(1, count + 1)]


def processor_seconds(names: list[str]) -> float:
    """Give what the machines have taken of the processors since their start."""
    total = 0
    for name in names:
        text = Path(f"/sys/fs/cgroup/machine.slice/systemd-nspawn@{name}.service/cpu.stat").read_text()
        total += int(text.split()[1])
    return total / 1_000_000


def timed(command: str) -> float:
    """Run what starts the fleet. Raises Failed if one of it does not run then."""
    took = sh(command)
    missing = set(members()).difference(os.listdir("/run/systemd/machines"))
    if missing:
        raise Failed(f"{command}: not running afterwards: {' '.join(sorted(missing))}")
    return took


def remove() -> None:
    """Have nothing of the fleet left, the bases kept."""
    there = set(members()).intersection(os.listdir(POOL))
    if there:
        sh(f"machctl rm --force {' '.join(sorted(there))}")


def measure(tools: list[Podman | Incus]) -> None:
    """Make and start the fleet in rounds, and each peer's after it."""
    names = members()
    walls, floors, loops = [], [], []
    for _ in range(ROUNDS):
        remove()
        FILE.write_text(FLEET)
        walls.append(timed(f"machctl apply -f {FILE}"))
        floors.append(processor_seconds(names) / len(os.sched_getaffinity(0)))
        sh(f"machctl down -f {FILE}")
        loops.append(timed("sh -c 'for name in " + " ".join(names) + "; do machinectl start $name || exit; done'"))
    report(f"apply of {MACHINES} / boot CPU", milliseconds(walls), milliseconds(floors), limit=1.15)
    report(f"apply of {MACHINES} / machinectl start", milliseconds(walls), milliseconds(loops), limit=1)
    sh(f"machctl apply -f {FILE}")
    compare(f"apply of {MACHINES} again / version", f"machctl apply -f {FILE}", "machctl version", rounds=15, limit=4)
    remove()
    for tool in tools:
        theirs = [launch(tool) for _ in range(ROUNDS)]
        report(f"apply of {MACHINES} / {tool.name}", milliseconds(walls), milliseconds(theirs), limit=1)
    MANY.write_text(MANY_OF_THEM)
    compare(f"plan of {DECLARED} / version", f"machctl plan -f {MANY}", "machctl version", rounds=9, limit=6)


def launch(tool: Podman | Incus) -> float:
    """Create and start as many machines of a peer, some at a time, and wait until all are up."""
    sh(tool.leftovers, check=False)
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(tool.launch, members()))
    took = time.perf_counter() - began
    sh(tool.leftovers, check=False)
    return took


def milliseconds(values: list[float]) -> float:
    return statistics.median(values) * 1000


if __name__ == "__main__":
    peers: list[Podman | Incus] = [Podman(), Incus()]
    for tool in (MACHCTL, *peers):
        tool.prepare()
    remove()
    if sys.argv[1:] != ["prepare"]:
        head(f"a fleet, {KIND}", "other")
        measure(peers)
