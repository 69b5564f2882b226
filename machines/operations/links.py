# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links of running machines: giving them one, taking it back, and what they have."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from machines.errors import NotPermitted, NotRunning
from machines.model.link import inner_names
from machines.model.machine import Machine
from machines.model.names import link_network
from machines.model.observed import Record
from machines.operations.declared import readable_machines
from machines.operations.records import read_records
from machines.plan import steps
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

_NETWORKD = ("org.freedesktop.network1", "/org/freedesktop/network1", "org.freedesktop.network1.Manager", "Reload")


def change_link(step: steps.AttachLink | steps.DetachLink, host: Host) -> None:
    """Give a running machine a link, or take one away. Raises NotRunning, CommandFailed."""
    if isinstance(step, steps.AttachLink):
        attach_link(step, host)
    else:
        detach_link(step, host)
    _note_started(step, host)


def _note_started(step: steps.AttachLink | steps.DetachLink, host: Host) -> None:
    """Have the copies of what a machine runs with say what it has now: it needs no restart for it."""
    name = step.machine
    if host.files.read_text(paths.started(name, paths.settings_file(name))) is None:
        return
    path = paths.guest_network_file(name, step.link)
    text = host.files.read_text(path) if isinstance(step, steps.AttachLink) else None
    if text is None:
        host.files.remove_file(paths.started(name, path))
    else:
        host.files.write_file(paths.started(name, path), text)


def attach_link(step: steps.AttachLink, host: Host) -> None:
    """Make a link of a running machine; what a killed run left of it goes first. Raises NotRunning, CommandFailed."""
    leader = _leader(step.machine, host)
    words = step.make.format(leader=leader).split()
    if step.link not in host.inner_links(leader):
        if words[:2] == ["link", "add"] and words[2] != "link":
            host.tools.run(["ip", "link", "delete", words[2]], check=False)
        host.tools.run(["ip", *words])
    for command in step.outside:
        # As ExecStartPost= has them: one that may fail begins with a dash (systemd.service(5)).
        host.tools.run(shlex.split(command.removeprefix("-")), check=not command.startswith("-"))
    # Whoever has a networkd inside has its file by now; what it does, and what is done here, is the same.
    host.tools.run(["busctl", f"--machine={step.machine}", "call", *_NETWORKD], check=False)
    for command in step.inside:
        host.tools.run([*_inside(leader), "ip", *command.split()])
    host.tools.run([*_inside(leader), "ip", "link", "set", step.link, "up"])


def detach_link(step: steps.DetachLink, host: Host) -> None:
    """Take a link away from a running machine; none is fine. Raises NotRunning, CommandFailed."""
    leader = _leader(step.machine, host)
    if step.link not in host.inner_links(leader):
        return
    if step.parent:
        host.tools.run([*_inside(leader), "ip", "link", "set", step.link, "down"])
        host.tools.run([*_inside(leader), "ip", "link", "set", step.link, "name", step.parent, "netns", "1"])
    else:
        host.tools.run([*_inside(leader), "ip", "link", "delete", step.link])


def list_links(names: Iterable[str], host: Host) -> list[dict[str, object]]:
    """Give the links of machines, a row for each, in their order.

    Those of a running machine are as the kernel has them, with links of its own; of others what they will have. Raises
    NotPermitted for whoever may not see those of one that runs.
    """
    declared, records, registered = readable_machines(host), read_records(host), host.registered()
    rows: list[dict[str, object]] = []
    for name in names:
        machine, record = declared.get(name), records.get(name)
        if machine is not None and machine.network == "host":
            rows.append(_row(name, "", "host", there={}, running=name in registered))
            continue
        there = _in_kernel(name, registered[name].leader, host) if name in registered else {}
        rows += _declared_rows(machine, record, there, running=name in registered) if machine else []
        known = {row["link"] for row in rows if row["machine"] == name}
        rows += [_row(name, inner, "", there=there, running=True) for inner in there if inner not in known]
    return rows


def _declared_rows(
    machine: Machine, record: Record | None, there: dict[str, dict[str, object]], *, running: bool
) -> list[dict[str, object]]:
    rows = []
    for link, inner in zip(machine.links, inner_names(machine.links), strict=True):
        network = link_network(link, machine.name)
        row = _row(machine.name, inner, link.kind, there=there, running=running)
        row["target"] = link.target or network
        row["vlan"] = link.vlan
        if not running:
            given = [each.get(network or "") for each in (record.addresses, record.addresses6)] if record else []
            row["addresses"] = [text for text in given if text] or [text.split("/")[0] for text in link.addresses]
        rows.append(row)
    return rows


def _row(name: str, inner: str, kind: str, *, there: dict[str, dict[str, object]], running: bool) -> dict[str, object]:
    # nspawn cuts a long name and keeps all of it as an altname.
    found = there.get(inner) or next((each for each in there.values() if inner in _texts(each.get("altnames"))), {})
    state = "host" if kind == "host" else str(found.get("operstate", "missing")).lower() if running else "stopped"
    return {
        "machine": name,
        "link": inner or None,
        "kind": kind or found.get("kind") or None,
        "target": None,
        "vlan": None,
        "mac": found.get("mac"),
        "state": state,
        "addresses": found.get("addresses", []),
    }


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _in_kernel(name: str, leader: int, host: Host) -> dict[str, dict[str, object]]:
    """The links in the network namespace of a machine, but for its loopback, by their names (ip-address(8))."""
    done = host.tools.run([*_inside(leader), "ip", "-json", "-details", "address"], check=False)
    if done.returncode and os.geteuid() != 0:
        raise NotPermitted(f"the links of machine {name}, which runs, need root", hint="run it again with sudo")
    found: dict[str, dict[str, object]] = {}
    for link in json.loads(done.stdout or "[]") if done.returncode == 0 else []:
        if link.get("ifname") in {None, "lo"}:
            continue
        every = link.get("addr_info", [])
        found[link["ifname"]] = {
            "altnames": link.get("altnames", []),
            "kind": link.get("linkinfo", {}).get("info_kind"),
            "mac": link.get("address"),
            "operstate": link.get("operstate", ""),
            "addresses": [each["local"] for each in every if each.get("scope") == "global"],
        }
    return found


def _leader(name: str, host: Host) -> int:
    entry = host.registered().get(name)
    if entry is None:
        raise NotRunning(f"machine {name} is not running", hint=f"start it: machctl start {name}")
    return entry.leader


def _inside(leader: int) -> list[str]:
    return ["nsenter", f"--target={leader}", "--net"]
