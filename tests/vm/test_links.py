# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links that not every kernel has: ports of VLANs, and ipvlan."""

from __future__ import annotations

import lan
from throwaway import Host

BRIDGE = "vbr0"
# Of an admin: who is in VLAN 20 is 10.20.0.1, who is in none is 10.20.0.2.
UP = f"""
{lan.DOWN}
{lan.UP}
ip link add {BRIDGE} type bridge vlan_filtering 1
bridge vlan add dev {BRIDGE} self vid 20
ip link add link {BRIDGE} name {BRIDGE}.20 type vlan id 20
ip address add 10.20.0.1/24 dev {BRIDGE}.20
ip link set {BRIDGE} up
ip link set {BRIDGE}.20 up
"""
DOWN = f"""
ip link delete {BRIDGE}
{lan.DOWN}
"""
LINKS = (f"{BRIDGE},vlan=20,ip=10.20.0.5/24", f"ipvlan:{lan.LINK},ip=192.0.2.20/24")
# The first answer comes once networkd inside has seen its new links.
TRY = f"""
reached() {{ "$@" -c 1 -w 30 >/dev/null 2>&1 && echo "$answer"; }}
answer=vlan; reached ping 10.20.0.5
answer=ipvlan; reached ip netns exec lan ping 192.0.2.20
ip address flush dev {BRIDGE}.20
ip address add 10.20.0.2/24 dev {BRIDGE}
ping -c 1 -W 2 10.20.0.5 >/dev/null 2>&1 || echo apart
"""


def test_vlans_are_kept_apart_and_an_ipvlan_is_reached_from_the_lan(vm: Host) -> None:
    try:
        vm.sh(UP)
        vm.machctl("net", "attach", "debian", *LINKS)
        assert vm.sh(TRY).split() == ["vlan", "ipvlan", "apart"]
        vm.machctl("net", "detach", "debian", "host1", f"iv-{lan.LINK}")
    finally:
        vm.sh(DOWN, status=None)
