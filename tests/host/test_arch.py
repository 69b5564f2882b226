# SPDX-License-Identifier: LGPL-2.1-or-later
"""create arch, by pacstrap, from a repository of pacman's that is made here of a tree that boots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from throwaway import Host, Roads

PROGRAM = Path(__file__).parents[1] / "pacman_repository.py"
PLACE = "/root/arch/repository"


@pytest.fixture
def host(roads: Roads) -> Iterator[Host]:
    """A host with a signed repository on it; in the end it is as it was, but for bases."""
    with roads.get("trixie").ready().host.only_debian() as host:
        words = ("python3", "-", host.base_tree(), PLACE, "/root/arch/key.gpg")
        host.run(*words, stdin=PROGRAM.read_text())
        yield host
        host.sh("rm -rf /root/arch")
    host.machctl("image", "prune", "--all")


def test_arch_boots(host: Host) -> None:
    words = ("create", "arch", "web", "--mirror", f"file://{PLACE}", "--package", "greeting", "--bridge", "br0")
    signed = ("--keyring", "/root/arch/key.gpg")
    host.machctl(*words, *signed, "--start", "--wait", "ip", timeout=300)
    assert host.machctl("shell", "web", "/bin/cat", "/usr/share/greeting").stdout.strip() == "hello"
    assert host.inside("web", "systemctl is-active multi-user.target dbus.service").split() == ["active", "active"]
    assert host.machine("web")["os"].startswith("arch")
    assert "pacstrap" not in host.machctl("create", "arch", "two", *words[3:], *signed).stderr
    # A package that is not the one that was signed is not installed.
    host.sh(f"cd {PLACE} && echo >>greeting-1-1-any.pkg.tar.zst && rm -rf /var/cache/pacman/pkg/greeting-*")
    done = host.machctl("create", "arch", "three", *words[3:], *signed, "--fresh", status=1)
    done.says("greeting")
    assert host.state("three") == ""
