# SPDX-License-Identifier: LGPL-2.1-or-later
"""down: the fleet is stopped in the reverse of the order in which it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.errors import Conflict, MachctlError, raise_all
from machines.model.after import order_of, reverse
from machines.operations.declared import declared_machines, said_twice
from machines.operations.fleetplan import Plans, chosen_machines
from machines.operations.lifecycle import STOP_SECONDS, refuse_copied, stop_in_time
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.operations.together import Before, in_order
from machines.plan.lifecycle import plan_stop

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def plan_down(names: list[str], host: Host, *, terminate: bool = False) -> tuple[Plans, Mapping[str, frozenset[str]]]:
    """Give the plans that stop the named machines, all that are declared without names, and which stops after which.

    Of machines that do not run there is no plan. Raises NotFound for a name that is not declared.
    """
    check_ready(host, verb="down")
    declared = declared_machines(host, together=False)
    running = host.running()
    machines = chosen_machines(names, declared, host, verb="down")
    raise_all(said_twice(machines, host))
    chosen = [machine.name for machine in machines if machine.name in running]
    order = reverse(order_of({name: declared[name] for name in chosen}))
    return {name: plan_stop(name, terminate=terminate) for name in _sorted(order)}, order


def _sorted(order: Mapping[str, frozenset[str]]) -> list[str]:
    """Give the names with each behind those that it stops after."""
    found: list[str] = []
    left = sorted(order)
    while left:
        ready = [name for name in left if order[name] <= {*found}] or left
        found += ready
        left = [name for name in left if name not in ready]
    return found


async def down(
    plans: Plans,
    order: Mapping[str, frozenset[str]],
    host: Host,
    reporter: Reporter,
    *,
    timeout: float | None,
) -> dict[str, MachctlError]:
    """Stop machines, each once all that come after it are stopped; give the errors of those that are not.

    Each is given ``timeout`` seconds. One that others still depend on is left running.
    """

    async def one(name: str, before: Before) -> None:
        if wrong := await before():
            raise Conflict(
                f"machine {name} is left running: {', '.join(sorted(wrong))} did not stop and comes after it",
                hint="machctl down --force ends them the hard way",
            )
        for step in plans[name]:
            reporter.step(step)
            terminate = getattr(step, "terminate", False)
            if not terminate:
                refuse_copied(name, host)
            await stop_in_time(name, host, terminate=terminate, timeout=timeout or STOP_SECONDS)

    return await in_order(plans, order, one, failed={}, ended=reporter.ended)
