# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines there are and how they are doing; nothing here changes the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from machines.errors import NotFound, raise_all
from machines.model.frozen import dataclass
from machines.model.names import bridge_unit, check_known_name, machine_unit
from machines.operations.declared import readable_machines
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# systemd's words for a unit to ours for a machine (org.freedesktop.systemd1(5), ActiveState).
_STATES = {"activating": "starting", "deactivating": "stopping", "failed": "failed", "reloading": "running"}


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
            "leader": self.leader,
            "tree": self.tree,
        }


def known_names(host: Host) -> list[str]:
    """Give the names of all machines: those with a tree, those declared and those that run."""
    return sorted({*host.pool.trees(), *readable_machines(host), *host.running()})


def expand(patterns: Iterable[str], host: Host) -> list[str]:
    """Give the machines that are meant: a glob pattern stands for all that match it, in order and each once.

    Raises NotFound for each name or pattern that means none.
    """
    known: list[str] | None = None
    found: dict[str, None] = {}
    missing = []
    for pattern in patterns:
        if any(character in pattern for character in "*?["):
            import fnmatch

            known = known_names(host) if known is None else known
            matches = fnmatch.filter(known, pattern)
            if not matches:
                missing.append(NotFound(f"no machine matches {pattern!r}", hint="machctl list shows those there are"))
            found.update(dict.fromkeys(matches))
        else:
            found[check_known_name(pattern)] = None
    raise_all(missing)
    return list(found)


def require(names: Iterable[str], host: Host) -> None:
    """Raise NotFound for every name that no machine has."""
    names = list(names)
    if not names:
        return
    known = known_names(host)
    raise_all(
        [
            NotFound(f"there is no machine {name}", hint=_did_you_mean(name, known))
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
    wanted = set(names) or {*registered, *trees, *declared}
    found = []
    for name in sorted(wanted):
        machine = declared.get(name)
        tree = trees.get(name)
        entry = registered.get(name)
        unit = entry.unit if entry and entry.unit else machine_unit(name)
        active = units.get(unit, "")
        state = _STATES.get(active, "running" if entry else "stopped")
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
                ports=tuple(map(str, machine.publish)) if machine else (),
                unit=unit,
                declared=machine is not None,
                leader=entry.leader if entry else None,
                tree=tree.path if tree else None,
            )
        )
    return found


def _did_you_mean(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "machctl list shows those there are"
