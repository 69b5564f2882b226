# SPDX-License-Identifier: LGPL-2.1-or-later
"""NetworkManager: does it leave the links of machines alone?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.operations.doctor.finding import Finding
from machines.plan import steps
from machines.plan.check_host import NETWORK_MANAGER
from machines.render import paths
from machines.render.networks import unmanaged_files

if TYPE_CHECKING:
    from machines.operations.doctor.look import HostLook


def examine_network_manager(look: HostLook) -> list[Finding]:
    """Ask NetworkManager which of the bridges and of the links in them it manages (nmcli(1), device status).

    It takes the addresses of those with "nmcli networking off", and asks for others by DHCP afterwards.
    """
    host = look.host
    if host.units.states([NETWORK_MANAGER]).get(NETWORK_MANAGER) != "active" or not host.tools.which("nmcli"):
        return []
    lines = host.tools.run(["nmcli", "-t", "-e", "no", "-f", "DEVICE,STATE", "device"], check=False).stdout.splitlines()
    states = {name: state for name, _, state in (line.partition(":") for line in lines)}
    ours = [name for name in states if name in look.networks or _master(name, look) in look.networks]
    managed = sorted(name for name in ours if states[name] != "unmanaged")
    if not managed:
        return [Finding("networkmanager", "ok", "NetworkManager leaves the links of machines alone")]
    wanted = {path: text for network in look.networks.values() for path, text in unmanaged_files(network).items()}
    fix: list[steps.Step] = [
        steps.WriteFile(reason="NetworkManager manages its links", path=path, text=text)
        for path, text in wanted.items()
        if host.files.read_text(path) != text
    ]
    fix.append(steps.ReloadNetworkManager(reason="it is to leave links of machines alone"))
    return [
        Finding(
            "networkmanager",
            "warning",
            f"NetworkManager manages {', '.join(managed)}, and takes their addresses with its next change",
            f"machctl doctor --fix; it writes {paths.NETWORK_MANAGER_DIRECTORY}/70-machctl-*.conf",
            tuple(fix),
        )
    ]


def _master(name: str, look: HostLook) -> str:
    return look.links[name].master if name in look.links else ""
