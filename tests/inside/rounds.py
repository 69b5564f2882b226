# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kill machctl again and again while it works, then see whether gc and apply put everything right.

Runs in a throwaway host as ``rounds.py SEED ROUNDS CREATE...``: the last are SOURCE and flags of a create whose base is
kept. Prints a JSON object: a row for each operation, and what was found wrong.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inventory import SNAPSHOTS, call, kill_session, listing, machctl, mounted, problems

FILES = 120
"""How many files are looked for in a copy."""

ARCHIVE = Path("/root/kills.tar")

SOURCES = ("ka", "kr", "ks")
"""Machines that are copied, one of them while it runs, and one that is restored."""


@dataclass
class Row:
    """What became of the kills of one operation."""

    operation: str
    seconds: float
    kills: int = 0
    finished: int = 0
    whole: int = 0
    gone: int = 0
    cleaned: int = 0


def is_about(step: dict[str, str], operation: str, target: str) -> bool:
    """Tell whether a step of gc cleaned up after an operation."""
    machine, _, snapshot = target.partition("/")
    if snapshot:
        return step["machine"] in {"", machine} and (snapshot in step["what"] or step["step"] == "ThawMachine")
    base = operation == "create tar:" and "/bases/" in step["what"]
    thawed = operation == "clone, running" and step["step"] == "ThawMachine"
    return base or thawed or bool(re.search(rf"\b{target}\b", step["what"]))


