# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the unit machctl-firewall.service does: packets of machines past the rules of Docker and of firewalld.

An accept in machctl's own table overrides no drop in another one (nft(8), VERDICT STATEMENTS), so each of the two has
to be asked in its own way: Docker has a chain for its users, firewalld has zones.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from machines.errors import Canceled
from machines.operations.firewalld import open_ports
from machines.operations.records import read_networks
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

UNIT = "machctl-firewall.service"
FIREWALLS = ("docker.service", "firewalld.service")
CHAIN = "MACHCTL"
USERS = "DOCKER-USER"
ZONE = "trusted"


def allow(host: Host) -> None:
    """Have Docker and firewalld let packets of all networks of machctl's pass, and of none that is gone."""
    networks = sorted(read_networks(host))
    for family in ("iptables", "ip6tables"):
        if _has_users(family, host):
            _docker(family, networks, host)
    if _firewalld(host):
        _zone(networks, host)
        open_ports(host)


def _docker(family: str, networks: list[str], host: Host) -> None:
    jumps = host.tools.run([family, "--wait", "-C", USERS, "-j", CHAIN], check=False).returncode == 0
    if networks:
        host.tools.run([f"{family}-restore", "--noflush", "--wait"], input=docker_rules(networks))
        if not jumps:
            host.tools.run([family, "--wait", "-I", USERS, "-j", CHAIN])
    elif jumps:
        for words in (["-D", USERS, "-j", CHAIN], ["-F", CHAIN], ["-X", CHAIN]):
            host.tools.run([family, "--wait", *words])


def _zone(networks: list[str], host: Host) -> None:
    """Put new bridges into the zone; for good as well, as firewall-cmd --reload forgets the rest.

    Where those are that were there before is up to the admin. The file names all that may be in the zone, with a "+"
    before those that may not be yet.
    """
    entries = (host.files.read_text(paths.FIREWALLD_FILE) or "").split()
    new = [network for network in networks if network not in entries]
    gone = [entry.lstrip("+") for entry in entries if entry.lstrip("+") not in networks]
    if new or gone:
        begun = sorted({*(f"+{network}" for network in new), *(e for e in entries if e.lstrip("+") not in new)})
        host.files.write_file(paths.FIREWALLD_FILE, "".join(f"{entry}\n" for entry in begun))
    for permanent in (["--permanent"], []):
        firewall_cmd = ["firewall-cmd", "--quiet", *permanent, f"--zone={ZONE}"]
        if gone:
            host.tools.run([*firewall_cmd, *(f"--remove-interface={network}" for network in gone)], check=False)
        if new:
            host.tools.run([*firewall_cmd, *(f"--change-interface={network}" for network in new)])
    # What others have put there is theirs.
    if networks and (new or gone):
        host.files.write_file(paths.FIREWALLD_FILE, "".join(f"{network}\n" for network in networks))
    elif not networks:
        host.files.remove_file(paths.FIREWALLD_FILE)


def allow_new(host: Host) -> None:
    """Have the unit do its work again, as there is another network, where one of the two runs."""
    states = host.units.states([*FIREWALLS, UNIT])
    if any(states.get(unit) == "active" for unit in FIREWALLS):
        # Another's restart at the same time comes in the place of this one, and does its work.
        with suppress(Canceled):
            host.units.run_jobs("restart", [UNIT])


def docker_rules(networks: Sequence[str]) -> str:
    """Give machctl's chain for iptables-restore(8): all that it does with its own networks, but not into Docker's."""
    rules = [f"-A {CHAIN} -o {network} -j ACCEPT" for network in networks]
    for network in networks:
        rules += [f"-A {CHAIN} -i {network} -o {theirs} -j RETURN" for theirs in ("docker0", "br-+")]
        rules.append(f"-A {CHAIN} -i {network} -j ACCEPT")
    return "\n".join(["*filter", f":{CHAIN} - [0:0]", *rules, "COMMIT", ""])


def _has_users(family: str, host: Host) -> bool:
    if host.tools.which(family) is None:
        return False
    return host.tools.run([family, "--wait", "-n", "-L", USERS], check=False).returncode == 0


def _firewalld(host: Host) -> bool:
    if host.tools.which("firewall-cmd") is None:
        return False
    return host.tools.run(["firewall-cmd", "--quiet", "--state"], check=False).returncode == 0
