# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a change costs a machine that runs: nothing, its units read again, a restart, or its tree."""

from __future__ import annotations

from collections.abc import Iterable

from machines.model.frozen import replace
from machines.model.names import machine_unit
from machines.model.observed import Host
from machines.plan import steps
from machines.plan.claims import files_after
from machines.plan.owned import files_in
from machines.plan.steps import Plan
from machines.render import paths
from machines.render.links import LINK_SETTINGS

LIVE, RELOAD, RESTART, RECREATE = KINDS = ("live", "reload", "restart", "recreate")
CREATE, REMOVE = "create", "remove"
_ORDER = ("", *KINDS, CREATE, REMOVE)

DROPIN_LIVE = (
    "MemoryMax", "MemoryHigh", "MemorySwapMax", "CPUQuota", "CPUWeight", "IOWeight", "TasksMax",
)  # fmt: skip
"""What of a machine's drop-in it is given at once (org.freedesktop.systemd1.Manager.SetUnitProperties)."""

DROPIN_RELOAD = (
    "Wants", "After", "Before", "PartOf", "Requires", "Upholds", "OnFailure", "OnSuccess", "StartLimitIntervalSec",
    "StartLimitBurst", "Restart", "RestartSec", "RestartForceExitStatus", "SuccessExitStatus", "TimeoutStartSec",
    "TimeoutStopSec", "RuntimeDirectory", "RuntimeDirectoryMode", "ExecStartPre", "ExecStartPost", "ExecStop",
    "ExecStopPost", "IOAccounting",
)  # fmt: skip
"""What of it counts once systemd has read it, and changes nothing for a machine that has started already."""


# The host's own name servers may be others at any time, as those of a lease are: no reason to restart all machines.
_SERVERS = ("DNS", "Domains")


def changed_lines(old: str, new: str) -> list[str]:
    """Give the settings that are in one text only, as "-KEY=VALUE" and "+KEY=VALUE"; comments are no settings."""
    before, after = _settings(old), _settings(new)
    return [f"-{line}" for line in before if line not in after] + [f"+{line}" for line in after if line not in before]


def _settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and line[0] not in "#;["]


def kind_of_lines(path: str, lines: Iterable[str]) -> str:
    """Give what it costs that lines of a machine's file differ, each with a "+" or "-" before it; "" for none."""
    kind = ""
    for line in lines:
        key = line[1:].partition("=")[0]
        if not key or key[0] in "#;[":
            continue
        if not path.startswith(paths.UNIT_DIRECTORY):
            found = LIVE if line[1:].startswith(LINK_SETTINGS) else RESTART
        else:
            found = LIVE if key in DROPIN_LIVE else RELOAD if key in DROPIN_RELOAD else RESTART
        kind = heavier(kind, found)
    return kind


def heavier(one: str, other: str) -> str:
    """Give the kind of change that costs more."""
    return max(one, other, key=_ORDER.index)


def kind_of_plan(plan: Plan) -> str:
    """Give the kind of a machine's marked plan: that of its heaviest step, "" where it is empty."""
    kind = ""
    for step in plan:
        kind = heavier(kind, step.kind)
    return kind


def with_kinds(name: str, plan: Plan, host: Host, *, kind: str = "", pending: bool = False) -> Plan:
    """Give a machine's plan with each step marked: all of them as ``kind``, or each as what it is by itself.

    ``pending`` says that the machine has to be restarted for what the plan changes.
    """
    if kind:
        return [replace(step, kind=kind) for step in plan]
    kinds = [_kind(step, host, pending=pending) for step in plan]
    # systemd reads its files again for whatever changed in them.
    reloads = max((found for found in kinds if found in {LIVE, RELOAD}), key=_ORDER.index, default=RELOAD)
    return [
        replace(step, kind=reloads if isinstance(step, steps.ReloadUnits) else found)
        for step, found in zip(plan, kinds, strict=True)
    ]


def _kind(step: steps.Step, host: Host, *, pending: bool) -> str:
    if isinstance(step, steps.RestartMachine):
        return RESTART
    if not isinstance(step, steps.WriteFile) or step.machine not in host.running:
        # Of one that does not run nobody notices.
        return LIVE
    if step.path in _settings_files(step.machine) and step.path in host.files:
        found = kind_of_lines(step.path, changed_lines(host.files[step.path], step.text))
    elif step.path.startswith((*_settings_files(step.machine), paths.guest_directory(step.machine))):
        found = RESTART
    else:
        return LIVE
    return found if found == RELOAD or (found == RESTART and pending) else LIVE


def _settings_files(name: str) -> tuple[str, ...]:
    return (paths.settings_file(name), paths.dropin_file(name))


def pending_restart(name: str, plan: Plan, host: Host) -> list[str]:
    """Say what machine ``name``, that runs, would only have after a restart once ``plan`` is done; nothing for none.

    It was started with what it copied to paths.started() then; one that did not do so, with what is on disk.
    """
    if host.running.get(name) != machine_unit(name):
        return []
    directory = paths.guest_directory(name)
    mine = (*_settings_files(name), *files_in(directory, host.files))
    files = files_after(plan, {path: host.files[path] for path in mine if path in host.files})
    moved = {
        step.link for step in plan if isinstance(step, (steps.AttachLink, steps.DetachLink)) and step.machine == name
    }
    reasons: list[str] = []
    has_copies = paths.started(name, paths.settings_file(name)) in host.files
    for path in _settings_files(name):
        old = host.files.get(paths.started(name, path) if has_copies else path)
        new = files.get(path)
        if old == new or new is None:
            continue
        lines = changed_lines(old or "", new)
        reasons += [line for line in lines if kind_of_lines(path, [line]) == RESTART]
    guest_files = {path for path in (*mine, *files) if path.startswith(f"{directory}/")}
    if has_copies:
        copies = paths.started(name, f"{directory}/").rstrip("/")
        guest_files |= {directory + path.removeprefix(copies) for path in files_in(copies, host.files)}
    for path in sorted(guest_files):
        old = host.files.get(paths.started(name, path) if has_copies else path)
        link = path.rpartition("/05-machctl-")[2].removesuffix(".network")
        if path == paths.guest_resolv_conf(name) or old == files.get(path) or link in moved:
            continue
        if any(line[1:].partition("=")[0] not in _SERVERS for line in changed_lines(old or "", files.get(path, ""))):
            reasons.append(f"~{link}" if path.endswith(".network") else f"~{path.rpartition('/')[2]}")
    return [*_said(reasons), *(f"secret {secret}" for secret in host.newer_secrets.get(name, ()))]


def _said(lines: list[str]) -> list[str]:
    """Name the settings that differ, each once."""
    words = [line[1:] if line[0] == "~" else line[1:].partition("=")[0] + "=" for line in lines]
    return list(dict.fromkeys(words))
