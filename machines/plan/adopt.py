# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that makes a machine of others one of machctl's, as it is and while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.write import declared_values
from machines.model.base import Payload
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.machine import TREE_KEYS, plan_machine
from machines.plan.steps import Plan
from machines.render import paths

SAID = "the declaration says it now"


def plan_adopt(
    machine: Machine,
    host: Host,
    *,
    declaration: str,
    originals: Mapping[str, str],
    left: Mapping[str, str],
    payload: Payload | None = None,
    modes: Mapping[str, int] | None = None,
) -> Plan:
    """Give the steps after which ``machine``, which has a tree, is as declared; it runs on as it does.

    ``originals`` are the files of others that are changed or go, path to text: a copy of each is kept. ``left`` is what
    stays of those that are not machctl's to write, "" for nothing. ``modes`` are those of the files of others: what was
    not for all to read does not become so in what is made of it. A run that is killed anywhere in it is finished by
    the next, which reads the copies.
    """
    modes = modes or {}
    private = any(not modes.get(path, 0o644) & 0o004 for path in originals)
    kept = {paths.adopted_file(machine.name, path): (path, text) for path, text in originals.items()}
    plan: Plan = [
        steps.WriteFile(reason=f"so was {path}", machine=machine.name, path=copy, text=text, mode=0o600)
        for copy, (path, text) in kept.items()
        if copy not in host.files
    ]
    if host.files.get(machine.origin) != declaration:
        reason = "machctl looks after it from now on"
        mode = 0o600 if private else 0o644
        plan.append(
            steps.WriteFile(reason=reason, machine=machine.name, path=machine.origin, text=declaration, mode=mode)
        )
    for path, text in left.items():
        plan += _rest(path, text, host, machine.name)
    view = _view(machine, host, payload)
    made = [step for step in plan_machine(machine, view) if not _is_link(step)]
    plan_back = _back(machine, host)
    if not any(isinstance(step, steps.Claim) for step in made) and machine.name not in host.records:
        made.insert(0, steps.Claim(reason="it is adopted", machine=machine.name, record=view.records[machine.name]))
    return plan + [_closed(_over(step, host), machine.name, private=private) for step in made] + plan_back


def foreign_files(name: str, host: Host) -> list[str]:
    """Give the paths of machctl's own files of a machine where there is a file that machctl did not write."""
    own = {paths.settings_file(name), paths.dropin_file(name), paths.sockets_file(name), paths.sysctl_file(name)}
    own |= {f"{paths.UNIT_DIRECTORY}/{unit}" for unit in paths.mount_units(name)}
    starts = (f"{paths.UNIT_DIRECTORY}/{paths.port_prefix(name)}", f"{paths.guest_directory(name)}/")
    return [
        path
        for path, text in host.files.items()
        if (path in own or path.startswith(starts)) and paths.owner(path, text) is None
    ]


def _rest(path: str, text: str, host: Host, name: str) -> Plan:
    """A drop-in of others keeps what no declaration says."""
    if path not in host.files or host.files[path] == text:
        return []
    if not text:
        return [steps.RemoveFile(reason=SAID, machine=name, path=path)]
    gone = [line for line in host.files[path].splitlines() if line not in text.splitlines()]
    detail = "\n".join(f"-{line}" for line in gone)
    return [steps.WriteFile(reason=f"{SAID}, in part", machine=name, path=path, text=text, detail=detail)]


def _back(machine: Machine, host: Host) -> Plan:
    """What a machine has that was ejected, and needs no more where machctl makes its bridges."""
    name, files = machine.name, [paths.ejected_file(machine.name)]
    header = f"{paths.ejected_header(name)}\n"
    plan: Plan = []
    if any(bridge not in host.networks for bridge in machine.bridges):
        own = []
    else:
        own = [
            path
            for path, text in host.files.items()
            if text.startswith(header) and path not in foreign_files(name, host)
        ]
    for path in own:
        if path.endswith("-network.service"):
            reason = "machctl sees to its networks again"
            plan.append(steps.StopUnit(reason=reason, machine=name, unit=paths.unit_of(path)))
    files = [path for path in [*own, *files] if path in host.files]
    return plan + [steps.RemoveFile(reason="machctl looks after it again", machine=name, path=path) for path in files]


def _view(machine: Machine, host: Host, payload: Payload | None) -> Host:
    """The host without what is in the way, and with what nobody recorded: bridges of a machine by hand are others'."""
    files = {path: text for path, text in host.files.items() if path not in foreign_files(machine.name, host)}
    records = dict(host.records)
    own = records.get(machine.name)
    if own is not None and own.intent == "ejected":
        records[machine.name] = replace(own, links={})
    if own is None:
        theirs = tuple(bridge for bridge in machine.bridges if bridge not in host.networks)
        values = declared_values(machine)
        made = {key: values[key] for key in TREE_KEYS if key in values}
        records[machine.name] = Record(machine.name, foreign=theirs, payload=payload, made=made)
    return replace(host, files=files, records=records)


def _over(step: steps.Step, host: Host) -> steps.Step:
    """A file of others is written over only by a step that says so."""
    if not isinstance(step, steps.WriteFile) or step.path not in host.files:
        return step
    old = host.files[step.path]
    if paths.owner(step.path, old) is not None:
        return step
    import difflib

    _, _, *lines = [*difflib.unified_diff(old.splitlines(), step.text.splitlines(), lineterm="", n=0)] or ["", ""]
    detail = "\n".join(line for line in lines if not line.startswith("@@"))
    return replace(step, over=True, reason="in the place of what others wrote there", detail=detail)


def _closed(step: steps.Step, name: str, *, private: bool) -> steps.Step:
    """What says the same as a file that not all could read is not for all either; networkd is not root."""
    own = {paths.settings_file(name), paths.dropin_file(name), paths.probe_file(name)}
    return replace(step, mode=0o600) if private and isinstance(step, steps.WriteFile) and step.path in own else step


def _is_link(step: steps.Step) -> bool:
    """Tell whether a step changes links of a running machine: it goes on with those it has."""
    return isinstance(step, (steps.AttachLink, steps.DetachLink))
