# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copied layer becomes another machine's: without its base mounted below it, and the same as with it."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from machines.host import guest
from machines.host.storage import overlay
from machines.model.snapshot import Origin
from machines.operations import tree as trees
from machines.operations.identity import SSH_KEYS_UNIT, forget
from machines.plan.steps import CopyTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="overlayfs needs root")

UNITS = "etc/systemd/system"
MERGED = "merged"


def write(tree: Path, path: str, text: str = "x") -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)


class Layers:
    """A base that was prepared, what a guest did over it, and a copy of that."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.base = room / "base/tree"
        write(self.base, "etc/os-release")
        write(self.base, "usr/sbin/init")
        write(self.base, "etc/ssh/ssh_config")
        write(self.base, "opt/keys/ssh_host_x")
        (self.base / "var/lib/dhcp").mkdir(parents=True)
        (self.base / "var/lib/systemd").mkdir()
        (self.base / "var/log/journal").mkdir(parents=True)
        (self.base / "var/log").chmod(0o2775)
        (self.base / UNITS).mkdir(parents=True)
        (self.base / UNITS).chmod(0o711)
        for part in ("upper", "work", MERGED):
            (room / part).mkdir(parents=True)
        self.mounted = 0

    @contextmanager
    def merged(self) -> Iterator[Path]:
        """The tree that the guest sees."""
        options = f"lowerdir={self.base},upperdir={self.room}/upper,workdir={self.room}/work,{overlay.OPTIONS}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "test", self.room / MERGED], check=True)
        try:
            yield self.room / MERGED
        finally:
            subprocess.run(["umount", self.room / MERGED], check=True)

    @contextmanager
    def edit_layer(self, name: str, uid: int) -> Iterator[str]:
        self.mounted += 1
        with self.merged() as tree:
            yield str(tree)

    def become(self) -> dict[str, object]:
        """Let the layer become another machine's; give what that machine sees."""

        async def copy_origin(*_: object, **__: object) -> str:
            return f"{self.room}/upper"

        host: Any = SimpleNamespace(
            guests=guest,
            storage=SimpleNamespace(
                copy_origin=copy_origin,
                edit_layer=self.edit_layer,
                bases=lambda: {"b": "b"},
                base_path=lambda _: str(self.base),
            ),
        )
        step = CopyTree(
            reason="", machine="two", source="one", origin=Origin("", "overlay", "b", 0), uid=0,
        )  # fmt: skip
        asyncio.run(trees.copy_tree(step, host, lambda *_: None))
        with self.merged() as tree:
            return look(tree)


def look(tree: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        text = path.readlink() if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(tree))] = (status.st_mode, status.st_uid, text)
    return found


def booted(tree: Path) -> None:
    (tree / "etc/machine-id").unlink(missing_ok=True)
    for path in ("etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed"):
        write(tree, path)
    for path in ("var/log/journal/id/system.journal", "var/lib/dhcp/lease", "etc/systemd/network/mine.network"):
        write(tree, path)
    write(tree, "etc/systemd/network/10-machctl-host0.network", "its")


def installed(tree: Path) -> None:
    write(tree, "usr/sbin/sshd")
    write(tree, "etc/ssh/ssh_host_rsa_key")
    (tree / UNITS / "ssh.service").symlink_to("/dev/null")


def removed(tree: Path) -> None:
    (tree / "etc/machine-id").unlink()
    (tree / "var/lib/dhcp").rmdir()
    (tree / "etc/ssh/ssh_config").unlink()


def replaced(tree: Path) -> None:
    subprocess.run(["rm", "-r", tree / "var/log", tree / "etc/ssh"], check=True)
    write(tree, "var/log/journal/id/system.journal")
    write(tree, "etc/ssh/ssh_host_rsa_key")


def renamed(tree: Path) -> None:
    (tree / "etc/ssh").rename(tree / "etc/old")
    (tree / "opt/keys").rename(tree / "etc/ssh")


def planted(tree: Path) -> None:
    (tree / "var/log/journal").rmdir()
    (tree / "var/log/journal").symlink_to("/opt/keys")


def parent_removed(tree: Path) -> None:
    subprocess.run(["rm", "-r", tree / "etc/systemd"], check=True)


def unit_removed(tree: Path) -> None:
    (tree / UNITS / SSH_KEYS_UNIT).unlink()
    subprocess.run(["rm", "-r", tree / UNITS / "ssh.service.wants"], check=True)


def server_removed(tree: Path) -> None:
    (tree / "usr/sbin/sshd").unlink()
    unit_removed(tree)


def crowded(tree: Path) -> None:
    for number in range(501):
        write(tree, f"var/lib/dhcp/{number}")


def nothing(tree: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "did", "mounts"),
    [
        (nothing, nothing, 0),
        (nothing, booted, 0),
        (nothing, installed, 0),
        (nothing, removed, 0),
        (nothing, replaced, 0),
        (nothing, renamed, 1),
        (nothing, planted, 1),
        (nothing, parent_removed, 1),
        (nothing, crowded, 1),
        (installed, booted, 0),
        (installed, unit_removed, 1),
        (installed, server_removed, 0),
    ],
)
def test_a_layer_alone_becomes_what_it_would_over_its_base(
    before: Callable[[Path], None], did: Callable[[Path], None], mounts: int, tmp_path: Path
) -> None:
    seen = []
    host: Any = SimpleNamespace(guests=guest)
    for name in ("alone", "mounted"):
        layers = Layers(tmp_path / name)
        before(layers.base)
        forget(str(layers.base), host)
        with layers.merged() as tree:
            did(tree)
            if name == "mounted":
                forget(str(tree), host)
                seen.append(look(tree))
        if name == "alone":
            seen.append(layers.become())
            assert layers.mounted == mounts
    assert seen[0] == seen[1]
    assert seen[0]["etc/machine-id"] == (stat.S_IFREG | 0o444, 0, "")


def test_what_a_base_has_of_one_machine_is_hidden(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    # It was imported as it was.
    booted(layers.base)
    found = layers.become()
    assert layers.mounted == 1
    assert "etc/hostname" not in found
    assert "var/log/journal/id" not in found
