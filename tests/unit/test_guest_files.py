# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files inside a root tree whose root user may have put anything anywhere."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from machines.errors import MachctlError
from machines.host import guest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mknod(2) and chown(2) need root")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host that no guest may reach, with a secret in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root tree."""
    folder = tmp_path / "tree"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/hostname").write_text("web\n")
    return folder


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_reading(tree: Path) -> None:
    assert guest.read_file(str(tree), "/etc/hostname") == "web\n"


@pytest.mark.parametrize("path", ["/etc/nothing", "/nowhere/x", "/etc/hostname/x", "/etc", "/"])
def test_reading_what_is_no_file(tree: Path, path: str) -> None:
    assert guest.read_file(str(tree), path) is None


def test_reading_follows_links_inside_the_tree(tree: Path) -> None:
    (tree / "etc/absolute").symlink_to("/etc/hostname")
    (tree / "etc/relative").symlink_to("../etc/hostname")
    for name in ("absolute", "relative"):
        assert guest.read_file(str(tree), f"/etc/{name}") == "web\n"


@pytest.mark.parametrize(
    "link", ["{outside}/secret", "../../outside/secret", "../../../../../../../..{outside}/secret"]
)
def test_reading_never_leaves_the_tree_by_a_link(tree: Path, outside: Path, link: str) -> None:
    (tree / "etc/x").symlink_to(link.format(outside=outside))
    assert guest.read_file(str(tree), "/etc/x") is None


def test_reading_never_leaves_the_tree_by_a_linked_folder(tree: Path, outside: Path) -> None:
    (tree / "var").symlink_to(outside)
    assert guest.read_file(str(tree), "/var/secret") is None


def test_reading_never_leaves_the_tree_by_dots(tree: Path, outside: Path) -> None:
    assert guest.read_file(str(tree), "/../outside/secret") is None
    assert guest.read_file(str(tree), "/etc/../../outside/secret") is None


def test_reading_never_leaves_the_tree_by_proc(tree: Path) -> None:
    (tree / "etc/x").symlink_to("/proc/self/root/etc/passwd")
    assert guest.read_file(str(tree), "/etc/x") is None


def test_link_that_leads_to_itself(tree: Path) -> None:
    (tree / "etc/x").symlink_to("y")
    (tree / "etc/y").symlink_to("x")
    assert guest.read_file(str(tree), "/etc/x") is None


def test_link_that_is_too_long_is_nothing_to_read(tree: Path) -> None:
    (tree / "etc/x").symlink_to("y" * 300)
    assert guest.read_file(str(tree), "/etc/x") is None
    assert guest.read_plain_file(str(tree), "/etc/" + "y" * 300) is None


def test_file_that_can_be_written_anew(tree: Path) -> None:
    (tree / "etc/full").write_bytes(b"x" * guest.READ_MAX)
    assert guest.read_whole_file(str(tree), "/etc/hostname") == "web\n"
    assert guest.read_whole_file(str(tree), "/etc/full") == "x" * guest.READ_MAX
    assert guest.read_whole_file(str(tree), "/etc/nothing") == ""
    assert guest.read_whole_file(f"{tree}/nowhere", "/etc/hosts") == ""


