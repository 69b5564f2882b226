# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims come first in a plan, and the next plan is made as if they were done."""

from __future__ import annotations

from machines.model.frozen import replace
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths


def split_claims(plan: Plan) -> tuple[Plan, Plan]:
    """Give the claims of a plan and the rest of it."""
    claims: Plan = [step for step in plan if isinstance(step, (steps.Claim, steps.ClaimNetwork))]
    return claims, [step for step in plan if step not in claims]


def with_claims(host: Host, plan: Plan) -> Host:
    """Give ``host`` as it is once the claims of a plan are recorded and the bridges it gives up are gone."""
    records, networks = dict(host.records), dict(host.networks)
    for step in plan:
        if isinstance(step, steps.Claim):
            records[step.record.name] = step.record
        elif isinstance(step, steps.ClaimNetwork):
            networks[step.network.bridge] = step.network
        elif isinstance(step, steps.RemoveFile):
            networks = {bridge: net for bridge, net in networks.items() if step.path != paths.network_record(bridge)}
    return replace(host, records=records, networks=networks)
