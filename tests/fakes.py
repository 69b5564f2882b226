# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory: what operations do to it can be read back, and any part can be told to fail."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from machines.errors import CommandFailed, Conflict, MachctlError
from machines.host.interfaces import BootstrapRequest, Progress
from machines.model.observed import Link
from machines.model.tree import Tree
from machines.render import paths

POOL = "/var/lib/machines"


class FakeFiles:
    """machines.host.interfaces.Files"""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.held: set[str] = set()
        self.refused: set[str] = set()

    def read_files(self, patterns: Iterable[str]) -> dict[str, str]:
        return {
            path: text for pattern in patterns for path, text in self.texts.items() if fnmatch.fnmatch(path, pattern)
        }

    def read_text(self, path: str) -> str | None:
        return self.texts.get(path)

    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        if path in self.refused:
            raise MachctlError(f"{path} cannot be written")
        self.texts[path] = text

    def remove_file(self, path: str) -> None:
        self.texts.pop(path, None)

    @contextlib.contextmanager
    def lock(self, name: str, *, what: str) -> Iterator[None]:
        if name in self.held:
            raise Conflict(f"{what} is being changed by another machctl")
        self.held.add(name)
        try:
            yield
        finally:
            self.held.discard(name)

    @contextlib.asynccontextmanager
    async def fleet_lock(self) -> AsyncIterator[None]:
        while "fleet" in self.held:
            await asyncio.sleep(0)
        self.held.add("fleet")
        try:
            yield
        finally:
            self.held.discard("fleet")

    def is_locked(self, name: str) -> bool:
        return name in self.held

    def abandoned(self) -> list[str]:
        return []


class FakeHost:
    """machines.host.interfaces.Host; ``done`` says what was asked of systemd and the kernel, in order."""

    def __init__(self, *, bootstrap_fails: bool = False, failing: Iterable[str] = ()) -> None:
        self.done: list[str] = []
        self.bootstrap_fails = bootstrap_fails
        self.failing = set(failing)
        self.placed: dict[str, Tree] = {}
        self.staged: set[str] = set()
        self.bridges: dict[str, Link] = {}
        self.active: set[str] = {"systemd-networkd.service"}
        self.nat = ""
        self.files = FakeFiles()
        self.guests: Any = SimpleNamespace(
            read_file=lambda root, path: None,
            write_file=lambda root, path, text, mode=0o644: None,
            link=lambda root, path, target: None,
            remove_file=lambda root, path: None,
        )
        self.pool: Any = SimpleNamespace(
            trees=lambda: dict(self.placed),
            leftovers=lambda: {self.pool.staging_path(name): name for name in self.staged},
            free_bytes=lambda: 10**12,
            filesystem=lambda: "ext4",
            staging_path=lambda name: f"{POOL}/.#machctl-new-{name}",
            make_empty=self._stage,
            place=self._place,
            remove=lambda path: self.placed.pop(path.rsplit("/", 1)[1]),
            remove_path=lambda path: self.staged.discard(path.removeprefix(self.pool.staging_path(""))),
        )
        self.facts: Any = SimpleNamespace(
            machined_state=lambda: "",
            links=lambda: dict(self.bridges),
            routes=lambda: (),
            listeners=lambda: (),
            dns=lambda: ("10.0.2.3",),
            ipv6_loopback=lambda: True,
            idmap_paths=lambda paths: frozenset(paths),
            enabled_machines=lambda: {},
            journal_links=lambda trees: {},
            limits=lambda unit: None,
        )
        self.links: Any = SimpleNamespace(remove_link=lambda name: self.bridges.pop(name, None))
        self.tools: Any = SimpleNamespace(which=lambda tool: f"/usr/bin/{tool}", run=self._run)
        self.units: Any = SimpleNamespace(
            states=lambda patterns: dict.fromkeys(self.active, "active"),
            needs_reload=lambda unit: False,
            reload=lambda: self._call("reload systemd"),
            reload_networkd=lambda: self._call("reload networkd"),
            enable=lambda units: self._call(f"enable {units[0]}"),
            disable=lambda units: self._call(f"disable {units[0]}"),
        )
        self.jobs: Any = SimpleNamespace(start=self._job("start"), stop=self._job("stop"), restart=self._job("restart"))
        self.machines: Any = None

    def booted(self) -> bool:
        return True

    def registered(self) -> dict[str, Any]:
        return {}

    def running(self) -> dict[str, str]:
        return {}

    def addresses(self, leader: int) -> tuple[str, ...]:
        return ()

    def os_release(self, *, leader: int | None, tree: str | None) -> dict[str, str]:
        return {}

    def bootstrapper(self, preference: str) -> FakeHost:
        return self

    name = "fake"

    def missing_tools(self) -> tuple[str, ...]:
        return ()

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        self._call(f"bootstrap {request.target.name.rsplit('-', 1)[1]}")
        if self.bootstrap_fails:
            raise CommandFailed("no space left in the tree", hint="make room")

    def _stage(self, name: str) -> str:
        self.staged.add(name)
        return str(self.pool.staging_path(name))

    def _place(self, name: str) -> None:
        if name in self.placed:
            raise Conflict(f"{POOL}/{name} has appeared in the meantime")
        self.staged.discard(name)
        self.placed[name] = Tree(name, f"{POOL}/{name}")

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        if argv[0] == "nft" and "list" in argv:
            return SimpleNamespace(returncode=0 if self.nat else 1, stdout=self.nat, stderr="")
        self._call(" ".join(argv[:2]))
        if argv[:2] == ["nft", "-f"]:
            # Text on stdin drops the table, a file loads it with all that lies in its folder.
            loaded = self.files.read_files([f"{paths.NAT_DIRECTORY}/*.nft"])
            self.nat = "" if input else "\n".join(["table inet machctl", *loaded.values()])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    def _job(self, verb: str) -> Any:
        async def job(unit: str) -> None:
            self._call(f"{verb} {unit}")
            (self.active.discard if verb == "stop" else self.active.add)(unit)
            if verb == "start" and unit.startswith("machctl-bridge@"):
                bridge = unit.removeprefix("machctl-bridge@").removesuffix(".service")
                self.bridges[bridge] = Link(bridge, "bridge")

        return job

    def _call(self, what: str) -> None:
        self.done.append(what)
        if what in self.failing:
            raise MachctlError(f"{what} failed")
