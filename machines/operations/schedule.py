# SPDX-License-Identifier: LGPL-2.1-or-later
"""Times that somebody chose, in systemd's words (systemd.time(7), "Calendar Events")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from machines.errors import InvalidValue, NotFound
from machines.model.names import update_timer
from machines.operations.execute import execute
from machines.operations.ready import check_ready
from machines.operations.reporter import Reporter
from machines.plan.schedule import APPLY_TIMER, plan_schedule, plan_unschedule, scheduled
from machines.plan.steps import Plan
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

OFF = "off"

# No specifier of systemd.unit(5), and nothing that ends a line.
_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -:*,./~+_")
_HINT = 'as in daily, "Sun 03:00" or "*-*-1..7 04:30"; systemd-analyze calendar explains others'


def next_time(when: str, host: Host) -> str:
    """Give when a calendar expression comes true next, as systemd says it. Raises InvalidValue for what is none."""
    if not when.strip() or not set(when) <= _CHARACTERS:
        raise InvalidValue(f"{when!r} is no time to do something at", hint=_HINT)
    done = host.tools.run(["systemd-analyze", "calendar", "--", when], check=False)
    said = dict(line.strip().partition(": ")[::2] for line in done.stdout.splitlines())
    found = next((value for key, value in said.items() if key.startswith("Next elapse")), "")
    if done.returncode or not found:
        raise InvalidValue(f"{when!r} is no time to do something at", hint=_HINT)
    if found == "never":
        raise InvalidValue(f"{when!r} is over and does not come again", hint=_HINT)
    return found


def apply_time(host: Host) -> tuple[str, str]:
    """Give the times at which a fleet is applied by itself, and the next of them; both "" where it is not."""
    when = scheduled(host.files.read_text(paths.unit_dropin(APPLY_TIMER)))
    if not when:
        return "", ""
    try:
        return when, next_time(when, host)
    except InvalidValue:
        return when, ""


async def schedule_apply(
    when: str, host: Host, reporter: Reporter, *, flags: tuple[str, ...] = (), dry_run: bool = False
) -> Plan:
    """Have the fleet applied at ``when``, or no more with "off"; give the plan. Raises InvalidValue, NotFound."""
    check_ready(host, verb="apply")
    if when == OFF:
        _require_scheduled(APPLY_TIMER, "no time is set at which the fleet is applied", host)
        plan = plan_unschedule(APPLY_TIMER)
    else:
        next_time(when, host)
        plan = plan_schedule(APPLY_TIMER, when, flags=flags)
    if not dry_run:
        await execute(plan, host, reporter=reporter)
    return plan


async def schedule_updates(
    names: list[str], when: str, host: Host, reporter: Reporter, *, dry_run: bool = False
) -> Mapping[str, Plan]:
    """Have machines updated at ``when``, or no more with "off"; give the plans. Raises InvalidValue, NotFound."""
    check_ready(host, verb="update")
    if when == OFF:
        for name in names:
            _require_scheduled(update_timer(name), f"no time is set at which {name} is updated", host)
        plans = {name: plan_unschedule(update_timer(name), machine=name) for name in names}
    else:
        next_time(when, host)
        plans = {name: plan_schedule(update_timer(name), when, machine=name) for name in names}
    if not dry_run:
        for plan in plans.values():
            await execute(plan, host, reporter=reporter)
    return plans


def _require_scheduled(timer: str, message: str, host: Host) -> None:
    if host.files.read_text(paths.unit_dropin(timer)) is None:
        raise NotFound(
            message, hint=f"systemctl list-timers shows the timers there are; systemctl disable --now {timer}"
        )