def test_file_that_would_not_come_back_as_it_was(tree: Path) -> None:
    (tree / "etc/long").write_bytes("ä".encode() * (guest.READ_MAX // 2 + 1))
    (tree / "etc/bytes").write_bytes(b"\xff\n")
    (tree / "etc/link").symlink_to("hostname")
    (tree / "etc/far").symlink_to("y" * 300)
    os.mkfifo(tree / "etc/fifo")
    for name in ("long", "bytes", "link", "far", "fifo", "."):
        assert guest.read_whole_file(str(tree), f"/etc/{name}") is None, name


def test_fifo_is_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "etc/x")
    assert guest.read_file(str(tree), "/etc/x") is None


def test_socket_is_no_file(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its path may have 107 bytes.
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("etc/x")
        assert guest.read_file(str(tree), "/etc/x") is None


@needs_root
def test_device_is_not_read(tree: Path) -> None:
    os.mknod(tree / "etc/x", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert guest.read_file(str(tree), "/etc/x") is None


def test_endless_file_is_cut(tree: Path) -> None:
    with (tree / "etc/x").open("wb") as file:
        file.truncate(guest.READ_MAX * 100)
    found = guest.read_file(str(tree), "/etc/x")
    assert found is not None
    assert len(found) == guest.READ_MAX


def test_file_that_is_no_text(tree: Path) -> None:
    (tree / "etc/x").write_bytes(b"\xff\n")
    assert guest.read_file(str(tree), "/etc/x") == "�\n"


def test_writing_makes_folders(tree: Path) -> None:
    guest.write_file(str(tree), "/etc/systemd/network/x.network", "text", mode=0o640)
    path = tree / "etc/systemd/network/x.network"
    assert path.read_text() == "text"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert [found.name for found in path.parent.iterdir()] == ["x.network"]


@needs_root
def test_what_is_written_belongs_to_the_trees_root(tree: Path) -> None:
    os.chown(tree, 100000, 100000)
    guest.write_file(str(tree), "/etc/systemd/x", "text")
    for path in (tree / "etc/systemd", tree / "etc/systemd/x"):
        assert (path.stat().st_uid, path.stat().st_gid) == (100000, 100000)


def test_writing_replaces_a_link_and_never_follows_it(tree: Path, outside: Path) -> None:
    (tree / "etc/x").symlink_to(outside / "secret")
    guest.write_file(str(tree), "/etc/x", "text")
    assert (outside / "secret").read_text() == "secret"
    assert not (tree / "etc/x").is_symlink()


@pytest.mark.parametrize("link", ["{outside}", "../outside", "../../../../../../../..{outside}"])
def test_writing_never_leaves_the_tree_by_a_linked_folder(tree: Path, outside: Path, link: str) -> None:
    (tree / "var").symlink_to(link.format(outside=outside))
    before = listing(outside)
    with pytest.raises(MachctlError) as caught:
        guest.write_file(str(tree), "/var/lib/x", "text")
    assert caught.value.hint
    assert listing(outside) == before


def test_writing_through_a_linked_folder_inside(tree: Path) -> None:
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "lib").symlink_to("/usr/lib")
    guest.write_file(str(tree), "/lib/x", "text")
    assert (tree / "usr/lib/x").read_text() == "text"


@pytest.mark.parametrize("kind", ["file", "fifo", "loop", "dangling"])
def test_writing_where_no_folder_can_be(tree: Path, kind: str) -> None:
    path = tree / "var"
    match kind:
        case "file":
            path.write_text("")
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to("var")
        case _:
            path.symlink_to("nowhere")
    with pytest.raises(MachctlError) as caught:
        guest.write_file(str(tree), "/var/lib/x", "text")
    assert "/var" in caught.value.message


def test_writing_over_a_folder_is_an_error_and_leaves_nothing(tree: Path) -> None:
    (tree / "etc/x").mkdir()
    with pytest.raises((MachctlError, OSError)):
        guest.write_file(str(tree), "/etc/x", "text")
    assert listing(tree) == {"etc", "etc/hostname", "etc/x"}


def test_temporary_file_that_the_guest_put_there_is_no_way_out(tree: Path, outside: Path) -> None:
    (tree / f"etc/.#machctl-{os.getpid()}-x").symlink_to(outside / "secret")
    guest.write_file(str(tree), "/etc/x", "text")
    assert (outside / "secret").read_text() == "secret"
    assert (tree / "etc/x").read_text() == "text"


def test_linking(tree: Path) -> None:
    (tree / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    guest.link(str(tree), "/etc/resolv.conf", "../run/x")
    assert os.readlink(tree / "etc/resolv.conf") == "../run/x"  # noqa: PTH115 (a Path would tidy it up)


def test_removing_a_link_keeps_what_it_points_to(tree: Path, outside: Path) -> None:
    (tree / "etc/x").symlink_to(outside / "secret")
    guest.remove_file(str(tree), "/etc/x")
    assert not (tree / "etc/x").is_symlink()
    assert (outside / "secret").exists()


def test_removing_never_leaves_the_tree(tree: Path, outside: Path) -> None:
    (tree / "var").symlink_to(outside)
    guest.remove_file(str(tree), "/var/secret")
    assert (outside / "secret").exists()


@pytest.mark.parametrize("path", ["/etc/nothing", "/nowhere/x", "/etc/hostname/x"])
def test_removing_nothing_is_fine(tree: Path, path: str) -> None:
    guest.remove_file(str(tree), path)


def test_removing_below_a_link_that_leads_to_itself(tree: Path) -> None:
    (tree / "var").symlink_to("var")
    with pytest.raises(MachctlError, match="/var in the tree"):
        guest.remove_file(str(tree), "/var/x")


def test_no_descriptor_is_left_open(tree: Path, outside: Path) -> None:
    (tree / "var").symlink_to(outside)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    guest.read_file(str(tree), "/etc/hostname")
    guest.read_file(str(tree), "/etc")
    guest.read_file(str(tree), "/nowhere")
    guest.read_whole_file(str(tree), "/etc/hostname")
    guest.read_whole_file(str(tree), "/etc")
    guest.write_file(str(tree), "/etc/a/b", "")
    guest.remove_file(str(tree), "/etc/a/b")
    with pytest.raises(MachctlError):
        guest.write_file(str(tree), "/var/x/y", "")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_directory_is_made_and_one_that_is_there_is_left(tree: Path) -> None:
    guest.make_directory(str(tree), "/usr")
    assert stat.S_IMODE((tree / "usr").stat().st_mode) == 0o755
    (tree / "usr").chmod(0o700)
    guest.make_directory(str(tree), "/usr")
    assert stat.S_IMODE((tree / "usr").stat().st_mode) == 0o700
    with pytest.raises(MachctlError, match="/etc/hostname"):
        guest.make_directory(str(tree), "/etc/hostname")
