# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.errors import raise_all
from machines.model.frozen import replace
from machines.operations.execute import execute
from machines.operations.observe import observe
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan.check_host import check_host
from machines.plan.pool import check_pool, plan_pool
from machines.plan.steps import Plan

if TYPE_CHECKING:
    from machines.host.interfaces import Host


async def create_pool(size: int, host: Host, reporter: Reporter, *, dry_run: bool) -> Plan:
    """Make the pool a btrfs of ``size`` bytes in a file; give the plan. Raises Conflict where something is in it."""
    check_ready(host, verb="pool")
    async with host.files.fleet_lock():
        observed = observe(host)
        tools = observed.tools | ({"mkfs.btrfs"} if host.tools.which("mkfs.btrfs") else frozenset())
        observed = replace(observed, tools=tools, pool_mounted=host.pool.is_mounted(observed.pool))
        raise_all(check_host(observed, verb="pool") or check_pool(observed))
        plan = plan_pool(size)
        if not dry_run:
            await execute(plan, host, reporter=reporter)
    return plan
