# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl network create, ls, show, rm"""

from __future__ import annotations

from machines.cli import words
from machines.cli.output import note, show_object, show_rows
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status
from machines.cli.wire import RealHost
from machines.errors import InvalidValue, MachctlError, raise_all
from machines.operations import networks

COLUMNS = ("name", "state", "mode", "subnet", "subnet6", "dns", "machines")


def create(
    context: words.Context,
    name: str = words.Argument(..., metavar="NAME", help="The network, which is its bridge's name too."),
    subnet: str = words.Option("", "--subnet", metavar="SUBNET", help="Its IPv4 subnet; a free one if left out."),
    subnet6: str = words.Option("", "--subnet6", metavar="SUBNET", help="Its IPv6 subnet; a free one if left out."),
    ipv6: bool = words.Option(False, "--ipv6", help="Give it IPv6 (the default)."),
    no_ipv6: bool = words.Option(False, "--no-ipv6", help="Give it no IPv6."),
    nat: bool = words.Option(False, "--nat", help="What leaves it has the host's address (the default)."),
    routed: bool = words.Option(False, "--routed", help="What leaves it has the machines' own addresses."),
    isolated: bool = words.Option(False, "--isolated", help="Nothing leaves it."),
    dhcp: bool = words.Option(False, "--dhcp", help="Serve leases on it, where networkd runs (the default)."),
    no_dhcp: bool = words.Option(False, "--no-dhcp", help="Serve no leases on it."),
    dns: bool = words.Option(False, "--dns", help="Answer names of machines on it (the default)."),
    no_dns: bool = words.Option(False, "--no-dns", help="Answer no names on it."),
    mtu: str = words.Option("", "--mtu", metavar="BYTES", help="The greatest packet on it."),
    reach: list[str] = words.Option([], "--reach", metavar="NETWORK", help="Another network its machines may reach."),
) -> None:
    """Make a network: a bridge with subnets of its own, that stays until it is removed."""
    from machines.declare import networks as declare
    from machines.model.network import DeclaredNetwork

    for yes, no, what in ((ipv6, no_ipv6, "ipv6"), (dhcp, no_dhcp, "dhcp"), (dns, no_dns, "dns")):
        if yes and no:
            raise InvalidValue(f"--{what} and --no-{what} exclude each other", hint="give one of them")
    modes = [mode for mode, given in (("nat", nat), ("routed", routed), ("isolated", isolated)) if given]
    if len(modes) > 1:
        raise InvalidValue(f"--{' and --'.join(modes)} exclude each other", hint="give one of them")
    network = DeclaredNetwork(
        name=declare.check_network_name(name),
        mode=modes[0] if modes else "nat",
        subnet=declare.parse_subnet(subnet) if subnet else None,
        ipv6=not no_ipv6,
        subnet6=declare.parse_subnet6(subnet6) if subnet6 else None,
        dhcp=not no_dhcp,
        dns=not no_dns,
        mtu=declare.parse_mtu(mtu) if mtu else None,
        reach=tuple(map(declare.check_network_name, reach)),
    )
    raise_all(declare.check_network(network))
    options = context.obj
    plan = run(
        networks.create_network(network, RealHost(), Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what=f"network create {name}",
        quick=True,
    )
    if options.dry_run:
        show_plan({f"network {name}": plan}, options)
    elif options.output == "json":
        show_object(networks.network_row(name, RealHost()), options)
    elif not options.quiet:
        row = networks.network_row(name, RealHost())
        subnets = " and ".join(str(row[key]) for key in ("subnet", "subnet6") if row[key])
        then = f"put a machine on it: machctl create debian --bridge {name}"
        if row["machines"]:
            then = "what changes for the machines on it: machctl plan; and makes it so: machctl apply"
        note(f"made network {name} with {subnets}\n  {then}")


def ls(context: words.Context) -> None:
    """List networks."""
    rows = networks.network_rows(RealHost())
    show_rows(rows, COLUMNS, context.obj, empty="no networks; machctl network create NAME makes one")


def show(
    context: words.Context,
    name: str = words.Argument(..., metavar="NAME", help="The network."),
) -> None:
    """Show all that is known of a network."""
    show_object(networks.network_row(name, RealHost()), context.obj)


def rm(
    context: words.Context,
    names: list[str] = words.Argument(..., metavar="NAME...", help="The networks."),
) -> None:
    """Remove networks that no machine is on."""
    options = context.obj
    host = RealHost()
    failed: dict[str, MachctlError] = {}
    for name in names:
        try:
            plan = run(
                networks.remove_network(name, host, Progress(options), dry_run=options.dry_run),
                timeout=options.timeout,
                what=f"network rm {name}",
                quick=True,
            )
        except MachctlError as error:
            failed[name] = error
            continue
        if options.dry_run:
            show_plan({f"network {name}": plan}, options)
        elif not options.quiet:
            note(f"removed network {name}")
    raise words.Exit(exit_status(failed, len(names)))


VERBS = {"create": create, "ls": ls, "show": show, "rm": rm}
ALIASES = {"list": "ls", "remove": "rm", "inspect": "show", "delete": "rm"}
