# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of mount units are those that systemd itself would give them."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest

from machines.model.names import is_machine_name, mount_unit
from machines.render import paths

NAMES = ["web", "a", "1", "db-1", "web.example.org", "A--b..c", "x" * 64, "a-.-b"]


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/var/lib/machines/web", "var-lib-machines-web.mount"),
        ("/var/lib/machines/web/", "var-lib-machines-web.mount"),
        ("/var/lib/machines/db-1", r"var-lib-machines-db\x2d1.mount"),
        ("/var/lib/machines/a.b", "var-lib-machines-a.b.mount"),
        ("/srv/a b@c", r"srv-a\x20b\x40c.mount"),
    ],
)
def test_mount_unit(path: str, unit: str) -> None:
    assert mount_unit(path) == unit


def test_systemd_escapes_the_same() -> None:
    if shutil.which("systemd-escape") is None:
        pytest.skip("systemd-escape is not installed")
    # Every name of four characters that are each of another kind; all at once, as a process takes longer than they do.
    short = ("".join(characters) for characters in itertools.product("aZ7.-", repeat=4))
    names = {name for name in (*NAMES, *short) if is_machine_name(name)}
    for where in (paths.tree, lambda name: f"{paths.layer(name)}/lower"):
        wanted = [where(name) for name in sorted(names)]
        argv = ["systemd-escape", "--path", "--suffix=mount", *wanted]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert [mount_unit(path) for path in wanted] == done.stdout.split()


def test_units_of_a_machine_are_those_of_its_two_mounts() -> None:
    assert paths.mount_units("db-1") == (
        r"var-lib-machctl-store-layers-db\x2d1-lower.mount",
        r"var-lib-machines-db\x2d1.mount",
    )
