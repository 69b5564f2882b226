# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pattern where a verb is about one machine."""

from __future__ import annotations

import pytest

from acting import declare
from fakes import FakeHost
from machines.cli import wire
from machines.cli.names import one
from machines.errors import InvalidValue, NotFound


@pytest.fixture(autouse=True)
def _declared(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ka-1", "ka-2", "web"):
        declare(host, name)
    monkeypatch.setattr(wire, "RealHost", lambda: host)


def test_a_name_is_left_to_the_verb() -> None:
    assert one("nosuch") == "nosuch"


def test_the_one_that_matches_is_meant() -> None:
    assert one("w*") == "web"


def test_none_and_several_are_said() -> None:
    with pytest.raises(NotFound, match="no machine matches 'x\\*'"):
        one("x*")
    with pytest.raises(InvalidValue, match="'ka-\\*' is several machines, and this is done to one: ka-1, ka-2"):
        one("ka-*")
