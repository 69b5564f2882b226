# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from machines.host.loaded import changed_units

WEB, DB = "systemd-nspawn@web.service", "systemd-nspawn@db.service"


class Manager:
    """Counts what it is asked, and says that the units in ``changed`` have other files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []
        self.changed: set[str] = set()

    def __call__(self, unit: str) -> bool:
        self.asked.append(unit)
        return unit in self.changed

    def look(self, *units: str) -> tuple[set[str], list[str]]:
        """Give the units that changed, and those it was asked about."""
        self.asked = []
        places = [str(self.directory / "etc"), str(self.directory / "usr")]
        known = {unit: str(self.directory / "run" / unit / "known") for unit in units or (WEB, DB)}
        found = changed_units(known, self, directories=places)
        return set(found), sorted(self.asked)

    def write(self, path: str, text: str = "") -> None:
        place = self.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name("new")
        new.write_text(text)
        new.rename(place)


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    manager = Manager(tmp_path)
    manager.write(f"etc/{WEB}.d/50-machctl.conf")
    manager.write(f"etc/{DB}.d/50-machctl.conf")
    manager.write("usr/systemd-nspawn@.service")
    for unit in (WEB, DB):
        (tmp_path / "run" / unit).mkdir(parents=True)
    manager.look()
    return manager


def test_systemd_is_asked_once(manager: Manager) -> None:
    assert manager.look() == (set(), [])
    assert manager.look(WEB) == (set(), [])
    assert manager.look() == (set(), [])


@pytest.mark.parametrize(
    "path", [f"etc/{WEB}.d/50-machctl.conf", f"etc/{WEB}.d/other.conf", f"etc/{WEB}", f"usr/{WEB}.d/x.conf"]
)
def test_it_is_asked_again_of_a_unit_whose_files_changed(manager: Manager, path: str) -> None:
    manager.write(path)
    manager.changed = {WEB}
    assert manager.look() == ({WEB}, [WEB])
    # As long as it says so.
    assert manager.look() == ({WEB}, [WEB])
    manager.changed = set()
    assert manager.look() == (set(), [WEB])
    assert manager.look() == (set(), [])


@pytest.mark.parametrize(
    "path",
    [
        "usr/systemd-nspawn@.service", "etc/systemd-nspawn@.service.d/all.conf", "etc/service.d/all.conf",
        "etc/systemd-.service.d/all.conf",
    ],
)  # fmt: skip
def test_what_is_for_all_of_them_is_asked_of_all(manager: Manager, path: str) -> None:
    manager.write(path)
    assert manager.look() == (set(), [DB, WEB])


def test_a_file_that_goes_is_a_change(manager: Manager) -> None:
    manager.write(f"etc/{DB}.d/other.conf")
    manager.look()
    (manager.directory / f"etc/{DB}.d/other.conf").unlink()
    assert manager.look() == (set(), [DB])


def test_it_is_asked_each_time_where_nothing_is_kept(manager: Manager) -> None:
    (manager.directory / "run" / DB / "known").unlink()
    (manager.directory / "run" / DB).rmdir()
    assert manager.look() == (set(), [DB])
    assert manager.look() == (set(), [DB])
