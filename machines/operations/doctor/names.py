# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names: do the name servers that the machine asks answer it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.operations.doctor.finding import Finding

if TYPE_CHECKING:
    from machines.model.publish import Egress
    from machines.operations.doctor.look import Look

# Reserved for questions like this one (RFC 2606).
_NAME = "example.com"


def look_at_names(look: Look) -> list[Finding]:
    """Ask every name server of the machine from within its network."""
    if not look.name_servers:
        return [
            Finding(
                "dns",
                "bad",
                "the machine knows no name server",
                f"machctl exec {look.name} -- cat /etc/resolv.conf; machctl doctor names those that machines get",
            )
        ]
    assert look.leader is not None
    found = []
    for server in look.name_servers:
        error = look.host.probes.asks_dns(server, _NAME, leader=look.leader)
        if error is None:
            found.append(_silent(server, look))
        elif error:
            found.append(
                Finding(
                    "dns",
                    "warning",
                    f"name server {server} answers the machine that it cannot tell: {error}",
                    "the server itself has nobody to ask: resolvectl status",
                )
            )
        else:
            found.append(Finding("dns", "ok", f"name server {server} answers the machine"))
    if any(finding.level == "ok" for finding in found):
        # One of several is enough: resolvers go on to the next.
        found = [finding if finding.level != "bad" else _weaker(finding) for finding in found]
    return found


def _weaker(finding: Finding) -> Finding:
    return Finding(finding.check, "warning", finding.message, finding.remedy)


def _silent(server: str, look: Look) -> Finding:
    message = f"name server {server} does not answer the machine"
    machine = look.machine
    if machine and machine.egress is not None and not any(_is_dns(port) for port in machine.egress):
        allowed = ", ".join(map(str, machine.egress)) or "nothing"
        # Where nothing at all is allowed that is what was wanted.
        return Finding(
            "dns",
            "bad" if machine.egress else "warning",
            f"{message}: egress lets it reach {allowed}, and not 53/udp",
            f"add 53/udp to egress in {machine.origin}, then: machctl apply {look.name}",
        )
    if machine and machine.isolated:
        remedy = f"isolated = true in {machine.origin} keeps it from everything"
        return Finding("dns", "warning", f"{message}: it is isolated", remedy)
    if any(server == address.split("/")[0] for link in look.links.values() for address in link.addresses):
        own = look.host.facts.local_dns()
        remedy = (
            f"it is {own} of this host that is to answer there: ss -ln 'sport = 53' shows whether it listens"
            if own
            else "it is this host: systemctl restart systemd-resolved; ss -lun shows whether it listens"
        )
        return Finding("dns", "bad", message, remedy)
    if look.host.probes.asks_dns(server, _NAME) is None:
        remedy = "name another one in the host's /etc/resolv.conf, or mend it"
        return Finding("dns", "bad", f"{message}, nor this host", remedy)
    return Finding("dns", "bad", f"{message}; it does answer this host", "it may refuse those it does not know")


def _is_dns(port: Egress) -> bool:
    return port.protocol == "udp" and port.first <= 53 <= port.last
