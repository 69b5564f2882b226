# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is left of a machine that machctl no longer looks after: files that need systemd, ip(8) and nft(8) alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from machines.model.names import bridge_unit, machine_unit
from machines.model.network import Network
from machines.render import paths
from machines.render.environment import render

_OURS = re.compile(r"\b(inet|bridge) machctl\b")
# What a machine of machctl's does at its start for machctl alone.
_ALONE = ("RuntimeDirectory=machctl/", "ExecStartPre=-/bin/cp -rt /run/machctl/")
WAITS = "ExecStartPre=/bin/sh -c 'test ! -x /usr/local/bin/machctl"

_FORWARD6 = (
    '/bin/sh -c \'cd /proc/sys/net/ipv6/conf && test "$$(cat all/forwarding)" = 1 || { for link in *; do '
    'test $$link = all || test "$$(cat $$link/accept_ra)" != 1 || echo 2 >$$link/accept_ra; '
    "done; echo 1 >all/forwarding; }'"
)


def network_unit(name: str) -> str:
    """The unit that sees to the bridges and the rules of a machine that was ejected."""
    return f"machine-{name}-network.service"


def rules_file(name: str) -> str:
    """Its rules of nft(8)."""
    return f"{paths.NSPAWN_DIRECTORY}/{name}.nft"


def reload_file(name: str) -> str:
    """What loads its rules again once nftables.service has flushed all, which a restart of it does."""
    return f"{paths.UNIT_DIRECTORY}/nftables.service.d/machine-{name}.conf"


def ejected_reload(name: str) -> str:
    """Give that drop-in. Not PartOf=: stopping the machine's own unit would take its bridges away."""
    return f"{paths.ejected_header(name)}\n[Service]\nExecStartPost=-nft -f {rules_file(name)}\n"


def used_file(name: str) -> str:
    """What stops it once nobody is connected any more, in the place of the template of units/."""
    return f"{paths.UNIT_DIRECTORY}/machctl-used@{name}.target"


def resolver_file(name: str) -> str:
    """What has resolved answer it at the gateways of its networks."""
    return f"/etc/systemd/resolved.conf.d/machine-{name}.conf"


def ejected_rules(name: str, texts: Iterable[str]) -> str:
    """Give rules of machctl's table as those of a table of the machine's own."""
    lines = [line for text in texts for line in text.splitlines()]
    kept = [line for line in lines if not line.startswith(("# machctl:", "include "))]
    return "\n".join([paths.ejected_header(name), *(_OURS.sub(rf"\1 machine-{name}", line) for line in kept)]) + "\n"


def ejected_unit(name: str, networks: Sequence[Network], *, alone: Collection[str]) -> str:
    """Give the unit that makes the bridges of a machine, as far as they are not there, and loads its rules.

    Those that it has ``alone`` go with it, unless something is on them.
    """
    commands: list[str] = []
    for network in networks:
        bridge = network.bridge
        if network.kind == "bridge":
            commands.append(f"/bin/sh -c 'test -e /sys/class/net/{bridge} || ip link add {bridge} type bridge'")
            for address in network.addresses:
                commands.append(f"ip address replace {address} dev {bridge}{' nodad' if ':' in address else ''}")
            commands.append(f"ip link set {bridge}{f' mtu {network.mtu}' if network.mtu else ''} up")
        commands.append("/bin/sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'")
        commands += [_FORWARD6] if network.subnet6 else []
    rules = rules_file(name)
    return render(
        "ejected-network.service",
        header=paths.ejected_header(name),
        name=name,
        machine_unit=machine_unit(name),
        commands=[*dict.fromkeys(commands), f"nft -f {rules}"],
        table=f"machine-{name}",
        bridges=[network.bridge for network in networks if network.kind == "bridge" and network.bridge in alone],
        rules=rules,
    )


def ejected_used(name: str) -> str:
    """Give what stops a machine that is started on demand."""
    return render("ejected-used.target", header=paths.ejected_header(name), name=name, machine_unit=machine_unit(name))


def ejected_resolver(name: str, networks: Iterable[Network]) -> str:
    """Give what has resolved answer at the gateways of networks."""
    listeners = [gateway for network in networks for gateway in network.gateways]
    return render("resolved.conf", header=paths.ejected_header(name), listeners=listeners)


def ejected(name: str, text: str, *, networks: Collection[str]) -> str:
    """Give a file of a machine without what needs machctl; done again it is the same.

    ``networks`` are those that machctl makes: what waited for their units waits for network_unit().
    """
    found: list[str] = []
    for line in text.splitlines()[1:]:
        if line.startswith((*_ALONE, WAITS)):
            # The remark above is about it.
            while found and found[-1].startswith("#"):
                found.pop()
        elif line.startswith(("Wants=", "After=")):
            key, _, value = line.partition("=")
            units = _units(name, value.split(), networks)
            found += [f"{key}={' '.join(units)}"] if units else []
        else:
            found.append(line)
    return "\n".join([paths.ejected_header(name), *found]) + "\n"


def _units(name: str, units: list[str], networks: Collection[str]) -> list[str]:
    own = {bridge_unit(bridge) for bridge in networks} | {"machctl-nat.service"} if networks else set()
    found = [network_unit(name) if unit in own else unit for unit in units]
    gone = ("machctl-bridge@", "machctl-nat.", "machctl-apply.", "machctl-health@", "machctl-healthy@")
    return [unit for unit in dict.fromkeys(found) if not unit.startswith(gone)]
