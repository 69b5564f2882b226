# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans of several machines in the order in which they may be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from machines.errors import Conflict, MachctlError, NotFound
from machines.model.machine import Machine
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan

_RUNNING = (steps.StartMachine, steps.RestartMachine, steps.StopMachine)


def split_start(plan: Plan) -> tuple[Plan, Plan]:
    """Give what of a machine's plan leads up to its start, and the rest from there on."""
    for index, step in enumerate(plan):
        if isinstance(step, _RUNNING):
            return plan[:index], plan[index:]
    return plan, []


def is_new(plan: Plan) -> bool:
    """Tell whether a plan makes a machine that is not there yet: nobody can notice what is done of it."""
    return any(isinstance(step, steps.PlaceTree) for step in split_start(plan)[0])


def check_waits(machine: Machine, host: Host, declared: Mapping[str, Machine]) -> list[MachctlError]:
    """Give the machines that ``machine`` waits for and that there are not."""
    missing = [after.machine for after in machine.after if after.machine not in {*declared, *host.trees}]
    return [_no_such(machine, name, host) for name in missing]


def _no_such(machine: Machine, name: str, host: Host) -> MachctlError:
    """The error of a machine that waits for one that there is not, with the line that says so."""
    said = f"machine {machine.name} waits for {name}, and there is no such machine"
    hint = f"declare {name}, or take it out of the after of {machine.name} in {machine.origin}"
    if machine.origin in host.files:
        from machines.declare.reader import with_line

        said = with_line(said, machine.origin, f"machines.{machine.group or machine.name}.after", host.files)
    return NotFound(said, hint=hint)


def left_out(name: str, failed: Iterable[str], *, made: bool) -> MachctlError:
    """Give the error of a machine that was left as it is since others have failed that it comes after."""
    others = ", ".join(sorted(failed))
    what = "made and not started" if made else "left as it is"
    return Conflict(f"machine {name} is {what}: it comes after {others}", hint="correct that, then: machctl apply")
