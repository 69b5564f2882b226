# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operations done to a host in memory, and looks at what they left there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakes import FakeHost
from machines.declare.fleet import own_file
from machines.model.machine import Machine, Publish
from machines.operations import applying, fleet
from machines.operations.reporter import Reporter
from samples import machine

REPORTER = Reporter()


def see(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trees of ``host`` be seen by whoever looks whether they are there."""
    real = os.path.lexists

    def lexists(path: str) -> bool:
        return any(path == tree.path for tree in host.placed.values()) or real(path)

    monkeypatch.setattr("os.path.lexists", lexists)


def web(name: str = "web", **values: Any) -> Machine:
    return machine(name, **{"origin": own_file(name), "publish": (Publish(8080, 80),), **values})


def create(host: FakeHost, made: Machine) -> None:
    asyncio.run(fleet.create(made, host, REPORTER))


def nothing_left(host: FakeHost) -> bool:
    return (host.files.texts, host.placed, host.staged, host.files.held, host.storage.layers()) == (
        {}, {}, set(), set(), [],
    )  # fmt: skip


class Once:
    def __init__(self, what: str, calls: Iterator[bool]) -> None:
        self.what = what
        self.calls = calls

    def __contains__(self, what: object) -> bool:
        return what == self.what and next(self.calls, False)


def declare(host: FakeHost, name: str, *lines: str, source: str = "debian") -> None:
    host.files.texts[own_file(name)] = "\n".join([f"[machines.{name}]", f'source = "{source}"', *lines]) + "\n"


def apply(host: FakeHost) -> None:
    _, failed = asyncio.run(applying.apply([], host, REPORTER))
    assert failed == {}


class Meanwhile(FakeHost):
    """A host on which somebody does something while a tree is copied, or while its base is made."""

    def __init__(self, act: Callable[[FakeHost], None], *, when: str = "copy web") -> None:
        super().__init__()
        self.act = act
        self.when = when

    def call(self, what: str) -> None:
        super().call(what)
        if what == self.when:
            self.act(self)
