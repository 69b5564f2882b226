# SPDX-License-Identifier: LGPL-2.1-or-later
"""Timers of units/ that do something at times that somebody chose: the drop-ins that say when."""

from __future__ import annotations

from collections.abc import Iterable

from machines.model.names import update_timer
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths

APPLY_TIMER = "machctl-apply-scheduled.timer"

_CALENDAR = "OnCalendar="


def plan_schedule(timer: str, when: str, *, machine: str = "", flags: Iterable[str] = ()) -> Plan:
    """Give the steps after which ``timer`` elapses at ``when``, a calendar expression that was checked (check_when).

    ``flags`` are further words of the command that its service runs.
    """
    reason = "asked for"
    service = f"{timer.removesuffix('.timer')}.service"
    words = " ".join(flags)
    said = "# machctl: what --schedule said; --schedule off takes it back\n"
    # Without the first, the times of the unit itself would count as well.
    text = f"{said}[Timer]\n{_CALENDAR}\n{_CALENDAR}{when}\n"
    plan: Plan = [
        # One that runs counts anew as soon as systemd reads its units again, from when it elapsed last: a time between
        # then and now would be made up for at once.
        steps.StopUnit(reason=reason, machine=machine, unit=timer),
        steps.WriteFile(reason=reason, machine=machine, path=paths.unit_dropin(timer), text=text),
    ]
    if words:
        text = f'{said}[Service]\nEnvironment="FLAGS={words}"\n'
        plan.append(steps.WriteFile(reason=reason, machine=machine, path=paths.unit_dropin(service), text=text))
    else:
        plan.append(steps.RemoveFile(reason=reason, machine=machine, path=paths.unit_dropin(service)))
    return [
        *plan,
        steps.ReloadUnits(reason="unit files changed", machine=machine),
        # By when this was written it counts (Persistent=). Without it newer systemd counts from the service's last run.
        steps.WriteFile(reason="it counts from now on", machine=machine, path=_stamp(timer), text=""),
        steps.EnableUnit(reason=reason, machine=machine, unit=timer),
        steps.StartUnit(reason=reason, machine=machine, unit=timer, restart=True),
    ]


def plan_unschedule(timer: str, *, machine: str = "", reason: str = "asked for") -> Plan:
    """Give the steps after which ``timer`` elapses no more."""
    service = f"{timer.removesuffix('.timer')}.service"
    return [
        steps.StopUnit(reason=reason, machine=machine, unit=timer),
        steps.DisableUnit(reason=reason, machine=machine, unit=timer),
        steps.RemoveFile(reason=reason, machine=machine, path=paths.unit_dropin(timer)),
        steps.RemoveFile(reason=reason, machine=machine, path=paths.unit_dropin(service)),
        # By this it would make up for what it missed in the meantime, if somebody ever starts it again (Persistent=).
        steps.RemoveFile(reason=reason, machine=machine, path=_stamp(timer)),
        steps.ReloadUnits(reason="unit files changed", machine=machine),
    ]


def plan_moved(old: str, new: str, text: str, *, reason: str) -> Plan:
    """Give the steps after which machine ``new`` is updated when ``old`` was, whose timer has the drop-in ``text``."""
    plan = plan_unschedule(update_timer(old), machine=old, reason=reason)
    when = scheduled(text)
    return plan + (plan_schedule(update_timer(new), when, machine=new) if when else [])


def scheduled(text: str | None) -> str:
    """Give the calendar expression that the drop-in of a timer says, "" for none."""
    lines = (text or "").splitlines()
    return next((line.removeprefix(_CALENDAR) for line in reversed(lines) if line.startswith(_CALENDAR)), "")


def _stamp(timer: str) -> str:
    return f"/var/lib/systemd/timers/stamp-{timer}"
