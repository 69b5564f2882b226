# SPDX-License-Identifier: LGPL-2.1-or-later
"""create arch, by pacstrap, from a repository of pacman's that is made here of a tree that boots; and its upgrades."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from throwaway import Host, Roads

PROGRAM = Path(__file__).parents[1] / "pacman_repository.py"
# Whoever fetches for pacman is not root, and /root is for nobody else.
PLACE, KEY = "/srv/arch/repository", "/srv/arch/key.gpg"
PACKAGES = ("--package", "greeting", "--package", "thing", "--package", "archlinux-keyring")
FROM = ("--mirror", f"file://{PLACE}", *PACKAGES, "--bridge", "br0")
SIGNED = ("--keyring", KEY)
FILE = "/etc/machctl/fleet.d/web.toml"
HEALTH = """
[machines.web.health]
unit = "thing.service"
interval = "1s"
retries = 2
"""
GOOD = "echo {0} >/run/thing; while :; do sleep 1000 & wait; done"
# What pacman has written, and what is not its own.
STATE = "cd / && find etc usr/lib/thing var/lib/pacman -type f -exec sha256sum {} + | sort -k 2"


@pytest.fixture(scope="module")
def host(roads: Roads) -> Iterator[Host]:
    """A host with a signed repository on it and a machine of it; in the end it is as it was, but for bases."""
    with roads.get("trixie").ready().host.only_debian() as host:
        host.run("python3", "-", host.base_tree(), PLACE, KEY, stdin=PROGRAM.read_text())
        offer(host, "1-1", GOOD.format(1), "one")
        words = ("create", "arch", "web", *FROM, "-v", f"{PLACE}:{PLACE}:ro")
        host.machctl(*words, *SIGNED, "--start", "--wait", "ip", timeout=300)
        yield host
        host.sh("rm -rf /srv/arch")
    host.machctl("image", "prune", "--all")


def offer(host: Host, version: str, script: str, conf: str) -> None:
    host.run("python3", "-", "--offer", PLACE, KEY, version, script, conf + "\n", stdin=PROGRAM.read_text())


def state(host: Host) -> list[str]:
    return host.inside("web", STATE).splitlines()


def test_arch_boots(host: Host) -> None:
    assert host.machctl("shell", "web", "/bin/cat", "/usr/share/greeting").stdout.strip() == "hello"
    assert host.inside("web", "systemctl is-active multi-user.target dbus.service").split() == ["active", "active"]
    assert host.machine("web")["os"].startswith("arch")
    assert "pacstrap" not in host.machctl("create", "arch", "two", *FROM, *SIGNED).stderr


def test_its_upgrade_stays_where_it_works_and_is_taken_back_where_it_does_not(host: Host) -> None:
    host.inside("web", "echo mine >/etc/thing.conf; systemctl enable --now thing")
    host.write(FILE, host.read(FILE) + HEALTH)
    host.machctl("apply", "web")
    host.machctl("wait", "web", "healthy", "--timeout", "30")
    leader = host.machine("web")["leader"]
    host.machctl("update", "web").says("nothing to upgrade")

    offer(host, "2-1", GOOD.format(2), "two")
    assert "upgrade" in host.machctl("--dry-run", "update", "web").stdout
    # One that is at work is left to it, before anything is done.
    lock = "/var/lib/pacman/db.lck"
    host.inside(
        "web", f"systemd-run -q --unit=holder sh -c 'exec sleep 1000 9>{lock}'; until test -e {lock}; do :; done"
    )
    host.machctl("update", "web", status=1).says("another pacman is at work")
    assert host.machctl("snapshot", "ls", "web", "--json").json() == []
    # One that was killed has left its lock.
    host.inside("web", f"systemctl stop holder; test -e {lock}")
    host.machctl("update", "web").says(
        "thing 1-1 -> 2-1", "restarted thing.service", "restore web before-update-", "by hand", "/etc/thing.conf.pacnew"
    )
    assert host.inside("web", "pacman -Q thing; cat /run/thing /etc/thing.conf /etc/thing.conf.pacnew").split("\n") == [
        "thing 2-1", "2", "mine", "two",
    ]  # fmt: skip
    assert host.machine("web")["leader"] == leader
    # What the others may be signed with comes before them.
    log = host.inside("web", "grep -oE 'transaction started|upgraded [a-z-]+' /var/log/pacman.log | tail -n 4").split(
        "\n"
    )
    assert log == ["transaction started", "upgraded archlinux-keyring", "transaction started", "upgraded thing"]

    before = state(host)
    offer(host, "3-1", "echo ruined >/etc/thing.conf; exit 3", "three")
    host.machctl("update", "web", status=1).says("thing.service of machine web has failed", "taken back", "2-1 -> 3-1")
    assert state(host) == before
    assert host.inside("web", "pacman -Q thing; cat /run/thing").split("\n") == ["thing 2-1", "2"]
    host.machctl("wait", "web", "healthy", "--timeout", "30")

    # A package that is not the one that was signed is not taken.
    offer(host, "4-1", GOOD.format(4), "four")
    host.sh(f"cd {PLACE} && cp thing-1-1-any.pkg.tar.zst.sig thing-4-1-any.pkg.tar.zst.sig")
    host.machctl("update", "web", status=1).says("could not upgrade", "PGP signature", "taken back")
    assert state(host) == before


def test_what_is_not_what_was_signed_is_not_installed(host: Host) -> None:
    host.sh(f"cd {PLACE} && echo >>greeting-1-1-any.pkg.tar.zst && rm -rf /var/cache/pacman/pkg/greeting-*")
    done = host.machctl("create", "arch", "three", *FROM, *SIGNED, "--fresh", status=1)
    done.says("greeting")
    assert host.state("three") == ""
