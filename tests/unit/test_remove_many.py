# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many machines taken away at once, and what is left where that is ended in its middle."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from acting import REPORTER, create, nothing_left, web
from fakes import FakeHost
from machines.errors import MachctlError
from machines.model.machine import Publish
from machines.model.names import machine_unit
from machines.model.tree import Tree
from machines.operations.garbage import collect_garbage
from machines.operations.remove import remove, remove_all
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")


def fleet_of_three(**values: Any) -> FakeHost:
    host = FakeHost()
    for number, name in enumerate(("a", "b", "c")):
        create(host, web(name, publish=(Publish(8080 + number, 80),), **values))
    host.active |= {f"machctl-port-{name}_{8080 + number}.socket" for number, name in enumerate(("a", "b", "c"))}
    host.done.clear()
    return host


def remove_three(host: FakeHost) -> tuple[dict[str, MachctlError], list[str]]:
    done: list[str] = []
    failed = asyncio.run(remove_all(["a", "b", "c"], host, REPORTER, force=False, done=done.append))
    return failed, done


@pytest.mark.parametrize("autostart", [True, False])
def test_many_are_removed_with_one_reload(*, autostart: bool) -> None:
    host = fleet_of_three(autostart=autostart)
    host.facts.enabled_machines = lambda: dict.fromkeys("abc", autostart)
    disabled: list[list[str]] = []
    host.units.disable = disabled.append
    assert remove_three(host) == ({}, ["a", "b", "c"])
    assert nothing_left(host)
    assert host.bridges == {}
    assert host.done.count("reload systemd") == 1
    assert [len(units) for units in disabled] == ([3] if autostart else [])
    assert host.done.count("nft -f") == 1


def test_one_that_cannot_be_removed_leaves_the_others_no_more_than_its_bridge() -> None:
    host = fleet_of_three()
    host.files.held.add("machine-b")
    failed, done = remove_three(host)
    assert (list(failed), done) == (["b"], ["a", "c"])
    assert list(host.placed) == ["b"]
    assert "br0" in host.bridges
    host.files.held.clear()
    assert list(remove_three(host)[0]) == ["a", "c"]
    assert nothing_left(host)


@pytest.mark.parametrize("when", ["stop machctl-port-b_8081.socket", "reload systemd", "nft -f"])
def test_many_whose_removal_was_killed_are_removed_by_gc(when: str) -> None:
    host = fleet_of_three()
    host.units.reload = lambda: host.call("reload systemd")
    host.failing = {when}
    with contextlib.suppress(MachctlError):
        remove_three(host)
    host.failing = set()
    host.files.held.clear()
    host.done.clear()
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    for name in [name for name in "abc" if name in host.placed]:
        asyncio.run(remove(name, host, REPORTER, force=False, dry_run=False))
    assert nothing_left(host)
    assert not host.nat


def test_one_whose_record_cannot_be_removed_leaves_the_others_without_a_trace() -> None:
    host = fleet_of_three()
    remove_file = host.files.remove_file

    def refuse(path: str) -> None:
        if path == paths.machine_record("b"):
            raise MachctlError("no")
        remove_file(path)

    host.files.remove_file = refuse  # type: ignore[method-assign]
    failed, done = remove_three(host)
    assert (list(failed), done) == (["b"], ["a", "c"])
    assert host.done.count("nft -f") == 1
    assert [name for name in "abc" if paths.machine_record(name) in host.files.texts] == ["b"]
    host.files.remove_file = remove_file  # type: ignore[method-assign]
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert nothing_left(host)


def test_those_that_others_made_are_disabled_before_their_trees_go() -> None:
    host = FakeHost()
    host.placed = {name: Tree(name, f"/var/lib/machines/{name}", "directory") for name in "ab"}
    host.facts.enabled_machines = lambda: dict.fromkeys("ab", True)
    seen: list[tuple[str, list[str]]] = []
    host.units.disable = lambda units: seen.append((units[0], sorted(host.placed)))
    failed = asyncio.run(remove_all(["a", "b"], host, REPORTER, force=False, done=lambda name: None))
    assert failed == {}
    assert seen == [(machine_unit("a"), ["a", "b"]), (machine_unit("b"), ["b"])]
