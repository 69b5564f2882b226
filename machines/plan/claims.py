# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims come first in a plan, and the next plan is made as if they were done."""

from __future__ import annotations

from collections.abc import Mapping

from machines.model.frozen import replace
from machines.model.names import bridge_unit
from machines.model.observed import Host, Link
from machines.plan import steps
from machines.plan.owned import with_record
from machines.plan.steps import Plan
from machines.render import paths


def split_claims(plan: Plan) -> tuple[Plan, Plan]:
    """Give the claims of a plan and the rest of it."""
    claims: Plan = [step for step in plan if isinstance(step, (steps.Claim, steps.ClaimNetwork))]
    return claims, [step for step in plan if step not in claims]


def with_claims(host: Host, plan: Plan) -> Host:
    """Give ``host`` as it is once the claims of a plan are recorded and the bridges it gives up are gone."""
    records, networks = host.records, dict(host.networks)
    for step in plan:
        if isinstance(step, steps.Claim):
            records = with_record(records, step.record)
        elif isinstance(step, steps.ClaimNetwork):
            networks[step.network.bridge] = step.network
        elif isinstance(step, steps.RemoveFile):
            networks = {bridge: net for bridge, net in networks.items() if step.path != paths.network_record(bridge)}
    return replace(host, records=records, networks=networks)


def split_shared(plan: Plan) -> tuple[Plan, Plan]:
    """Give the steps of a plan that bring up bridges for all machines on them, and the rest of it."""
    shared = [step for step in plan if _is_shared(step)]
    return shared, [step for step in plan if not _is_shared(step)] if shared else plan


def _is_shared(step: steps.Step) -> bool:
    if isinstance(step, steps.WriteFile):
        return step.path == paths.NAT_FILE or paths.is_bridge_file(step.path, step.text)
    if isinstance(step, steps.StartUnit):
        return step.unit.startswith("machctl-bridge@")
    return isinstance(step, (steps.ReloadNetworkd, steps.ReloadNetworkManager))


def with_shared(host: Host, plan: Plan) -> Host:
    """Give ``host`` as it is once the claims of a plan are recorded and what it does for all machines is done."""
    view = with_claims(host, plan)
    if any(isinstance(step, steps.LoadNat) for step in plan) and host.nat is not None:
        # All of it is loaded then, whatever else changes in it.
        view = replace(view, nat=None)
    shared = split_shared(plan)[0]
    return with_bridges(view, shared) if shared else view


def with_bridges(host: Host, plan: Plan) -> Host:
    """Give ``host`` as it is once the files of a plan are written and its bridges are up."""
    files, active, links = dict(host.files), set(host.active), dict(host.links)
    routes, routes6 = dict(host.routes), dict(host.routes6)
    units = {bridge_unit(bridge): network for bridge, network in host.networks.items()}
    for step in plan:
        if isinstance(step, steps.WriteFile):
            files[step.path] = step.text
        elif isinstance(step, steps.StartUnit):
            active.add(step.unit)
            network = units.get(step.unit)
            if network and network.kind == "bridge":
                ports = links[network.bridge].ports if network.bridge in links else ()
                links[network.bridge] = Link(network.bridge, "bridge", ports, mtu=network.mtu)
                routes[network.subnet] = network.bridge
                routes6 |= {network.subnet6: network.bridge} if network.subnet6 else {}
    return replace(host, files=files, active=frozenset(active), links=links, routes=routes, routes6=routes6)


def files_after(plan: Plan, files: Mapping[str, str]) -> dict[str, str]:
    """Give the texts of files by path, those of ``files``, as they are once a plan is done."""
    after = dict(files)
    for step in plan:
        if isinstance(step, steps.WriteFile):
            after[step.path] = step.text
        elif isinstance(step, steps.RemoveFile):
            after.pop(step.path, None)
    return after


def closed_like(plan: Plan, origin: str) -> Plan:
    """Give a plan whose declaration of a machine, and what says the same, is for nobody who may not read ``origin``."""
    return [
        replace(step, like=origin) if isinstance(step, steps.WriteFile) and _says_it(step) else step for step in plan
    ]


def _says_it(step: steps.WriteFile) -> bool:
    return step.path.startswith("/etc/machctl/") or step.path in paths.private_files(step.machine)
