# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine as it is declared, by flags or in a file."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.model.link import DEFAULT_BRIDGE as DEFAULT_BRIDGE
from machines.model.link import DEFAULT_LINKS, Attachment
from machines.model.names import link_network
from machines.model.publish import Egress
from machines.model.publish import Publish as Publish
from machines.model.source import Source


@dataclass(frozen=True)
class Bind:
    """A directory or file of the host that the machine sees, at ``destination``."""

    source: str
    destination: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.destination}" + (":ro" if self.read_only else "")


@dataclass(frozen=True)
class Machine:
    """A declared machine. ``memory`` and ``disk`` are in bytes, ``cpus`` in processors (1.5 is one and a half).

    ``network`` is "private" for a network namespace with ``links``, "none" for one without any, "host" for the host's
    own. ``isolated`` keeps it from everything but its published ports, ``egress`` is what it may reach: everything
    when None, nothing when empty. ``on_demand`` starts it at the first connection to a published port, ``idle_stop``
    stops it so many seconds after the last one.
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
    cpus: float | None = None
    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    autostart: bool = False

    @property
    def restricted(self) -> bool:
        """Tell whether there are rules of its own about what it may reach, or who may reach it."""
        return self.isolated or self.egress is not None

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
