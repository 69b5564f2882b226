# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a plan that change links, networks, ports and names."""

from __future__ import annotations

from machines.model.frozen import dataclass
from machines.model.network import Network
from machines.plan.step import Step


@dataclass(frozen=True, kw_only=True)
class ClaimNetwork(Step):
    """Record a network that machctl makes, with its subnets."""

    network: Network

    def __str__(self) -> str:
        return f"record bridge {self.network.bridge} with subnet {self.network.subnet}"


@dataclass(frozen=True, kw_only=True)
class KeepNames(Step):
    """Keep the names of machines in the host's /etc/hosts, and in the trees of ``guests`` where nobody answers them."""

    guests: tuple[str, ...] = ()

    def __str__(self) -> str:
        some = ", ".join(self.guests) if len(self.guests) <= 3 else f"{len(self.guests)} machines"
        trees = f" and in the trees of {some}" if some else ""
        return f"keep the names of machines in /etc/hosts{trees}"


@dataclass(frozen=True, kw_only=True)
class KeepResolver(Step):
    """Have the host's resolved answer machines at the gateways of their networks, those there are then."""

    def __str__(self) -> str:
        return "have systemd-resolved answer at the gateways of networks"


@dataclass(frozen=True, kw_only=True)
class ReloadNetworkd(Step):
    """Make networkd read its files again (org.freedesktop.network1.Manager.Reload)."""

    def __str__(self) -> str:
        return "reload systemd-networkd"


@dataclass(frozen=True, kw_only=True)
class ReloadNetworkManager(Step):
    """Make NetworkManager read its configuration again, and leave alone what that says from now on."""

    def __str__(self) -> str:
        return "reload NetworkManager"


@dataclass(frozen=True, kw_only=True)
class LoadNat(Step):
    """Load the nft table inet machctl anew from its files; without any, drop it."""

    drop: bool = False

    def __str__(self) -> str:
        return "drop the nft table inet machctl" if self.drop else "load the nft table inet machctl"


@dataclass(frozen=True, kw_only=True)
class SetLink(Step):
    """Set a link of the host up, into bridge ``master``, with ``addresses`` ("10.64.3.1/24") beside those it has.

    ``port`` are commands that make it again what it was as a port of that bridge: the kernel forgets that with it.
    """

    link: str
    master: str = ""
    addresses: tuple[str, ...] = ()
    port: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.master and not self.addresses:
            return f"put {self.link} back on {self.master}"
        what = [f"address {address}" for address in self.addresses]
        what += [f"bridge {self.master}"] if self.master else []
        return f"set link {self.link} up" + (f" with {', '.join(what)}" if what else "")


@dataclass(frozen=True, kw_only=True)
class SetSysctl(Step):
    """Set a number of the kernel's; in a name with slashes, dots are dots (sysctl.d(5))."""

    name: str
    value: int

    def __str__(self) -> str:
        return f"set {self.name} to {self.value}"


@dataclass(frozen=True, kw_only=True)
class OpenPorts(Step):
    """Start the sockets of published ports, again where ``restart`` says so."""

    units: tuple[str, ...]
    restart: bool = False

    def __str__(self) -> str:
        return f"{'restart' if self.restart else 'start'} {' '.join(self.units)}"


@dataclass(frozen=True, kw_only=True)
class ClosePorts(Step):
    """Stop the sockets of published ports and what passes on their connections."""

    units: tuple[str, ...]

    def __str__(self) -> str:
        return f"stop {' '.join(self.units)}"


@dataclass(frozen=True, kw_only=True)
class RemoveLink(Step):
    """Remove a link that machctl made; networkd leaves the bridges it made when their files go."""

    link: str

    def __str__(self) -> str:
        return f"remove link {self.link}"


@dataclass(frozen=True, kw_only=True)
class AttachLink(Step):
    """Give a running machine one more link, called ``link`` in it.

    ``make`` are words to ip(8) that make it, in which {leader} is the machine's first process; ``outside`` are commands
    to run on the host afterwards, ``inside`` words to ip(8) in the machine's network namespace.
    """

    link: str
    make: str
    outside: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"attach link {self.link} to {self.machine}"


@dataclass(frozen=True, kw_only=True)
class DetachLink(Step):
    """Take a link away from a running machine; back to the host as ``parent`` where it was an interface of that."""

    link: str
    parent: str = ""

    def __str__(self) -> str:
        return f"detach link {self.link} from {self.machine}"
