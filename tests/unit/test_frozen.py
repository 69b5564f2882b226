# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frozen values behave as the library's dataclasses do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from machines.model import frozen


def classes(dataclass: Any, field: Any) -> tuple[Any, Any]:
    @dataclass(frozen=True, kw_only=True)
    class Step:
        reason: str
        detail: str = ""

    @dataclass(frozen=True, kw_only=True)
    class Write(Step):
        path: str
        files: dict[str, str] = field(default_factory=dict)

    @dataclass(frozen=True, order=True)
    class Port:
        host: int
        guest: int = 80

        @property
        def both(self) -> int:
            return self.host + self.guest

    return Write, Port


@pytest.fixture(params=[(frozen.dataclass, frozen.field), (dataclasses.dataclass, dataclasses.field)])
def made(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The same classes, of this module and of the library."""
    return classes(*request.param)


def test_values(made: tuple[Any, Any]) -> None:
    write, port = made
    step = write(reason="new", path="/x")
    assert (step.reason, step.detail, step.path, step.files) == ("new", "", "/x", {})
    assert step == write(path="/x", reason="new")
    assert step != write(path="/y", reason="new")
    assert step.files is not write(reason="new", path="/x").files
    assert repr(port(1)).endswith("Port(host=1, guest=80)")
    assert port(1).both == 81
    assert {port(1), port(1, 80), port(host=1, guest=80)} == {port(1)}
    assert sorted([port(2), port(1, 90), port(1)]) == [port(1), port(1, 90), port(2)]
    assert port(1) != (1, 80)
    match port(1, 2):
        case port(host, guest):
            assert (host, guest) == (1, 2)


def test_replacing(made: tuple[Any, Any]) -> None:
    write, port = made
    assert dataclasses.replace(write(reason="new", path="/x"), path="/y") == write(reason="new", path="/y")
    assert dataclasses.replace(port(1), guest=2) == port(1, 2)
    assert [field.name for field in dataclasses.fields(write)] == ["reason", "detail", "path", "files"]
    assert dataclasses.asdict(port(1)) == {"host": 1, "guest": 80}


@pytest.mark.parametrize("words", [(), (1, 2, 3)])
def test_wrong_numbers_of_values(made: tuple[Any, Any], words: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        made[1](*words)


def test_wrong_names(made: tuple[Any, Any]) -> None:
    write, port = made
    for make in (
        lambda: write(reason="new"),
        lambda: write("new", path="/x"),
        lambda: port(1, host=1),
        lambda: port(1, x=1),
    ):
        with pytest.raises(TypeError):
            make()


def test_nothing_changes(made: tuple[Any, Any]) -> None:
    value = made[1](1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.host = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.host
