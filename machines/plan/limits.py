# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits of machines: in force they are what is declared, whatever somebody has set by hand since."""

from __future__ import annotations

from collections.abc import Container, Iterator

from machines.model.frozen import NamedTuple
from machines.model.limits import NAMES, PROPERTIES, Limits
from machines.model.machine import Machine
from machines.model.names import machine_unit
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.steps import Plan
from machines.render import paths


class _Said(NamedTuple):
    """A line of a file that systemctl set-property wrote: what it is for, and what it says."""

    path: str
    line: str
    name: str
    text: str


def plan_limits(wanted: dict[str, str], machine: Machine, host: Host) -> Plan:
    """Give the steps after which a machine has the limits that are declared, and has them when it starts again.

    What somebody has set by hand (systemctl set-property) stays where nothing is declared of it.
    """
    limits = Limits.of(machine)
    by_hand = list(_by_hand(machine.name, host))
    others = {said.name for said in by_hand if getattr(limits, said.name) is None}
    against = [said for said in by_hand if said.name not in others and limits.contradicted(said.name, said.text)]
    plan = _without(against, machine.name, host)
    if machine.name not in host.running:
        # Reading its files again, systemd leaves the cgroup as it is; there is none yet.
        loaded = plan and machine_unit(machine.name) in host.loaded
        return [*plan, steps.ReloadUnits(reason="files of it are gone", machine=machine.name)] if loaded else plan
    reason = _reason(limits, against, others, machine.name, host)
    if not reason:
        # Of what the kernel does not keep, or not where it can be read, there is only the file to go by.
        path = paths.dropin_file(machine.name)
        have, old, new = host.limits.get(machine.name, {}), host.files.get(path, ""), wanted[path]
        changed = old != new and limit_lines(old, have) != limit_lines(new, have)
        reason = "its limits changed" if changed else ""
    if reason:
        left = tuple(sorted(others))
        plan.append(steps.SetLimits(reason=reason, machine=machine.name, limits=limits, left=left))
    return plan


def limit_lines(text: str, known: Container[str] = ()) -> list[str]:
    """Give the lines of a drop-in that say limits, but for those that are ``known`` by other ways."""
    keys = tuple(f"{key}=" for name, key in PROPERTIES.items() if name not in known)
    return [line for line in text.splitlines() if keys and line.startswith(keys)]


def _by_hand(name: str, host: Host) -> Iterator[_Said]:
    # So systemd calls what it writes; a fleet has thousands of files to look through.
    ends = [f"/{machine_unit(name)}.d/50-{own}.conf" for own in NAMES]
    for directory in paths.CONTROL_DIRECTORIES:
        for path in (directory + end for end in ends if directory + end in host.files):
            for line in limit_lines(host.files[path]):
                key, _, value = line.partition("=")
                yield _Said(path, line, NAMES[key], value.strip())


def _reason(limits: Limits, against: list[_Said], others: set[str], name: str, host: Host) -> str:
    have = host.limits.get(name, {})
    differing = [each for each in limits.differing(have) if each not in others]
    said = {each.name: each.text for each in against} | {each: _shown(have[each]) for each in differing}
    if not said:
        return ""
    kept = limits.kept()
    changes = [f"{each.replace('_', '-')}: {text} -> {_shown(kept[each])}" for each, text in said.items()]
    return f"{'changed by hand' if against else 'the kernel has others'}, {', '.join(changes)}"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _without(against: list[_Said], machine: str, host: Host) -> Plan:
    """What is said in files of set-property has to go: there systemd would find it again."""
    plan: Plan = []
    for path in dict.fromkeys(said.path for said in against):
        drop = {said.line for said in against if said.path == path}
        left = [line for line in host.files[path].splitlines() if line not in drop]
        reason = f"{', '.join(sorted(drop))} is not what is declared"
        if any(line and line[0] not in "#;[" for line in left):
            text = "\n".join([*left, ""])
            plan.append(steps.WriteFile(reason=reason, machine=machine, path=path, text=text, over=True))
        else:
            plan.append(steps.RemoveFile(reason=reason, machine=machine, path=path))
    return plan
