# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of machines: which lines of hosts(5) they are, where those are kept, and whether they are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from machines.model.network import DOMAIN, Network
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.networks import hosts_line, render_resolver

BEGIN = "# machctl: names of machines; what stands between these two lines is written anew by machctl"
END = "# machctl: end of the names of machines"

# What the host itself is called in the domain of its machines, beside its own name.
HOST_NAME = "host"


def name_servers(network: Network | None, host: Host) -> tuple[str, ...]:
    """Give the name servers that machines on a network are told of.

    Where the host's resolved runs, that answers at the gateway: it knows the machines, and it knows the host's own
    servers even where these change. So does another server that the host alone can ask. Else, and where that one does
    not answer, they are the host's servers themselves.
    """
    if network and network.dns and host.resolved:
        return network.gateways
    return (network.gateway, *host.dns) if network and own_server(network, host) else host.dns


def own_server(network: Network, host: Host) -> str:
    """Give the host's own name server on 127.0.0.0/8 that is to answer at the gateway of a network; "" for none."""
    return host.local_dns if network.dns and not host.resolved else ""


def search_domain(network: Network | None, host: Host) -> str:
    """Give the domain that machines on a network look up plain names in; "" where nobody answers for it."""
    return DOMAIN if network and network.dns and host.resolved else ""


def host_lines(records: Mapping[str, Record], networks: Mapping[str, Network], hostname: str) -> tuple[str, ...]:
    """Give the lines of the host's own hosts(5): every machine with fixed addresses, and the host at its gateways."""
    return _lines(records, networks, networks, hostname, plain=False)


def guest_lines(
    name: str, records: Mapping[str, Record], networks: Mapping[str, Network], hostname: str
) -> tuple[str, ...]:
    """Give the lines of a machine's hosts(5): the machines it can reach, and the host at the gateways of its networks.

    Empty where it is on no network that has names.
    """
    own = {bridge: networks[bridge] for bridge in records[name].addresses if bridge in networks}
    own = {bridge: network for bridge, network in own.items() if network.dns}
    reached = {**own, **{other: networks[other] for each in own.values() for other in each.reach if other in networks}}
    return _lines(records, reached, own, hostname, plain=True)


def lines_of_guests(
    records: Mapping[str, Record], networks: Mapping[str, Network], hostname: str
) -> Callable[[str], tuple[str, ...]]:
    """Give what gives guest_lines() of each machine: they are the same for all that are on the same networks."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def lines(name: str) -> tuple[str, ...]:
        key = tuple(records[name].addresses)
        if key not in known:
            known[key] = guest_lines(name, records, networks, hostname)
        return known[key]

    return lines


def _lines(
    records: Mapping[str, Record],
    networks: Mapping[str, Network],
    gateways: Mapping[str, Network],
    hostname: str,
    *,
    plain: bool,
) -> tuple[str, ...]:
    found = []
    for name, record in sorted(records.items()):
        for addresses in (record.addresses, record.addresses6):
            found += [hosts_line(addresses[bridge], name) for bridge in addresses if bridge in networks]
    # A machine may be called as the host is. On the host its own plain name is somebody else's business.
    own = [name for name in dict.fromkeys((HOST_NAME, hostname)) if name and name not in records]
    for network in gateways.values():
        found += [hosts_line(gateway, *own, plain=plain) for gateway in network.gateways if own]
    return tuple(found)


def block_of(text: str) -> tuple[str, ...]:
    """Give the lines that a hosts(5) file has between machctl's own two."""
    return tuple(_parted(text)[1])


def with_block(text: str, lines: Sequence[str]) -> str:
    """Give the text of a hosts(5) file with these lines between machctl's own two, and all others as they were."""
    rest, inside, whole = _parted(text)
    if whole and inside == list(lines):
        return text
    kept = "".join(rest)
    if not lines:
        return kept
    if kept and not kept.endswith("\n"):
        kept += "\n"
    return kept + "\n".join([BEGIN, *lines, END]) + "\n"


def _parted(text: str) -> tuple[list[str], list[str], bool]:
    """Part a text into the lines of others, with their ends, and those of machctl; tell whether these have their end.

    Where somebody took away the last line of machctl's, what follows is only machctl's if it says so.
    """
    lines = text.splitlines(keepends=True)
    rest: list[str] = []
    inside: list[str] = []
    index, whole = 0, True
    while index < len(lines):
        if lines[index].strip() != BEGIN:
            rest.append(lines[index])
            index += 1
            continue
        stripped = [line.strip() for line in lines[index + 1 :]]
        if END in stripped:
            count = stripped.index(END)
            inside += stripped[:count]
            index += count + 2
        else:
            index, whole = index + 1, False
            while index < len(lines) and f".{DOMAIN}" in lines[index]:
                index += 1
    return rest, inside, whole


def plan_names(before: Host, after: Host, *, machine: str = "") -> Plan:
    """Give the steps that make names known as they are ``after`` a plan: its machines and networks."""
    plan: Plan = []
    resolver = render_resolver(after.networks.values()) if after.resolved else ""
    if before.files.get(paths.RESOLVER_FILE, "") != resolver or paths.RESOLVER_PENDING in before.files:
        reason = "machines ask it for names" if resolver else "no machine asks it for names"
        plan.append(steps.KeepResolver(reason=reason, machine=machine))
    wanted = host_lines(after.records, after.networks, after.hostname)
    have = block_of(before.files.get(paths.HOSTS_FILE, ""))
    guests = stale_guests(before.guest_hosts, after)
    if wanted != have or guests:
        detail = [f"-{line}" for line in have if line not in wanted] + [
            f"+{line}" for line in wanted if line not in have
        ]
        plan.append(
            steps.KeepNames(
                reason="names of machines changed", machine=machine, guests=guests, detail="\n".join(detail)
            )
        )
    return plan


def stale_guests(texts: Mapping[str, str], host: Host) -> tuple[str, ...]:
    """Name the machines in whose trees other names are kept than should be; ``texts`` are their hosts(5) files."""
    if host.resolved:
        return ()
    lines = lines_of_guests(host.records, host.networks, host.hostname)
    return tuple(
        name
        for name, record in sorted(host.records.items())
        if record.addresses
        and (name in texts or name not in host.trees)
        and block_of(texts.get(name, "")) != lines(name)
    )


def without_names(plan: Plan) -> Plan:
    """Give a plan without the steps that keep names, where another one has them for all."""
    return [step for step in plan if not isinstance(step, (steps.KeepNames, steps.KeepResolver))]


def names_only(plan: Plan) -> Plan:
    """Give the steps of a plan that keep names."""
    return [step for step in plan if isinstance(step, (steps.KeepNames, steps.KeepResolver))]
