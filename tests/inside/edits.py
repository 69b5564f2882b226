# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring a host to one file after the other, sometimes with a kill in the middle, and see whether it is there then.

Runs in a throwaway host: each line of stdin is a JSON object, the file and what it means; each line of stdout what was
found wrong, and how long it took.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equals import Wanted, differences, leaders
from inventory import call, kill_session, listing

FILE = Path("/etc/machctl/fleet.toml")
MARK = Path("/var/lib/machctl/applying.json")
SCRATCH = Path("/root/edits")
APPLY = ("--yes", "apply", "--prune", "--purge", "--recreate")
PLAN = ("plan", "--prune", "--purge", "--recreate")

COSTS = {"restart", "recreate", "create", "remove"}
"""What a machine does not live through."""


class Edits:
    """The host, and what is known of it from one edit to the next."""

    def __init__(self) -> None:
        self.before = listing()
        # How long apply takes, as far as is known, where machines start and where none does.
        self.seconds = {True: 1.0, False: 0.3}
        self.since_gc = 0
        for name in "ab":
            write_archive(SCRATCH / f"{name}.tar", name)

    def do(self, edit: dict[str, Any]) -> dict[str, Any]:
        """Do what an edit says; give what was found wrong."""
        began = time.monotonic()
        self.wrong: list[str] = []
        self.steps: list[str] = []
        self.times: dict[str, float] = {}
        if edit["text"]:
            FILE.write_text(edit["text"])
        else:
            FILE.unlink(missing_ok=True)
        try:
            if edit["mode"] != "written":
                self._apply(edit)
        except Exception as error:  # noqa: BLE001
            self.wrong.append(f"{type(error).__name__}: {error}")
        self.times["all"] = time.monotonic() - began
        return {"wrong": self.wrong, "seconds": self.times, "steps": self.steps}

    def _apply(self, edit: dict[str, Any]) -> None:
        wanted = Wanted(edit["machines"], edit["networks"])
        killed = edit["mode"] == "killed"
        # One that is not to boot any more would be started again after its tree was made anew.
        stop = [name for name in leaders() if name in edit["stop"] or not _boots(wanted.machines.get(name))]
        if stop := [name for name in stop if name in wanted.machines]:
            self._timed("stop", lambda: call("machctl", "stop", *stop))
        first = leaders()
        kinds: dict[str, set[str]] = {}
        if killed:
            kinds = self._timed("plan", self._kinds)
            self._kill(edit)
        for name, each in self._timed("plan", self._kinds).items():
            kinds.setdefault(name, set()).update(each)
        applied = self._timed("apply", lambda: quietly("machctl", *APPLY))
        if applied.returncode or "Traceback" in applied.stderr:
            self.wrong.append(
                f"apply ended with {applied.returncode}: {applied.stdout[-2000:]}{applied.stderr[-3000:]}"
            )
        if not killed:
            starts = self._starts()
            self.seconds[starts] += (self.times["apply"] - self.seconds[starts]) / 8
        running = {name for name in first if name in wanted.machines}
        running |= {name for name, each in wanted.machines.items() if each.get("autostart")}
        self._timed("look", lambda: self._look(wanted, running))
        self._processes(first, kinds, edit, killed=killed)
        self._settled(killed=killed)

    def _timed(self, what: str, work: Any) -> Any:
        began = time.monotonic()
        done = work()
        self.times[what] = self.times.get(what, 0) + time.monotonic() - began
        return done

    def _kinds(self) -> dict[str, set[str]]:
        """Give what the plan says that its steps cost each machine."""
        planned = quietly("machctl", "--json", *PLAN)
        if planned.returncode:
            self.wrong.append(f"plan ended with {planned.returncode}: {planned.stderr[-3000:]}")
            return {}
        found: dict[str, set[str]] = {}
        rows = json.loads(planned.stdout)
        self.steps += [f"{row['machine']}: {row['kind']} {row['what']} ({row['reason']})" for row in rows]
        self.steps.append("-")
        for row in rows:
            found.setdefault(row["machine"], set()).add(row["kind"])
        return found

    def _starts(self) -> bool:
        """Tell whether machines start by what was planned."""
        return any(" start " in step or " restart " in step for step in self.steps)

    def _kill(self, edit: dict[str, Any]) -> None:
        """Kill an apply at some moment, with all that it has started or without."""
        with (SCRATCH / "kill.log").open("wb") as log:
            process = subprocess.Popen(
                ["machctl", *APPLY], start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            time.sleep(edit["moment"] * self.seconds[self._starts()])
            ended = process.poll()
            if edit["session"] and ended is None:
                kill_session(process.pid)
            process.kill()
            process.wait()
        self.times["ended"] = float(ended is not None)
        if ended:
            self.wrong.append(f"apply ended by itself with {ended}: {(SCRATCH / 'kill.log').read_text()[-3000:]}")

    def _look(self, wanted: Wanted, running: set[str]) -> None:
        """Look until the host is as wanted: what ends or begins by itself has a moment for it."""
        end = time.monotonic() + 6
        while True:
            found = differences(wanted, running, self.before)
            for name, machine in wanted.machines.items():
                # A tree of layers that nobody has mounted yet shows nothing.
                if (have := tree_of(name)) and have != machine["tree"]:
                    found.append(f"the tree of {name} was made of {have} and not of {machine['tree']}")
            if not found or time.monotonic() > end:
                self.wrong += found
                return
            self.times["again"] = self.times.get("again", 0) + 1
            time.sleep(0.1)

    def _processes(
        self, first: dict[str, int], kinds: dict[str, set[str]], edit: dict[str, Any], *, killed: bool
    ) -> None:
        now = leaders()
        for name in first.keys() & now.keys():
            costs = bool(kinds.get(name, set()) & COSTS)
            if first[name] != now[name] and not costs:
                self.wrong.append(f"{name} was started anew, which was not planned: {kinds.get(name)}")
            if first[name] == now[name] and costs and not killed:
                self.wrong.append(f"{name} was not started anew, which was planned: {kinds[name]}")
            if costs and name in edit["gentle"]:
                self.wrong.append(f"{name} was to be changed live, and the plan was: {kinds[name]}")

    def _settled(self, *, killed: bool) -> None:
        planned = self._timed("plan after", lambda: quietly("machctl", *PLAN, "--detailed-exitcode"))
        if planned.returncode:
            self.wrong.append(f"plan ends with {planned.returncode}: {planned.stdout[-3000:]}{planned.stderr[-2000:]}")
        if MARK.exists():
            self.wrong.append(f"{MARK} is there")
        self.since_gc += 1
        if killed or self.since_gc >= 5:
            self.since_gc = 0
            steps = json.loads(self._timed("gc", lambda: call("machctl", "--json", "--dry-run", "gc")))
            self.wrong += [f"gc would {step['what']} ({step['reason']})" for step in steps]


def _boots(machine: dict[str, Any] | None) -> bool:
    return machine is not None and machine["tree"] == "debian"


def tree_of(name: str) -> str:
    """Give what the tree of a machine was made of, by what it has in it; "" where it is not mounted."""
    tree = Path("/var/lib/machines", name)
    mark = tree / "srv/mark"
    if mark.exists():
        return mark.read_text()
    return "debian" if (tree / "etc/debian_version").exists() else ""


def quietly(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command, whatever comes of it."""
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def write_archive(path: Path, mark: str) -> None:
    """Write a small archive of a root tree that says what it is."""
    files = {
        "usr/lib/os-release": 'ID=small\nVERSION_ID="1"\n',
        "usr/lib/systemd/systemd": "",
        "etc/hostname": "small\n",
        "srv/mark": mark,
    }
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))


def answers() -> Iterator[str]:
    """Give an answer to each line of stdin."""
    edits = Edits()
    for line in sys.stdin:
        yield json.dumps(edits.do(json.loads(line)))


def main() -> None:
    """Answer until there are no more questions."""
    for answer in answers():
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


main()
