# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs leave on a host when they succeed, fail and are stopped half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import FakeHost
from machines.declare.fleet import own_file
from machines.errors import CommandFailed, Conflict, MachctlError, NotFound
from machines.model.machine import Machine, Publish
from machines.operations import fleet, tree
from machines.operations.reporter import Reporter
from samples import machine

REPORTER = Reporter()


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(tree, "LOG_DIRECTORY", str(tmp_path))


def web(name: str = "web", **values: object) -> Machine:
    return machine(name, origin=own_file(name), publish=(Publish(8080, 80),), **values)


def create(host: FakeHost, made: Machine) -> None:
    asyncio.run(fleet.create(made, host, REPORTER))


def test_create_leaves_a_declared_machine_that_apply_has_nothing_to_do_for() -> None:
    host = FakeHost()
    create(host, web())
    assert "web" in host.placed
    assert own_file("web") in host.files.texts
    plans, _ = fleet.plan_fleet([], host, verb="plan")
    left = [str(step) for step in plans["web"] if "nft table" not in str(step) and "machctl-bridge@" not in str(step)]
    # The fake has neither a kernel table nor guest files, which these two are about.
    assert all("in the tree of web" in what for what in left)


def test_a_bootstrap_that_fails_leaves_nothing() -> None:
    host = FakeHost(bootstrap_fails=True)
    with pytest.raises(CommandFailed, match="no space"):
        create(host, web())
    assert host.files.texts == {}
    assert host.placed == {}
    assert host.staged == set()
    assert host.files.held == set()


@pytest.mark.parametrize("failing", ["reload networkd", "reload systemd", "start machctl-bridge@br0.service", "nft -f"])
def test_a_create_that_fails_after_its_bootstrap_leaves_nothing(failing: str) -> None:
    host = FakeHost(failing=[failing])
    # What takes back must not fail on the same thing again.
    calls = iter([True])
    host.failing = _Once(failing, calls)  # type: ignore[assignment]
    with pytest.raises(MachctlError, match="failed"):
        create(host, web())
    assert host.files.texts == {}
    assert host.placed == {}
    assert host.bridges == {}


class _Once:
    def __init__(self, what: str, calls: Iterator[bool]) -> None:
        self.what = what
        self.calls = calls

    def __contains__(self, what: object) -> bool:
        return what == self.what and next(self.calls, False)


def test_a_killed_create_is_cleaned_by_the_next() -> None:
    host = FakeHost()
    create(host, web())
    killed = {path: text for path, text in host.files.texts.items() if path != own_file("web")}
    host.files.texts = dict(killed)
    host.placed.clear()
    create(host, web())
    assert "web" in host.placed


def test_gc_takes_away_what_a_killed_create_left() -> None:
    host = FakeHost()
    create(host, web())
    del host.files.texts[own_file("web")]
    host.placed.clear()
    asyncio.run(fleet.collect_garbage(host, REPORTER, dry_run=False))
    assert host.files.texts == {}
    assert host.bridges == {}


def test_gc_leaves_a_machine_whose_declaration_was_deleted() -> None:
    host = FakeHost()
    create(host, web())
    del host.files.texts[own_file("web")]
    asyncio.run(fleet.collect_garbage(host, REPORTER, dry_run=False))
    assert "web" in host.placed


def test_two_machines_of_one_bridge_get_different_addresses_and_it_goes_with_the_last() -> None:
    host = FakeHost()
    create(host, web())
    create(host, machine("db", origin=own_file("db")))
    _plans, observed = fleet.plan_fleet([], host, verb="plan")
    assert observed.records["web"].addresses["br0"] != observed.records["db"].addresses["br0"]
    asyncio.run(fleet.remove("web", host, REPORTER, force=False, dry_run=False))
    assert "br0" in host.bridges
    asyncio.run(fleet.remove("db", host, REPORTER, force=False, dry_run=False))
    assert host.bridges == {}
    assert host.files.texts == {}


def test_a_name_that_is_taken_changes_nothing() -> None:
    host = FakeHost()
    create(host, web())
    before = dict(host.files.texts)
    with pytest.raises(Conflict, match="exists already"):
        create(host, web())
    assert host.files.texts == before


def test_a_dry_run_changes_nothing() -> None:
    host = FakeHost()
    plan = asyncio.run(fleet.create(web(), host, REPORTER, dry_run=True))
    assert plan
    assert host.files.texts == {}
    assert host.done == []


def test_apply_goes_on_with_the_others_when_one_fails() -> None:
    host = FakeHost()
    for name, port in (("a", 1001), ("b", 1002)):
        host.files.texts[own_file(name)] = f'[machines.{name}]\nsource = "debian"\npublish = ["{port}:80"]\n'
    host.failing = {"bootstrap a"}
    plans, failed = asyncio.run(fleet.apply([], host, REPORTER))
    assert set(plans) == {"a", "b"}
    assert set(failed) == {"a"}
    assert set(host.placed) == {"b"}


def test_setting_what_is_not_declared() -> None:
    with pytest.raises(NotFound, match="not declared"):
        asyncio.run(fleet.change("web", lambda made: made, FakeHost(), REPORTER, dry_run=False))
