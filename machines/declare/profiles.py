# SPDX-License-Identifier: LGPL-2.1-or-later
"""[defaults] and [profiles.NAME] of the declaration files: the layers below what a machine says itself."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare.keys import BY_NAME
from machines.declare.layers import Layer, Merged, merge
from machines.declare.links import parse_bridge, parse_link, parse_mode
from machines.declare.machine import read_keys, read_source
from machines.declare.reader import Table, nearest
from machines.declare.replicas import filled
from machines.errors import MachctlError
from machines.model.machine import Machine
from machines.model.source import BOOTSTRAPPED

_OF_BOOTSTRAPS = ("packages", "mirror", "keyring")
_OF_NETWORKS = ("bridges", "links", "publish", "isolated", "egress", "on-demand", "idle-stop")
# What placeholders stand for where a layer is read by itself.
SAMPLE = {"name": "name", "index": "1"}


class Below:
    """What is below the machines of a fleet."""

    def __init__(self) -> None:
        self.defaults: list[Layer] = []
        self.profiles: dict[str, Layer] = {}
        self._merged: dict[tuple[tuple[str, ...], tuple[str, ...]], Merged] = {}
        self._orders: dict[str, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.defaults or self.profiles)

    def add(self, top: Table) -> None:
        """Take what a file has of them."""
        if "defaults" in top.values:
            table = top.table("defaults")
            self.defaults.append(Layer(table.file, "defaults", table.values))
        for name, table in top.tables("profiles") if "profiles" in top.values else ():
            if name in self.profiles:
                table.fail("", f"is in {self.profiles[name].file} as well", hint="keep one of the two")
            else:
                self.profiles[name] = Layer(table.file, f"profiles.{name}", table.values)

    def check(self, errors: list[MachctlError]) -> None:
        """Note all that is wrong with these layers, used or not: values, keys, profiles that are not there, circles."""
        for layer in (*self.defaults, *self.profiles.values()):
            table = Table(layer.values, file=layer.file, path=layer.path, errors=errors)
            for key in ("replicas", "profiles") if layer in self.defaults else ("replicas",):
                if key in layer.values:
                    table.fail(key, "is not for all machines", hint=f"write {key} in [machines.NAME]")
            table.texts("profiles", str, ())
            table.values = filled(layer.values, SAMPLE, table)
            read_source(table, any_suite=True)
            table.text("network", parse_mode, "")
            table.texts("bridges", parse_bridge, None)
            table.texts("links", parse_link, None)
            read_keys(table, BY_NAME.values(), Machine, part=True)
            table.finish(BY_NAME)
        for name, layer in self.profiles.items():
            self._order(name, (), Table(layer.values, file=layer.file, path=layer.path, errors=errors))

    def named(self, table: Table) -> tuple[str, ...]:
        """Give the profiles that a table names, each behind those it has itself; note those that are not there."""
        found: dict[str, None] = {}
        names = table.values.get("profiles", ())
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if not isinstance(name, str):
                # Who reads the list of strings says so.
                continue
            if name in self.profiles:
                found |= dict.fromkeys(self._orders.get(name) or self._order(name, (), None))
            else:
                hint = nearest(name, self.profiles) or f"write [profiles.{name}]"
                table.fail(f"profiles[{index}]", f"there is no profile {name!r}", hint)
        return tuple(found)

    def under(self, own: Mapping[str, object], names: tuple[str, ...]) -> Merged:
        """Give the defaults and these profiles as one, for a machine that says ``own`` itself.

        Defaults that a machine cannot have are not meant for it: packages of a tree that is copied as it is, bridges of
        one without a network. What a profile says is meant.
        """
        made = self._merge(names, ())
        without = _meaningless({**made.values, **own})
        return self._merge(names, without) if without else made

    def _merge(self, names: tuple[str, ...], without: tuple[str, ...]) -> Merged:
        key = (names, without)
        if key not in self._merged:
            defaults = [
                layer._replace(values={key: value for key, value in layer.values.items() if key not in without})
                for layer in self.defaults
            ]
            made = merge([*defaults, *(self.profiles[name] for name in names)])
            for word in ("profiles", "replicas"):
                made.values.pop(word, None)
            self._merged[key] = made
        return self._merged[key]

    def _order(self, name: str, way: tuple[str, ...], table: Table | None) -> tuple[str, ...]:
        """Give a profile behind those it inherits; a circle is noted in ``table`` and cut."""
        layer = self.profiles[name]
        if name in way:
            if table is not None:
                circle = " -> ".join([*way[way.index(name) :], name])
                table.fail("profiles", f"goes in a circle: {circle}", hint="leave one of them out")
            return ()
        found: dict[str, None] = {}
        names = layer.values.get("profiles", ())
        for index, other in enumerate(names if isinstance(names, list) else ()):
            if isinstance(other, str) and other in self.profiles:
                found |= dict.fromkeys(self._order(other, (*way, name), table))
            elif isinstance(other, str) and table is not None and not way:
                hint = nearest(other, self.profiles) or f"write [profiles.{other}]"
                table.fail(f"profiles[{index}]", f"there is no profile {other!r}", hint)
        found[name] = None
        if not way:
            self._orders[name] = tuple(found)
        return tuple(found)


def _meaningless(values: Mapping[str, object]) -> tuple[str, ...]:
    source, network = str(values.get("source", "debian")), values.get("network")
    copied = () if source.partition(":")[0] in BOOTSTRAPPED else _OF_BOOTSTRAPS
    return copied + (_OF_NETWORKS if network in ("none", "host") else ())
