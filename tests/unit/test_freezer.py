# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holding machines still, on directories that look like control groups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.errors import Conflict, MachctlError, NotRunning
from machines.host import freezer

UNIT = "systemd-nspawn@web.service"


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    entry = SimpleNamespace(name="web", leader=7, unit=UNIT)
    directory = tmp_path / UNIT
    for group in ("", "payload", "supervisor", "machctl-exec-1", ".control"):
        (directory / group).mkdir()
        (directory / group / "cgroup.freeze").write_text("0")
        (directory / group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    monkeypatch.setattr(freezer, "registered_machine", lambda name: entry if name == "web" else None)
    monkeypatch.setattr(freezer, "registered", lambda: (entry,))
    monkeypatch.setattr(freezer, "group_of", lambda leader, unit: str(directory))
    monkeypatch.setattr(freezer, "LOCK_DIRECTORY", str(tmp_path))
    return directory


def state(unit: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in unit.glob("**/cgroup.freeze")}


def test_all_that_runs_in_it_is_held_and_not_nspawn(unit: Path) -> None:
    before = state(unit)
    assert freezer.freeze("web")
    assert state(unit) == {UNIT: "0", "payload": "1", "supervisor": "0", "machctl-exec-1": "1", ".control": "0"}
    assert (freezer.held_machines(), freezer.paused_machines()) == ({"web"}, frozenset())
    assert not freezer.freeze("web")
    freezer.thaw("web")
    assert state(unit) == before
    assert freezer.held_machines() == frozenset()


def test_a_machine_that_is_paused_goes_on_by_resume_alone(unit: Path) -> None:
    assert freezer.pause("web")
    assert not freezer.pause("web")
    assert (freezer.held_machines(), freezer.paused_machines()) == (frozenset(), {"web"})
    # Whoever copies it finds it still, and leaves it so.
    assert not freezer.freeze("web")
    freezer.thaw("web")
    assert freezer.paused_machines() == {"web"}
    with pytest.raises(Conflict, match="web is paused"):
        freezer.refuse_paused("web")
    assert freezer.resume("web") == ""
    assert (freezer.paused_machines(), state(unit)["payload"]) == (frozenset(), "0")
    freezer.refuse_paused("web")


def test_the_mark_of_an_earlier_run_says_nothing(unit: Path, tmp_path: Path) -> None:
    (tmp_path / "paused-web").write_text("6")
    freezer.freeze("web")
    assert (freezer.held_machines(), freezer.paused_machines()) == ({"web"}, frozenset())
    assert freezer.pause("web")
    assert freezer.paused_machines() == {"web"}


def test_a_unit_that_somebody_froze_is_for_systemd_to_thaw(unit: Path) -> None:
    (unit / "cgroup.freeze").write_text("1\n")
    assert (freezer.paused_machines(), freezer.held_machines()) == ({"web"}, frozenset())
    assert freezer.resume("web") == UNIT


def test_one_that_does_not_stand_still_goes_on(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "_FREEZE_SECONDS", 0.0)
    (unit / "payload/cgroup.events").write_text("populated 1\nfrozen 0\n")
    before = state(unit)
    with pytest.raises(MachctlError, match="cannot be held still"):
        freezer.freeze("web")
    assert state(unit) == before


def test_what_joins_a_machine_that_is_held_is_held_too(unit: Path) -> None:
    new = unit / "machctl-exec-2"
    new.mkdir()
    (new / "cgroup.freeze").write_text("0")
    freezer.follow(str(new))
    assert (new / "cgroup.freeze").read_text() == "0"
    freezer.freeze("web")
    (new / "cgroup.freeze").write_text("0")
    freezer.follow(str(new))
    assert (new / "cgroup.freeze").read_text() == "1"
    freezer.thaw("web")
    assert (new / "cgroup.freeze").read_text() == "0"


def test_a_virtual_machine_is_held_with_what_runs_it(unit: Path) -> None:
    for path in (unit / "payload").iterdir():
        path.unlink()
    (unit / "payload").rmdir()
    assert freezer.freeze("web")
    assert state(unit)[UNIT] == "1"


def test_a_machine_that_has_ended(unit: Path) -> None:
    with pytest.raises(NotRunning, match="db is not running"):
        freezer.freeze("db")
    freezer.thaw("db")
    assert freezer.resume("db") == ""
    freezer.refuse_paused("db")
