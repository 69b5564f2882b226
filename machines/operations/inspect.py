# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines there are and how they are doing; nothing here changes the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from machines.errors import NotFound, raise_all
from machines.model.frozen import dataclass
from machines.model.names import bridge_unit, check_known_name, is_pattern, machine_unit
from machines.operations.declared import readable_machines
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# systemd's words for a unit to ours for a machine (org.freedesktop.systemd1(5), ActiveState).
STATES = {"activating": "starting", "deactivating": "stopping", "failed": "failed", "reloading": "running"}


@dataclass(frozen=True)
class MachineStatus:
    """A machine as it is."""

    name: str
    state: str
    machine_class: str
    source: str
    os: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    unit: str
    declared: bool
    leader: int | None = None
    tree: str | None = None
    health: str = ""

    def row(self) -> dict[str, object]:
        """Give it under the names that JSON has; those are stable."""
        return {
            "name": self.name,
            "state": self.state,
            "class": self.machine_class,
            "source": self.source or None,
            "os": self.os or None,
            "addresses": list(self.addresses),
            "ports": list(self.ports),
            "unit": self.unit,
            "declared": self.declared,
            "health": self.health or None,
            "leader": self.leader,
            "tree": self.tree,
        }


def known_names(host: Host, *, removed: bool = False) -> list[str]:
    """Give the names of all machines: those with a tree, those declared and those that run.

    With ``removed`` those as well whose removal was killed.
    """
    names = {*host.pool.trees(), *readable_machines(host), *host.running()}
    if removed:
        from machines.operations.records import read_records

        names |= {name for name, record in read_records(host).items() if record.intent == "remove"}
    return sorted(names)


def expand(patterns: Iterable[str], host: Host, *, removed: bool = False) -> list[str]:
    """Give the machines that are meant: a glob pattern stands for all that match it, in order and each once.

    So does the name that several replicas are declared under.

    Raises NotFound for each name or pattern that means none.
    """
    known: list[str] | None = None
    found: dict[str, None] = {}
    missing = []
    for pattern in patterns:
        if is_pattern(pattern):
            import fnmatch

            known = known_names(host, removed=removed) if known is None else known
            matches = fnmatch.filter(known, pattern)
            if not matches:
                missing.append(NotFound(f"no machine matches {pattern!r}", hint="machctl list shows those there are"))
            found.update(dict.fromkeys(matches))
        else:
            found.update(dict.fromkeys(_replicas(check_known_name(pattern), host)))
    raise_all(missing)
    return list(found)


def _replicas(name: str, host: Host) -> list[str]:
    """Give the machines that were declared under one name with replicas; else the one machine."""
    if os.path.lexists(paths.tree(name)):
        # So it is for most, and what is declared need not be read for them.
        return [name]
    return [machine.name for machine in readable_machines(host).values() if machine.group == name] or [name]


def require(names: Iterable[str], host: Host) -> None:
    """Raise NotFound for every name that no machine has."""
    names = list(names)
    if not names:
        return
    known = known_names(host)
    raise_all(
        [
            NotFound(f"there is no machine {name}", hint=_had_back(name, host) or _did_you_mean(name, known))
            for name in names
            if name not in known
        ]
    )


def lost_bridges(names: Iterable[str], host: Host) -> dict[str, list[str]]:
    """Give the bridges of declared machines that their units brought up and that are not there any more."""
    declared, links = readable_machines(host), host.facts.links()
    wanted = {name: declared[name].bridges if name in declared else () for name in names}
    missing = {name: [bridge for bridge in bridges if bridge not in links] for name, bridges in wanted.items()}
    if not any(missing.values()):
        return missing
    states = host.units.states(["machctl-bridge@*.service"])
    return {
        name: [bridge for bridge in bridges if states.get(bridge_unit(bridge)) == "active"]
        for name, bridges in missing.items()
    }


def list_machines(host: Host, names: Iterable[str] = ()) -> list[MachineStatus]:
    """Give how all machines are doing, or those in ``names``, in the order of their names."""
    registered = host.registered()
    trees = host.pool.trees()
    declared = readable_machines(host)
    units = host.units.states(["systemd-nspawn@*.service"]) if host.booted() else {}
    paused = host.freezer.paused_machines(registered.values())
    wanted = set(names) or {*registered, *trees, *declared}
    found = []
    for name in sorted(wanted):
        machine = declared.get(name)
        tree = trees.get(name)
        entry = registered.get(name)
        unit = entry.unit if entry and entry.unit else machine_unit(name)
        active = units.get(unit, "")
        state = "paused" if name in paused else STATES.get(active, "running" if entry else "stopped")
        release = host.os_release(leader=entry.leader if entry else None, tree=tree.path if tree else None)
        if tree and tree.kind == "overlay" and not release:
            # It is not mounted: what it is over is what it was made of.
            release = host.os_release(leader=None, tree=f"{paths.layer(name)}/base")
        found.append(
            MachineStatus(
                name=name,
                # Only root may look into the pool (tmpfiles.d/systemd-nspawn.conf).
                state=state if tree or entry or state == "failed" or os.geteuid() else "missing",
                machine_class=entry.class_ if entry else "container",
                source=str(machine.source) if machine else "",
                os=" ".join(part for part in (release.get("ID"), release.get("VERSION_ID")) if part),
                addresses=host.addresses(entry.leader) if entry else (),
                ports=tuple(map(str, machine.publish)) if machine else _recorded_ports(name, host),
                unit=unit,
                declared=machine is not None,
                leader=entry.leader if entry else None,
                tree=tree.path if tree else None,
                health=_health(name, entry.leader, host) if entry and (machine is None or machine.health) else "",
            )
        )
    return found


def _recorded_ports(name: str, host: Host) -> tuple[str, ...]:
    # Of a machine that was made of a file of its own (apply --file).
    text = host.files.read_text(paths.machine_record(name))
    if not text:
        return ()
    import json

    return tuple(json.loads(text)["ports"])


def _health(name: str, leader: int, host: Host) -> str:
    if host.files.read_text(paths.probe_file(name)) is None:
        return ""
    # Loaded where a machine has a probe.
    from machines.operations.health import health_of

    return health_of(name, leader, host)


def _had_back(name: str, host: Host) -> str:
    """Give how a machine is had back of which snapshots are left, as of one that was pruned; "" without any."""
    snapshots = list(host.storage.snapshots_of(name))
    if not snapshots:
        return ""
    from machines.plan.prune import had_back

    return had_back(name, snapshots[-1])


def _did_you_mean(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "machctl list shows those there are"
