# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots that are called by the time; of those taken in turn the newest are kept, and those of others."""

from __future__ import annotations

import pytest

from machines.model.snapshot import Snapshot, is_timed_name, timed_name
from machines.operations.rotation import outdated


def taken(*names: str) -> dict[str, Snapshot]:
    return {name: Snapshot("web", name, float(number), "btrfs") for number, name in enumerate(names)}


def test_the_oldest_go_first() -> None:
    first, second, third = (f"auto-20260102-03040{number}" for number in (9, 1, 2))
    snapshots = taken(first, "mine", second, "auto-mine", third, "automatic")
    assert outdated(snapshots, 1) == [first, second]
    assert outdated(snapshots, 2) == [first]
    assert outdated(snapshots, 3) == outdated(snapshots, 9) == outdated({}, 1) == []


def test_those_of_one_second_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: form.replace("%Y%m%d-%H%M%S", "20260102-030405"))
    names: list[str] = []
    for _ in range(3):
        names.append(timed_name(names, "auto-"))
    assert names == ["auto-20260102-030405", "auto-20260102-030405.2", "auto-20260102-030405.3"]
    assert all(is_timed_name(name, "auto-") for name in names)


@pytest.mark.parametrize("name", ["20260102-030405", "auto-20260102", "auto-20260102-030405-1", "auto-mine"])
def test_what_somebody_else_called_like_that_is_known(name: str) -> None:
    assert not is_timed_name(name, "auto-")
