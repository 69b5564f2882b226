# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory: what operations do to it can be read back, and any part can be told to fail."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fakeguests import FakeGuests
from fakesecrets import FakeSecrets
from machines.declare.fleet import DECLARATIONS
from machines.errors import CommandFailed, Conflict, MachctlError, NotFound
from machines.host.interfaces import Progress, SourceRequest
from machines.model.base import Base, Payload
from machines.model.observed import Link, Listener
from machines.model.tree import Tree
from machines.operations.records import read_networks
from machines.render import paths

POOL = "/var/lib/machines"


class FakeFiles:
    """machines.host.interfaces.Files"""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.held: set[str] = set()
        self.refused: set[str] = set()
        self.alive: set[str] = set()
        self.modes: dict[str, int] = {}

    def read_files(self, patterns: Iterable[str]) -> dict[str, str]:
        return {
            path: text for pattern in patterns for path, text in self.texts.items() if fnmatch.fnmatch(path, pattern)
        }

    def read_text(self, path: str) -> str | None:
        return self.texts.get(path)

    def mode_of(self, path: str) -> int:
        return self.modes.get(path, 0o644)

    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        if path in self.refused:
            raise MachctlError(f"{path} cannot be written")
        self.modes[path] = mode & (self.modes.get(path, 0o644) | 0o700)
        self.texts[path] = text

    def remove_file(self, path: str) -> None:
        self.texts.pop(path, None)

    def read_hosts(self) -> str:
        return self.texts.get("/etc/hosts", "")

    def write_hosts(self, text: str) -> None:
        self.texts["/etc/hosts"] = text
        if not text:
            self.remove_file("/etc/hosts")

    @contextlib.contextmanager
    def lock(self, name: str, *, what: str) -> Iterator[None]:
        if name in self.held:
            raise Conflict(f"{what} is being changed by another machctl")
        self.held.add(name)
        try:
            yield
        finally:
            self.held.discard(name)

    def fleet_lock(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self.wait_lock("fleet")

    @contextlib.asynccontextmanager
    async def wait_lock(self, name: str) -> AsyncIterator[None]:
        while name in self.held:
            await asyncio.sleep(0)
        self.held.add(name)
        try:
            yield
        finally:
            self.held.discard(name)

    def is_locked(self, name: str) -> bool:
        return name in self.held

    def is_alive(self, process: str) -> bool:
        return process in self.alive

    def this_process(self) -> str:
        return "1.1"

    def abandoned(self) -> list[str]:
        return []

    def abandoned_directories(self) -> list[str]:
        return []


class FakeStorage:
    """machines.host.interfaces.Storage: bases are values and empty directories, ``layers`` and ``limits`` by name."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.driver = "copy"
        self.known: dict[str, Base] = {}
        self.layer_names: set[str] = set()
        self.mounted: set[str] = set()
        self.limits: dict[str, int | None] = {}
        # Tests have a directory of their own for these (tempfile.tempdir).
        self.room = tempfile.mkdtemp()
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.half_layers: dict[str, str] = {}

    def choose(self, preference: str) -> str:
        return self.driver if preference == "auto" else preference

    def bases(self) -> dict[str, Base]:
        return dict(self.known)

    def base_path(self, base: Base) -> str:
        return f"{self.room}/{base.id}/tree"

    def stage_base(self, base: str) -> str:
        path = f"{self.room}/.new-{base}"
        Path(path, "tree").mkdir(parents=True)
        return path

    def finish_base(self, base: Base) -> None:
        staged, path = f"{self.room}/.new-{base.id}", f"{self.room}/{base.id}"
        Path(staged).rename(path)
        self.host.guests.move(staged, path)
        self.known[base.id] = base

    def rename_base(self, base: Base, name: str) -> None:
        self.known[base.id] = base._replace(name=name)

    def remove_base(self, base: str) -> None:
        if self.known.pop(base, None) is None:
            raise NotFound(f"there is no base {base}")
        self.remove_path(f"{self.room}/{base}")

    def base_leftovers(self) -> dict[str, str]:
        return {str(path): path.name[5:] for path in Path(self.room).glob(".new-*")}

    def remove_path(self, path: str) -> None:
        self.half_layers.pop(path, None)
        if Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    def measure(self, path: str) -> tuple[int, int]:
        return 250 * 2**20, 9000

    async def copy_base(
        self, base: Base, name: str, *, driver: str, uid: int | None, log: Path, progress: Progress
    ) -> str:
        self.host.call(f"copy {name}")
        assert base.id in self.known
        assert (uid is not None) is (driver == "overlay")
        if driver == "overlay":
            self.layer_names.add(name)
            return paths.layer(name)
        self.host.staged.add(name)
        target = str(self.host.pool.staging_path(name))
        self.host.guests.move(self.base_path(base), target, keep=True)
        return target

    def place(self, name: str, driver: str) -> None:
        if name in self.host.placed:
            raise Conflict(f"{POOL}/{name} has appeared in the meantime")
        kind = {"btrfs": "subvolume", "overlay": "overlay"}.get(driver, "directory")
        staged = paths.layer(name) if driver == "overlay" else str(self.host.pool.staging_path(name))
        if driver == "overlay":
            self.mounted.add(name)
        self.host.guests.move(staged, f"{POOL}/{name}")
        self.host.staged.discard(name)
        self.host.placed[name] = Tree(name, f"{POOL}/{name}", kind)

    def layers(self) -> list[str]:
        return sorted(self.layer_names)

    def remove_layer(self, name: str) -> None:
        if name in self.mounted:
            raise Conflict(f"{POOL}/{name} is mounted")
        self.layer_names.discard(name)

    def snapshots_of(self, machine: str) -> dict[str, Any]:
        return dict(self.snapshots.get(machine, {}))

    def all_snapshots(self) -> dict[str, dict[str, Any]]:
        return dict(self.snapshots)

    def remove_snapshots(self, machine: str) -> None:
        self.snapshots.pop(machine, None)

    def snapshot_leftovers(self) -> dict[str, str]:
        return {}

    def restored_leftovers(self) -> dict[str, str]:
        return {}

    def mount(self, name: str) -> None:
        self.mounted.add(name)

    def check_layer(self, name: str) -> None:
        assert name in self.layer_names

    def pool_leftovers(self) -> list[str]:
        return []

    def layer_leftovers(self) -> dict[str, str]:
        return dict(self.half_layers)

    def unmount(self, name: str) -> None:
        self.mounted.discard(name)

    def limit(self, path: str) -> int | None:
        return self.limits.get(path)

    def set_limit(self, path: str, size: int | None) -> None:
        self.limits[path] = size

    def forget_limit(self, path: str) -> None:
        self.limits.pop(path, None)


class FakeSource:
    """machines.host.interfaces.SourceMaker; each has the same state until somebody gives it another ``identities``."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.identities: dict[str, dict[str, object] | None] = {}
        self.payload: Payload | None = None
        self.fails = False
        self.requests: list[SourceRequest] = []

    def identity(self, request: SourceRequest) -> dict[str, object] | None:
        return self.identities.get(str(request.source), {})

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        self.requests.append(request)
        self.host.call(f"make {request.source}")
        await asyncio.sleep(0)
        if self.fails:
            raise CommandFailed("no space left in the tree", hint="make room")
        return self.payload


class FakeHost:
    """machines.host.interfaces.Host; ``done`` says what was asked of systemd, the kernel and tools, in order."""

    def __init__(self, *, source_fails: bool = False, failing: Iterable[str] = ()) -> None:
        self.declarations = DECLARATIONS
        self.secrets = FakeSecrets()
        self.done: list[str] = []
        self.failing = set(failing)
        self.placed: dict[str, Tree] = {}
        self.staged: set[str] = set()
        self.bridges: dict[str, Link] = {}
        self.subnets: dict[str, tuple[IPv4Network, IPv6Network | None]] = {}
        self.active: set[str] = {"systemd-networkd.service"}
        self.loaded: set[str] = set()
        self.nat = ""
        self.sysctls: dict[str, int] = {}
        self.files = FakeFiles()
        self.guests: Any = FakeGuests()
        self.maker = FakeSource(self)
        self.maker.fails = source_fails
        self.storage: Any = FakeStorage(self)
        self.pool: Any = SimpleNamespace(
            trees=lambda: dict(self.placed),
            leftovers=lambda: {self.pool.staging_path(name): name for name in self.staged},
            free_bytes=lambda: 10**12,
            filesystem=lambda: "ext4",
            staging_path=lambda name: f"{POOL}/.#machctl-new-{name}",
            remove=lambda path: self.placed.pop(path.rsplit("/", 1)[1]),
            remove_path=lambda path: self.staged.discard(path.removeprefix(self.pool.staging_path(""))),
        )
        self.facts: Any = SimpleNamespace(
            machined_state=lambda: "",
            links=lambda: dict(self.bridges),
            routes=lambda: {subnet: bridge for bridge, (subnet, _) in self.subnets.items()},
            routes6=lambda: {subnet: bridge for bridge, (_, subnet) in self.subnets.items() if subnet},
            machine_id=lambda: "b4c5",
            ipv6_enabled=lambda: True,
            listeners=self._resolver,
            dns=lambda: ("10.0.2.3",),
            local_dns=lambda: "",
            ipv6_loopback=lambda: True,
            unmapped=lambda paths, nodes=False: {},
            devices=lambda paths: {},
            enabled_machines=lambda: {},
            journal_links=lambda trees: {},
            limits=lambda units: {unit: {} for unit in units},
            sysctl=self.sysctls.get,
            set_sysctl=self.sysctls.__setitem__,
        )
        self.links: Any = SimpleNamespace(remove_link=self._remove_link, drop_flows=lambda ports, stale: None)
        self.hosts: Any = self.files
        self.missing = {"NetworkManager"}
        self.tools: Any = SimpleNamespace(
            which=lambda tool: None if tool in self.missing else f"/usr/bin/{tool}",
            run=self._run,
            begin=lambda argv: lambda: self._run(argv, check=False),
        )
        self.units: Any = SimpleNamespace(
            states=lambda patterns: {
                **dict.fromkeys(self.loaded, "inactive"),
                **dict.fromkeys(self.active, "active"),
            },
            changed=lambda units: frozenset(),
            starting=lambda unit: False,
            run_jobs=lambda verb, units: [self.call(f"{verb} {unit}") for unit in units],
            reset_failed=lambda unit: None,
            reload=lambda: self.call("reload systemd"),
            reload_networkd=lambda: self.call("reload networkd"),
            enable=lambda units: self.call(f"enable {units[0]}"),
            disable=lambda units: self.call(f"disable {units[0]}"),
            thaw=lambda unit: self.call(f"thaw {unit}"),
        )
        self.paused: set[str] = set()
        self.freezer: Any = SimpleNamespace(
            freeze=lambda name: self.call(f"freeze {name}") or True,
            thaw=lambda name: self.call(f"thaw {name}"),
            pause=lambda name: self.call(f"pause {name}") or True,
            resume=lambda name: (self.call(f"resume {name}") if name in self.paused else None) or "",
            is_frozen=lambda name: True,
            is_paused=lambda name: name in self.paused,
            is_held=lambda name: False,
            refuse_paused=lambda name: None,
            paused_machines=lambda running=None: frozenset(self.paused),
            held_machines=frozenset,
        )
        self.jobs: Any = SimpleNamespace(
            start=self._job("start"),
            stop=self._job("stop"),
            restart=self._job("restart"),
            reload=self._job("reload-or-restart"),
        )
        self.machines: Any = None
        self.archives: Any = None
        self.upkeep: Any = None
        self.contents: Any = None

    def booted(self) -> bool:
        return True

    def _resolver(self) -> tuple[Listener, ...]:
        lines = self.files.texts.get(paths.RESOLVER_FILE, "").splitlines()
        return tuple(
            Listener(line.partition("=")[2], 53, "udp") for line in lines if line.startswith("DNSStubListenerExtra=")
        )

    def hostname(self) -> str:
        return "box"

    def registered(self) -> dict[str, Any]:
        return {name: SimpleNamespace(name=name, unit=unit, leader=1) for name, unit in self.running().items()}

    def running(self) -> dict[str, str]:
        return {}

    def addresses(self, leader: int) -> tuple[str, ...]:
        return ()

    def inner_links(self, leader: int) -> frozenset[str]:
        return frozenset({"lo", "host0"})

    def os_release(self, *, leader: int | None, tree: str | None) -> dict[str, str]:
        return {"ID": "debian", "VERSION_ID": "13"}

    def source(self, kind: str) -> FakeSource:
        return self.maker

    def call(self, what: str) -> None:
        """Note that something was asked for, and fail where that was wanted."""
        self.done.append(what)
        if what in self.failing:
            raise MachctlError(f"{what} failed")

    def _run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Any:
        if argv[0] == "nft" and "list" in argv:
            return SimpleNamespace(returncode=0 if self.nat else 1, stdout=self.nat, stderr="")
        self.call(" ".join(argv[:2]))
        if argv[:2] == ["nft", "-f"]:
            # Text on stdin drops the table, a file loads it with all that lies in its folder.
            loaded = self.files.read_files([f"{paths.NAT_DIRECTORY}/*.nft"])
            base = self.files.read_text(paths.NAT_FILE) or ""
            self.nat = "" if input else "\n".join([base, "table inet machctl", *loaded.values()])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    def _remove_link(self, name: str) -> None:
        self.bridges.pop(name, None)
        self.subnets.pop(name, None)

    def _job(self, verb: str) -> Any:
        async def job(unit: str) -> None:
            self.call(f"{verb} {unit}")
            (self.active.discard if verb == "stop" else self.active.add)(unit)
            if verb != "stop" and unit.startswith("machctl-bridge@"):
                bridge = unit.removeprefix("machctl-bridge@").removesuffix(".service")
                self.bridges[bridge] = Link(bridge, "bridge")
                made = read_networks(self).get(bridge)
                if made:
                    self.bridges[bridge] = Link(bridge, "bridge", mtu=made.mtu or 1500)
                    self.subnets[bridge] = made.subnet, made.subnet6

        return job
