# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading a root tree for comparing, whatever its root user left in it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from machines.errors import MachctlError, NotFound
from machines.host import contents
from machines.host.contents import read_contents
from machines.operations.differences import compare

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mknod(2) and chown(2) need root")

DPKG = """\
Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1.22.1

Package: tzdata
Status: hold ok installed
Architecture: all
Description: time zones
 Version: not a field
Version: 2025b-1

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.41-1

Package: vim
Status: deinstall ok config-files
Architecture: amd64
Version: 9.1
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root tree with a little of everything."""
    root = tmp_path / "tree"
    for folder in ("etc/systemd/system/multi-user.target.wants", "var/lib/dpkg", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nno line of it\nwww:x:33:33:w:/var/www:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:eve\n")
    (root / "etc/shadow").write_text("root:secret\n")
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/systemd/system/multi-user.target.wants/ssh.service").symlink_to("/lib/systemd/system/ssh.service")
    (root / "etc/systemd/system/apt.timer").symlink_to("/dev/null")
    (root / "etc/systemd/system/dbus.service").symlink_to("/lib/systemd/system/dbus-broker.service")
    (root / "var/lib/dpkg/status").write_text(DPKG)
    return root


def test_what_a_tree_holds(tree: Path) -> None:
    found = read_contents(str(tree))
    assert found.packages == {"dpkg": "1.22.1", "tzdata": "2025b-1", "libc6:i386": "2.41-1"}
    assert found.units == {"ssh.service": "enabled", "apt.timer": "masked"}
    assert found.users == {"root": "0:0:/root:/bin/bash", "www": "33:33:/var/www:/bin/sh"}
    assert found.groups == {"root": "0:", "adm": "4:eve"}
    assert found.etc["/etc/group"].text == "root:x:0:\nadm:x:4:eve\n"
    assert found.unread == ()


def test_what_not_all_may_read_is_compared_but_not_shown(tree: Path) -> None:
    before = read_contents(str(tree))
    (tree / "etc/shadow").write_text("root:other\n")
    (change,) = compare(before, read_contents(str(tree))).etc
    assert (change.path, change.what, change.diff()) == ("/etc/shadow", ("content",), [])


def test_packages_of_other_package_managers(tree: Path) -> None:
    (tree / "var/lib/dpkg/status").unlink()
    (tree / "var/lib/dpkg/status.d").mkdir()
    (tree / "var/lib/dpkg/status.d/base").write_text("Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    (tree / "var/lib/dpkg/status.d/base.md5sums").write_text("Package: nothing\n")
    (tree / "usr/lib/apk/db").mkdir(parents=True)
    (tree / "usr/lib/apk/db/installed").write_text("C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:busybox\nV:1.37\n")
    (tree / "var/lib/pacman/local/gcc-libs-1:14.2-1").mkdir(parents=True)
    (tree / "var/lib/pacman/local/ALPM_DB_VERSION").write_text("9\n")
    (tree / "usr/lib/sysimage/rpm").mkdir(parents=True)
    (tree / "usr/lib/sysimage/rpm/rpmdb.sqlite").write_bytes(b"SQLite")
    found = read_contents(str(tree))
    assert found.packages == {"base-files": "12", "musl": "1.2.5-r0", "busybox": "1.37", "gcc-libs": "1:14.2-1"}
    assert found.unread == ("the packages of rpm",)


def test_size_counts_a_hard_link_once_and_no_hole(tree: Path) -> None:
    before = read_contents(str(tree)).size
    (tree / "usr/bin/one").write_bytes(b"x" * 65536)
    (tree / "usr/bin/two").hardlink_to(tree / "usr/bin/one")
    with (tree / "usr/bin/sparse").open("wb") as file:
        file.truncate(2**40)
    after = read_contents(str(tree)).size
    assert after.files - before.files == 2
    assert 65536 <= after.bytes - before.bytes < 2**20


@needs_root
def test_owners_are_the_guests(tree: Path) -> None:
    before = read_contents(str(tree))
    for path in [tree, *tree.rglob("*")]:
        os.chown(path, 1000000 + path.lstat().st_uid, 1000000 + path.lstat().st_gid, follow_symlinks=False)
    assert not compare(before, read_contents(str(tree), shift=1000000)).changed
    assert compare(before, read_contents(str(tree))).changed


def test_no_tree(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(NotFound, match=name):
            read_contents(str(tmp_path / name))


def test_failing_file_system(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(contents, "_read", fail)
    with pytest.raises(MachctlError, match="Input/output error"):
        read_contents(str(tree))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host that looks like what is read of a tree."""
    folder = tmp_path / "outside"
    (folder / "lib/dpkg").mkdir(parents=True)
    (folder / "lib/dpkg/status").write_text("Package: secret\nVersion: 1\n")
    (folder / "passwd").write_text("secret:x:0:0::/:/bin/sh\n")
    return folder


@pytest.mark.parametrize("link", ["{outside}", "../outside", "/proc/self/root{outside}"])
def test_linked_folders_are_not_entered(tree: Path, outside: Path, link: str) -> None:
    for name in ("etc", "var"):
        (tree / name).rename(tree / f"old-{name}")
        (tree / name).symlink_to(link.format(outside=outside))
    found = read_contents(str(tree))
    assert list(found.etc) == ["/etc"]
    assert found.etc["/etc"].kind == "link"
    assert "secret" not in {*found.packages, *found.users}


@pytest.mark.parametrize("target", ["{outside}/passwd", "../../outside/passwd", "shadow", "passwd"])
def test_linked_passwd_is_a_link_and_no_users(tree: Path, outside: Path, target: str) -> None:
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to(target.format(outside=outside))
    found = read_contents(str(tree))
    assert found.users == {}
    assert (found.etc["/etc/passwd"].kind, found.etc["/etc/passwd"].text) == ("link", None)


def test_fifos_and_sockets_are_not_opened(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("etc/passwd", "var/lib/dpkg/status"):
        (tree / path).unlink()
        os.mkfifo(tree / path)
    (tree / "var/lib/dpkg/status.d").touch()
    monkeypatch.chdir(tree / "etc")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        found = read_contents(str(tree))
    assert (found.packages, found.users) == ({}, {})
    assert {path for path, file in found.etc.items() if file.kind == "other"} == {"/etc/passwd", "/etc/socket"}


@needs_root
def test_devices_are_compared_by_number_and_not_opened(tree: Path) -> None:
    os.mknod(tree / "etc/console", 0o020600, os.makedev(4, 1))
    before = read_contents(str(tree))
    (tree / "etc/console").unlink()
    os.mknod(tree / "etc/console", 0o020600, os.makedev(4, 2))
    assert [change.what for change in compare(before, read_contents(str(tree))).etc] == [("content",)]


def test_large_files_are_not_read(tree: Path) -> None:
    with (tree / "etc/text").open("wb") as file:
        file.write(b"text\n" * 20 * 2**20)
    with (tree / "etc/hole").open("wb") as file:
        file.truncate(2**42)
    before = read_contents(str(tree))
    assert (before.etc["/etc/text"].text, before.unread) == (None, ())
    os.utime(tree / "etc/text", ns=(0, 0))
    assert [change.path for change in compare(before, read_contents(str(tree))).etc] == ["/etc/text"]


def test_endless_etc_and_databases_are_cut_and_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "ENTRIES_MAX", 5)
    monkeypatch.setattr(contents, "DIGEST_SUM_MAX", 2**20)
    (tree / "var/lib/dpkg/status").write_text("Package: x\nVersion: 1\n\n" * 2**18)
    monkeypatch.setattr(contents._Reader._database, "__kwdefaults__", {"limit": 2**20})
    found = read_contents(str(tree))
    assert len(found.etc) == 5
    assert found.packages == {"x": "1"}
    assert set(found.unread) == {"/etc beyond its first 5 files", "/var/lib/dpkg/status beyond its first 1 MB"}


def test_deep_tree_ends(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert read_contents(str(tree)).unread == ("directories more than 256 deep",)


def test_names_of_any_bytes(tree: Path) -> None:
    (tree / os.fsdecode(b"etc/\xff")).write_bytes(b"\xff")
    (tree / "etc/link").symlink_to(os.fsdecode(b"\xfe"))
    found = read_contents(str(tree))
    assert (found.etc["/etc/\\xff"].text, found.etc["/etc/link"].target) == (None, "\\xfe")


def test_ten_thousand_files_take_less_than_half_a_second(tree: Path) -> None:
    for folder in range(100):
        (tree / f"usr/{folder}").mkdir()
        for name in range(100):
            os.close(os.open(tree / f"usr/{folder}/{name}", os.O_CREAT | os.O_WRONLY))
    started = time.process_time()
    assert read_contents(str(tree)).size.files > 10000
    assert time.process_time() - started < 0.5
