# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is linked to, as it is declared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from machines.model.frozen import dataclass
from machines.model.ids import spread

DEFAULT_BRIDGE = "machctl0"

KINDS = ("bridge", "veth", "zone", "macvlan", "ipvlan", "interface")
"""The kinds of systemd.nspawn(5): Bridge=, VirtualEthernet=, Zone=, MACVLAN=, IPVLAN=, Interface=."""

_NUMBERED = {f"host{number}": number for number in range(33)}


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

    One without a name is called by its place, or, where another has that name for its own, by the first that is free.
    That of a macvlan or ipvlan is longer than the kernel takes where its parent's is: nspawn then cuts it, and keeps
    all of it as an altname.
    """
    defaults = {"macvlan": "mv-{}", "ipvlan": "iv-{}", "interface": "{}"}
    own = [link.name or defaults.get(link.kind, "").format(link.target) for link in links]
    names = [name or (f"host{index}" if f"host{index}" not in own else "") for index, name in enumerate(own)]
    for index, name in enumerate(names):
        names[index] = name or next(free for free in map("host{}".format, count()) if free not in names)
    return tuple(names)


def outer_numbers(inner: Sequence[str]) -> tuple[int, ...]:
    """Give the numbers of links that are called so inside, which their ends on the host are called by.

    That of host1 is 1, and of any other name what is made of it: a link keeps its end while others come and go, as the
    machine runs on with it. They have four digits at most.
    """
    numbers: list[int] = []
    for name in inner:
        number = _NUMBERED.get(name)
        if number is None:
            number = 1000 + spread(name) % 9000
            while number in numbers:
                number += 1
        numbers.append(number)
    return tuple(numbers)
