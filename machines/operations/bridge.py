# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the unit machctl-bridge@BRIDGE.service does before a machine on that bridge starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.errors import MachctlError, NotFound, TimedOut
from machines.operations.firewall import allow_new
from machines.operations.records import read_networks
from machines.plan.ports import read_loopback
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.network import Network

# networkd makes its bridges within moments of its start; an admin's own may come with the hardware.
WAIT_SECONDS = 30.0
ADDRESS_SECONDS = 3.0


def bridge_up(bridge: str, host: Host) -> str:
    """See to it that ``bridge`` is there and forwards: make it, or wait for whoever makes it.

    Gives what Docker or firewalld had against it, "" for nothing: that is no reason for machines not to start.

    Raises TimedOut when it does not come, NotFound when nobody is going to make it.
    """
    network = read_networks(host).get(bridge)
    _make_or_wait(bridge, network, host)
    keys = read_loopback(host.files.read_text(paths.bridge_sysctl_file(bridge)) or "")
    if keys and _guarded(host):
        for key in keys:
            host.facts.set_sysctl(key, 1)
    if network is not None:
        try:
            allow_new(host)
        except MachctlError as error:
            return f"packets of {bridge} may not pass the host's firewall: {error}"
    return ""


def _guarded(host: Host) -> bool:
    """Tell whether nft keeps machines from the host's 127.0.0.0/8: nothing else does where a bridge routes that."""
    done = host.tools.run(["nft", "list", "chain", "inet", "machctl", "guard"], check=False)
    return done.returncode == 0 and "127.0.0.0/8" in done.stdout


def _make_or_wait(bridge: str, network: Network | None, host: Host) -> None:
    by_networkd = _by_networkd(bridge, host)
    if network is not None:
        # Without it packets of machines end at the host; systemd 257 sets it per link only (systemd.network(5)).
        host.facts.set_sysctl("net.ipv4.ip_forward", 1)
        if network.subnet6:
            host.facts.forward_ipv6()
        if network.kind == "veth":
            # nspawn makes it with the machine.
            return
        if not by_networkd:
            host.links.make_bridge(bridge, network.addresses, mtu=network.mtu)
            return
    if by_networkd and bridge not in host.facts.links():
        # networkd makes a link that somebody deleted only when it reads its files again.
        host.units.reload_networkd()
    try:
        host.links.wait_until(lambda: bridge in host.facts.links(), timeout=WAIT_SECONDS, what=f"bridge {bridge}")
    except TimedOut as error:
        if by_networkd:
            error.hint = "networkctl status says what networkd makes of it; is systemd-networkd running?"
            raise
        raise NotFound(
            f"there is no bridge {bridge}, and machctl does not make it",
            hint=f"make it: ip link add {bridge} type bridge",
        ) from error
    if network is not None:
        _addressed(network, host)


def _addressed(network: Network, host: Host) -> None:
    """Wait for the addresses that networkd gives a bridge: what somebody took away it gives back when told to only.

    It looks at what _not_so() of plans looks at, or those would never come to rest.
    """
    bridge, mtu = network.bridge, network.mtu
    link = host.facts.links().get(bridge)
    if mtu and link and link.mtu not in {None, mtu}:
        host.tools.run(["ip", "link", "set", "dev", bridge, "mtu", str(mtu)], check=False)
    subnet6 = network.subnet6 if host.facts.ipv6_enabled() else None

    def there() -> bool:
        found = host.facts.routes().get(network.subnet) == bridge
        return found and (subnet6 is None or host.facts.routes6().get(subnet6) == bridge)

    try:
        host.links.wait_until(there, timeout=ADDRESS_SECONDS, what=f"the address of bridge {network.bridge}")
    except TimedOut:
        host.tools.run(["networkctl", "reconfigure", network.bridge], check=False)


def bridge_down(bridge: str, host: Host) -> None:
    """Remove a bridge that bridge_up() made, once nothing is on it any more."""
    by_networkd = _by_networkd(bridge, host)
    link = host.facts.links().get(bridge)
    if link and not link.ports and not by_networkd and bridge in read_networks(host):
        host.links.remove_link(bridge)


def _by_networkd(bridge: str, host: Host) -> bool:
    """Tell whether networkd makes the bridge: its files say so, and it was not switched off since."""
    rendered = host.files.read_text(f"{paths.NETWORK_DIRECTORY}/70-machctl-{bridge}.netdev") is not None
    state = host.units.states(["systemd-networkd.service"]).get("systemd-networkd.service") if rendered else ""
    return state in {"active", "activating", "reloading"}
