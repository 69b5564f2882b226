# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is linked to, as it is declared."""

from __future__ import annotations

from machines.model.frozen import dataclass

DEFAULT_BRIDGE = "machctl0"

KINDS = ("bridge", "veth", "zone", "macvlan", "ipvlan", "interface")
"""The kinds of systemd.nspawn(5): Bridge=, VirtualEthernet=, Zone=, MACVLAN=, IPVLAN=, Interface=."""


@dataclass(frozen=True)
class Attachment:
    """One link of a machine.

    ``target`` is what it leads to: the bridge, the zone, the host's interface; a veth leads to the host itself and has
    none. ``vlan`` is the VLAN that the link is in on its bridge. ``addresses`` are those chosen for it, with a prefix
    ("10.1.0.5/24") or, on a network of machctl's, without one; none chosen is one given by the network, or by DHCP
    where that is not machctl's. ``gateway`` is where the default route leads on a network of others. ``mac`` and
    ``name`` are the link's inside the machine: see inner_names().
    """

    kind: str
    target: str = ""
    vlan: int | None = None
    addresses: tuple[str, ...] = ()
    mac: str | None = None
    name: str | None = None
    gateway: str | None = None


DEFAULT_LINKS = (Attachment("bridge", DEFAULT_BRIDGE),)


def inner_names(links: tuple[Attachment, ...]) -> tuple[str, ...]:
    """Give what links are called inside the machine, in their order, as systemd-nspawn(1) calls them by default.

    That of a macvlan or ipvlan is longer than the kernel takes where its parent's is: nspawn then cuts it, and keeps
    all of it as an altname.
    """
    defaults = {"macvlan": "mv-{}", "ipvlan": "iv-{}", "interface": "{}"}
    return tuple(
        link.name or defaults.get(link.kind, "").format(link.target) or f"host{index}"
        for index, link in enumerate(links)
    )
