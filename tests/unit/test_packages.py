# SPDX-License-Identifier: LGPL-2.1-or-later
"""Package managers of machines: which one a machine has, and what is read of what pacman and dnf say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.operations.packages import MANAGERS, beside_of, manager_of, read_upgrades


def test_upgrades_of_the_others() -> None:
    assert read_upgrades(MANAGERS[1], ["linux 6.1-1 -> 6.2-1", "glibc 1 -> 2 [ignored]"]) == ["linux 6.1-1 -> 6.2-1"]
    lines = ["", "bash.x86_64     5.2.26-3.fc40   updates", "tzdata.noarch 2024a-5.fc40 updates", "Obsoleting Packages"]
    lines += ["new.noarch 2-1.fc40 updates", "    old.noarch 1-1.fc40 @System"]
    assert read_upgrades(MANAGERS[2], lines) == ["bash -> 5.2.26-3.fc40", "tzdata -> 2024a-5.fc40"]


@pytest.mark.parametrize(
    ("there", "program"),
    [
        (("/usr/bin/apt-get", "/usr/bin/pacman", "/var/lib/dpkg/info/dpkg.list"), "/usr/bin/apt-get"),
        (("/usr/bin/apt-get", "/usr/bin/pacman", "/var/lib/pacman/local/ALPM_DB_VERSION"), "/usr/bin/pacman"),
        (("/usr/bin/apt-get", "/usr/bin/dnf", "/etc/dnf"), "/usr/bin/dnf"),
        (("/usr/bin/apt-get", "/usr/bin/pacman"), "/usr/bin/apt-get"),
        (("/usr/bin/pacman",), "/usr/bin/pacman"),
    ],
)
def test_manager_is_that_which_the_machine_was_made_with(there: tuple[str, ...], program: str) -> None:
    host: Any = FakeHost()
    host.registered = lambda: {"web": SimpleNamespace(leader=7)}
    host.guests = SimpleNamespace(exists=lambda root, path: root == "/proc/7/root" and path in there)
    assert manager_of("web", host).program == program


def test_files_to_be_merged_by_hand() -> None:
    assert beside_of("warning: /etc/a.conf installed as /etc/a.conf.pacnew") == "/etc/a.conf.pacnew"
    assert beside_of("warning: /etc/a created as /etc/a.rpmnew") == "/etc/a.rpmnew"
    assert beside_of("warning: /etc/a installed as /etc/b c.pacnew") == ""
    assert beside_of("upgrading a...") == ""