class Rounds:
    """The machines that are worked on, and the rounds."""

    def __init__(self, seed: int, create: list[str]) -> None:
        self.random = random.Random(seed)
        self.create = create
        self.before = listing()
        self.before_names = self._names()
        self.number = 0
        self.rows: dict[str, Row] = {}
        self.wrong: list[str] = []
        self.targets: list[tuple[str, str]] = []
        # Each gives the name of what comes or goes, and the words for machctl.
        self.operations: dict[str, Callable[[], tuple[str, list[str]]]] = {
            "create": self._create,
            "create -p": self._publish,
            "create tar:": self._archive,
            "clone": lambda: self._new("clone", "ka"),
            "clone, running": lambda: self._new("clone", "kr"),
            "snapshot": lambda: self._snapshot("ka"),
            "snapshot, running": lambda: self._snapshot("kr"),
            "restore": self._restore,
            "rm": self._remove,
        }

    # --- operations: prepared, and in words ---

    def _new(self, verb: str, source: str, *flags: str) -> tuple[str, list[str]]:
        self.number += 1
        name = f"k{self.number}"
        return name, [verb, source, name, *flags]

    def _create(self) -> tuple[str, list[str]]:
        return self._new("create", *self.create)

    def _publish(self) -> tuple[str, list[str]]:
        name, words = self._new("create", *self.create)
        return name, [*words, "--bridge", f"kb{self.number % 3}", "-p", f"{9000 + self.number}:80"]

    def _archive(self) -> tuple[str, list[str]]:
        # One of another time and size: none is kept that was made like this.
        write_archive(ARCHIVE, str(self.number))
        return self._new("create", f"tar:{ARCHIVE}", "--insecure")

    def _snapshot(self, machine: str) -> tuple[str, list[str]]:
        self.number += 1
        return f"{machine}/s{self.number}", ["snapshot", "create", machine, f"s{self.number}"]

    def _restore(self) -> tuple[str, list[str]]:
        tree = mounted("ks")
        if state_of(tree) == "a":
            write_state(tree, "b")
        return "ks", ["restore", "ks", "a"]

    def _remove(self) -> tuple[str, list[str]]:
        name, words = self._new("create", *self.create)
        self.number += 1
        if self.number % 2:
            words += ["--bridge", "kb0", "-p", f"{9000 + self.number}:80"]
        call("machctl", *words)
        call("machctl", "snapshot", "create", name, "s")
        return name, ["rm", name]

    # --- rounds ---

    def prepare(self) -> None:
        """Make the machines that others are copied from, and see how long each operation takes when nobody kills it."""
        for name in SOURCES:
            call("machctl", "create", self.create[0], name, *self.create[1:])
            write_state(mounted(name), "a")
        call("machctl", "snapshot", "create", "ks", "a")
        call("machctl", "start", "kr")
        for operation, prepared in self.operations.items():
            target, words = prepared()
            began = time.monotonic()
            call("machctl", "--yes", *words)
            self.rows[operation] = Row(operation, round(time.monotonic() - began, 3))
            self.targets.append((operation, target))
        self.check({})

    def batch(self, *, keep: bool) -> None:
        """Kill each operation once, in any order, then have it put right and look."""
        finished = {}
        for operation in self.random.sample(list(self.operations), len(self.operations)):
            target, words = self.operations[operation]()
            finished[target] = self._kill(operation, words)
            self.targets.append((operation, target))
        self.check(finished, keep=keep)

    def _kill(self, operation: str, words: list[str]) -> bool:
        """Kill machctl at a random moment, half of the time with all it started; tell whether it had ended."""
        row = self.rows[operation]
        # The first half of a run is Python starting and looking at the host.
        delay, whole_session = self.random.triangular(0, 1.2, 0.9) * row.seconds, self.random.random() < 0.5
        with Path("/root/kills.log").open("wb") as log:
            process = subprocess.Popen(
                ["machctl", "--yes", *words], start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            time.sleep(delay)
            ended = process.poll()
            if whole_session:
                kill_session(process.pid)
            process.kill()
            process.wait()
        row.kills += 1
        row.finished += ended == 0
        # Others work on this machine: it is now faster, now slower, and most kills have to hit.
        row.seconds *= 0.8 if ended == 0 else 1.05
        if ended:
            said = Path("/root/kills.log").read_text()
            self.wrong.append(f"{operation} by itself ended with {ended}: {words} {said}")
        return ended == 0

    def check(self, finished: dict[str, bool], *, keep: bool = False) -> None:
        """Let gc and apply put right what was left; count what is whole and what is gone; look for anything else."""
        steps = machctl("gc")
        call("machctl", "apply")
        if again := machctl("gc"):
            self.wrong.append(f"gc had more to do: {again}")
        self.wrong += [f"round {self.number}: {text}" for text in settled(self.before)]
        names = self._names()
        for operation, target in self.targets:
            row = self.rows[operation]
            whole = self._is_whole(operation, target, names)
            if target in finished:
                row.whole += whole
                row.gone += not whole
                row.cleaned += any(is_about(step, operation, target) for step in steps)
                if finished[target] and whole != (operation != "rm"):
                    self.wrong.append(f"{operation} {target} had ended and was undone")
        self.targets.clear()
        if not keep:
            self._clear(names.difference(SOURCES))

    def _is_whole(self, operation: str, target: str, names: set[str]) -> bool:
        if operation == "restore":
            self._same(operation, mounted("ks"), {"a", "b"})
            return True
        if operation.startswith("snapshot"):
            machine, _, name = target.partition("/")
            tree = SNAPSHOTS / machine / name / "tree"
            if not tree.exists():
                return False
            self._same(operation, tree, {"a"})
            return True
        if target in names and operation.startswith("clone"):
            self._same(operation, mounted(target), {"a"})
        if target in names and operation == "create tar:":
            have = len(list((mounted(target) / "srv/many").iterdir()))
            if have != FILES:
                self.wrong.append(f"{target} has {have} files of its archive")
        return target in names

    def _same(self, operation: str, tree: Path, wanted: set[str]) -> None:
        if (state := state_of(tree)) not in wanted:
            self.wrong.append(f"{operation}: {tree} is {state}")

    def _names(self) -> set[str]:
        return {row["name"] for row in machctl("list")}

    def _clear(self, names: set[str]) -> None:
        """Make room for the next rounds."""
        names -= self.before_names
        if names:
            call("machctl", "--yes", "rm", *sorted(names))
        for machine in set(SOURCES) - names:
            taken = [path.name for path in (SNAPSHOTS / machine).glob("*") if path.name != "a"]
            if taken:
                call("machctl", "--yes", "snapshot", "rm", machine, *taken)
        bases = [row["id"] for row in machctl("image", "ls") if row["source"] == f"tar:{ARCHIVE}" and not row["users"]]
        if bases:
            call("machctl", "--yes", "image", "rm", *bases)

    def finish(self) -> None:
        """Boot some of what the kills left whole, then take everything away."""
        # There is nothing to boot in the small archive.
        there = [row["name"] for row in machctl("list") if not row["source"].startswith("tar:")]
        sample = sorted(set(there) - self.before_names - set(SOURCES))[:4]
        call("machctl", "start", *sample, "ks")
        running = {row["name"] for row in machctl("list") if row["state"] == "running"}
        if missing := {*sample, "ks", "kr"} - running:
            self.wrong.append(f"{sorted(missing)} did not start")
        call("machctl", "stop", *sample, "kr", "ks")
        self._clear(self._names())
        self.wrong += [f"at the end: {text}" for text in settled(self.before)]


def settled(before: Any) -> list[str]:
    """Give the problems there are once systemd has seen what is mounted: it looks once in a second at most."""
    end = time.monotonic() + 5
    while (found := problems(before)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def write_state(tree: Path, state: str) -> None:
    """Make a tree be in ``state``: in many files, and with one that only this state has."""
    owner = tree.stat()
    many = tree / "srv/many"
    many.mkdir(exist_ok=True)
    for old in many.glob("only-*"):
        old.unlink()
    for name in (*map(str, range(FILES)), f"only-{state}"):
        (many / name).write_text(state)
        os.chown(many / name, owner.st_uid, owner.st_gid)


def state_of(tree: Path) -> str:
    """Give the state that a tree is in, more than one letter where it is a mixture."""
    many = tree / "srv/many"
    if not many.is_dir():
        return "nothing"
    names = {path.name for path in many.iterdir()}
    found = {(many / name).read_text() for name in names}
    only = {name.removeprefix("only-") for name in names if name.startswith("only-")}
    return "".join(sorted(found)) if found == only and len(names) == FILES + 1 else f"{found} {sorted(names)}"


def write_archive(path: Path, content: str) -> None:
    """Write a small archive of a root tree."""
    files = {
        "usr/lib/os-release": 'ID=small\nVERSION_ID="1"\n',
        "usr/lib/systemd/systemd": "",
        "etc/hostname": "small\n",
    }
    files |= {f"srv/many/{number}": content for number in range(FILES)}
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))


def main() -> None:
    """Do the rounds; nothing is raised for what machctl does wrong, it is told."""
    seed, batches, create = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    rounds = Rounds(seed, create)
    rounds.prepare()
    for batch in range(batches):
        rounds.batch(keep=batch == batches - 1)
    rounds.finish()
    sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rounds.rows.values()], "wrong": rounds.wrong}))


main()
