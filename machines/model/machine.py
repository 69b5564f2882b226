# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine as it is declared, by flags or in a file."""

from __future__ import annotations

from machines.model.after import After
from machines.model.frozen import dataclass
from machines.model.health import Health
from machines.model.link import DEFAULT_BRIDGE as DEFAULT_BRIDGE
from machines.model.link import DEFAULT_LINKS, Attachment
from machines.model.names import link_network
from machines.model.publish import Egress
from machines.model.publish import Publish as Publish
from machines.model.secret import Secret
from machines.model.settings import Device, Tmpfs
from machines.model.source import Source


@dataclass(frozen=True)
class Bind:
    """A directory or file of the host that the machine sees, at ``destination``.

    ``mapping`` says whose its files are inside: "idmap", "noidmap" or "rootidmap" (systemd-nspawn(1), --bind=), and
    "" what is right for the file system it is on.
    """

    source: str
    destination: str
    read_only: bool = False
    mapping: str = ""

    def __str__(self) -> str:
        options = [*(["ro"] if self.read_only else []), *([self.mapping] if self.mapping else [])]
        return f"{self.source}:{self.destination}" + (f":{','.join(options)}" if options else "")


@dataclass(frozen=True)
class Machine:
    """A declared machine. ``memory``, ``memory_high``, ``swap`` and ``disk`` are in bytes, ``cpus`` in processors (1.5
    is one and a half), ``cpu_weight`` and ``io_weight`` from 1 to 10000 (100 is what all others have).

    ``restart`` is "no", "on-failure" or "always", ``restart_delay`` in seconds (one when None). ``capabilities`` are
    named as in capabilities(7), in small letters and without CAP_; words of ``system_call_filter`` are system calls or
    their @groups, with a ~ in front those that are forbidden. ``nesting`` lets it run containers of its own.
    ``volatile`` is "yes", "state", "overlay", or "" for a tree that keeps what is written (systemd-nspawn(1)).

    ``network`` is "private" for a network namespace with ``links``, "none" for one without any, "host" for the host's
    own. ``isolated`` keeps it from everything but its published ports, ``egress`` is what it may reach: everything
    when None, nothing when empty. ``on_demand`` starts it at the first connection to a published port, ``idle_stop``
    stops it so many seconds after the last one. ``after`` is what it waits for before it starts. Of the replicas of its
    ``group`` at most ``max_unavailable`` are restarted at one time (all that have to be when None).
    """

    name: str
    source: Source
    origin: str
    network: str = "private"
    links: tuple[Attachment, ...] = DEFAULT_LINKS
    publish: tuple[Publish, ...] = ()
    isolated: bool = False
    egress: tuple[Egress, ...] | None = None
    on_demand: bool = False
    idle_stop: int | None = None
    binds: tuple[Bind, ...] = ()
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    variant: str = "minbase"
    bootstrapper: str = "auto"
    keyring: str | None = None
    checksum: str | None = None
    insecure: bool = False
    storage: str = "auto"
    disk: int | None = None
    ephemeral: bool = False
    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    tasks: int | None = None
    restart: str = "no"
    restart_delay: int | None = None
    devices: tuple[Device, ...] = ()
    capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    system_call_filter: tuple[str, ...] = ()
    nesting: bool = False
    read_only: bool = False
    volatile: str = ""
    tmpfs: tuple[Tmpfs, ...] = ()
    health: Health | None = None
    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    autostart: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()
    group: str = ""
    max_unavailable: int | None = None
    after: tuple[After, ...] = ()

    @property
    def restricted(self) -> bool:
        """Tell whether there are rules of its own about what it may reach, or who may reach it."""
        return self.isolated or self.egress is not None

    @property
    def has_settings(self) -> bool:
        """Tell whether it is given or denied what other machines are not: code for that need not be loaded else."""
        return any([
            self.memory_high, self.swap is not None, self.cpu_weight, self.io_weight, self.tasks,
            self.restart != "no", self.restart_delay, self.devices, self.capabilities, self.drop_capabilities,
            self.system_call_filter, self.nesting, self.read_only, self.volatile, self.tmpfs,
        ])  # fmt: skip

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges it is on, those of zones among them, each once."""
        names = (link_network(link, self.name) for link in self.links if link.kind != "veth")
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def networks(self) -> tuple[str, ...]:
        """The bridges it is on and its own veth to the host: all that can be networks of machctl's."""
        names = (link_network(link, self.name) for link in self.links)
        return tuple(dict.fromkeys(name for name in names if name is not None))
