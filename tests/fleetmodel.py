# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet as a file declares it, to be edited at random: made valid, written as TOML, and worked out by itself.

What a machine has of the defaults and its profiles is put together here once more, so that what machctl makes of a
file is compared with something that it did not make.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Table = dict[str, Any]

SOURCES: dict[str, Table] = {
    "of-debian": {"source": "debian:trixie", "packages": ["nginx-light"]},
    "of-a": {"source": "tar:/root/edits/a.tar"},
    "of-b": {"source": "tar:/root/edits/b.tar"},
}
"""The profiles that say what a tree is made of: one that boots, and two small ones that do not."""

MOST_MACHINES = 6
MOST_RUNNING = 2
LISTS = {"bridges", "publish", "egress", "after", "packages", "profiles", "reach"}
PROBES = {"tcp", "unit", "file"}
LIVE = {
    "memory", "memory-high", "cpus", "cpu-weight", "tasks", "publish", "restart", "after", "health", "autostart",
    "replicas", "profiles",
}  # fmt: skip
"""What a machine that runs is given without a restart; of others the plan says what they cost."""


@dataclass
class Fleet:
    """The tables of the file."""

    machines: dict[str, Table] = field(default_factory=dict)
    networks: dict[str, Table] = field(default_factory=dict)
    profiles: dict[str, Table] = field(default_factory=lambda: copy.deepcopy({**SOURCES, "one": {}, "two": {}}))
    defaults: Table = field(default_factory=dict)

    def text(self) -> str:
        """Give the file; nothing for a fleet that nobody has edited yet."""
        if self == Fleet():
            return ""
        lines = list(_table("defaults", self.defaults)) if self.defaults else []
        for kind in ("profiles", "networks", "machines"):
            for name, values in getattr(self, kind).items():
                lines += _table(f"{kind}.{name}", values)
        return "".join(f"{line}\n" for line in lines)

    def expanded(self, others: Mapping[str, Table]) -> dict[str, Table]:
        """Give what each machine has in the end, those of ``others``, which are in files of their own, among them."""
        found = {name: self._merged(values) for name, values in others.items()}
        groups: dict[str, list[str]] = {}
        for name, values in self.machines.items():
            merged = self._merged(values)
            count = values.get("replicas")
            names = [name] if count is None else [f"{name}-{index}" for index in range(1, count + 1)]
            if count is not None:
                groups[name] = names
            for index, each in enumerate(names, 1):
                found[each] = _filled(merged, each, index)
        for values in found.values():
            values["after"] = [each for one in values.get("after", ()) for each in groups.get(one, [one])]
        return found

    def _merged(self, values: Table) -> Table:
        made: Table = {}
        for layer in [self.defaults, *self._layers(values), values]:
            for key, value in layer.items():
                _put(made, key, copy.deepcopy(value))
        made.pop("profiles", None)
        made.pop("replicas", None)
        return made

    def _layers(self, values: Table) -> Iterator[Table]:
        for name in values.get("profiles", ()):
            yield from self._layers(self.profiles[name])
            yield self.profiles[name]

    # --- what a file may not say ---

    def tidied(self, others: Mapping[str, Table]) -> Fleet:
        """Give the fleet as it is valid: what contradicts itself, or is too much for one host, is left out."""
        fleet = copy.deepcopy(self)
        fleet._limit_machines(set(others))
        for network in fleet.networks:
            said = fleet.networks[network].get("reach", [])
            fleet.networks[network]["reach"] = [each for each in said if each in fleet.networks and each != network]
        for name in list(fleet.machines):
            fleet._tidy_machine(name)
        running = 0
        for values in fleet.machines.values():
            boots = fleet._merged(values)["source"].startswith("debian") and "on-demand" not in values
            running += boots and values.get("autostart", False) and values.get("replicas", 1)
            if values.get("autostart") and (not boots or running > MOST_RUNNING):
                del values["autostart"]
        return fleet

    def _limit_machines(self, taken: set[str]) -> None:
        count = 0
        for name, values in list(self.machines.items()):
            replicas = values.get("replicas")
            names = {name} if replicas is None else {f"{name}-{index}" for index in range(1, replicas + 1)}
            count += len(names)
            # A name of several counts as that of none of them.
            if count > MOST_MACHINES or names & taken or name in taken:
                count -= len(names)
                del self.machines[name]
            taken |= names

    def _tidy_machine(self, name: str) -> None:
        values, names = self.machines[name], list(self.machines)
        # No circles: a machine waits for those above it alone.
        earlier = names[: names.index(name)]
        values["after"] = [each for each in values.get("after", []) if each in earlier]
        # {index} is of replicas alone, and a port of one machine.
        ports = [each for each in values.get("publish", []) if ("{index}" in each) == ("replicas" in values)]
        taken = [port_of(port) for other in earlier for port in self.machines[other].get("publish", [])]
        values["publish"] = [each for each in ports if not any(port_of(each).collides(other) for other in taken)]
        for key in ("after", "publish"):
            if not values[key]:
                del values[key]
        ports = values.get("publish", [])
        if not any(port_of(each).count == 1 and port_of(each).protocol == "tcp" for each in ports):
            values.pop("on-demand", None)


@dataclass(frozen=True)
class Port:
    """A published port, read by other code than machctl's."""

    address: str
    host: int
    guest: int
    count: int
    protocol: str

    def collides(self, other: Port) -> bool:
        """Tell whether both want the same port of the host."""
        here, there = range(self.host, self.host + self.count), range(other.host, other.host + other.count)
        return self.protocol == other.protocol and here.start < there.stop and there.start < here.stop


def port_of(text: str) -> Port:
    """Read [IP:]HOST[-LAST]:GUEST[-LAST][/udp]."""
    rest, _, protocol = text.replace("{index}", "1").partition("/")
    *address, host, guest = rest.split(":")
    first, _, last = host.partition("-")
    count = int(last) - int(first) + 1 if last else 1
    return Port(":".join(address), int(first), int(guest.partition("-")[0]), count, protocol or "tcp")


def _put(made: Table, key: str, value: Any) -> None:
    if isinstance(value, dict):
        old = made.setdefault(key, {})
        if key == "health" and PROBES & value.keys():
            for probe in PROBES & old.keys():
                del old[probe]
        old.update(value)
    elif key in LISTS:
        old = made.get(key, [])
        made[key] = [*old, *(each for each in value if each not in old)]
    else:
        made[key] = value


def _filled(values: Table, name: str, index: int) -> Table:
    text = json.dumps(values).replace("{name}", name).replace("{index}", str(index))
    filled: Table = json.loads(text)
    return filled


def _table(path: str, values: Table) -> Iterator[str]:
    yield f"[{path}]"
    for key, value in values.items():
        if not isinstance(value, dict):
            yield f"{key} = {json.dumps(value)}"
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _table(f"{path}.{key}", value)
