# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the host: whole or not at all, gone with what was made around them; and locks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from machines.errors import MachctlError, NotPermitted
from machines.host import files


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep locks in a folder of this test's own."""
    directory = tmp_path / "locks"
    monkeypatch.setattr(files, "LOCK_DIRECTORY", str(directory))
    return directory


def test_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.conf"
    files.write_file(str(path), "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["c.conf"]  # noqa: PTH208 (the temporary file begins with a dot)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_mode_is_as_asked_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        files.write_file(str(tmp_path / "x"), "", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("others'")
    (tmp_path / "x").symlink_to("other")
    files.write_file(str(tmp_path / "x"), "ours")
    assert (tmp_path / "other").read_text() == "others'"
    assert not (tmp_path / "x").is_symlink()


def test_failed_write_leaves_the_old_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachctlError, match="No space left") as caught:
        files.write_file(str(path), "new")
    assert caught.value.message.startswith(f"{path} cannot be written: ")
    assert caught.value.hint == f"make room: df {tmp_path}"
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("number", "hint"), [
    (errno.EDQUOT, "make room: df "),
    (errno.EROFS, "the file system is read-only: "),
    (errno.EIO, "look at what is there: ls -la "),
])  # fmt: skip
def test_what_the_file_system_refuses_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(MachctlError, match=os.strerror(number)) as caught:
        files.write_file(str(tmp_path / "x"), "text")
    assert caught.value.hint.startswith(hint)
    assert str(tmp_path) in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(MachctlError, match="cannot be written"):
        files.write_file(str(tmp_path / "x"), "text")
    with pytest.raises(MachctlError, match="cannot be removed") as caught:
        files.remove_file(str(tmp_path / "x"))
    assert caught.value.hint == f"look at what is there: ls -la {tmp_path}"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("inside", ["x", "folder/x"])
def test_file_system_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # The kernel says so of unlink(2) as well, before it looks whether there is such a file.
    for call in ("open", "unlink", "mkdir", "rename"):
        monkeypatch.setattr(os, call, refused)
    with pytest.raises(MachctlError) as caught:
        files.write_file(str(tmp_path / inside), "text")
    assert caught.value.hint.startswith("the file system is read-only: ")


def test_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(MachctlError):
        files.write_file(str(tmp_path / "folder/x"), "text")


def test_file_that_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".#machctl-{os.getpid()}-x").write_text("half")
    files.write_file(str(tmp_path / "x"), "whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_file_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", denied)
    with pytest.raises(NotPermitted) as caught:
        files.write_file(str(tmp_path / "x"), "text")
    assert caught.value.exit_code == 6
    assert str(tmp_path / "x") in caught.value.message


def test_removing_prunes_only_empty_folders_of_machctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = tmp_path / "etc/machctl/fleet.d"
    monkeypatch.setattr(files, "_PRUNED", (str(ours), str(ours.parent)))
    files.write_file(str(ours / "a.toml"), "")
    files.write_file(str(ours / "b.toml"), "")
    files.remove_file(str(ours / "a.toml"))
    assert ours.is_dir()
    files.remove_file(str(ours / "b.toml"))
    assert not ours.parent.exists()
    assert (tmp_path / "etc").is_dir()


def test_removing_prunes_the_folder_of_drop_ins(tmp_path: Path) -> None:
    folder = tmp_path / "systemd-nspawn@web.service.d"
    files.write_file(str(folder / "50-machctl.conf"), "")
    files.write_file(str(folder / "60-mine.conf"), "")
    files.remove_file(str(folder / "50-machctl.conf"))
    assert [path.name for path in folder.iterdir()] == ["60-mine.conf"]
    files.remove_file(str(folder / "60-mine.conf"))
    assert not folder.exists()
    assert tmp_path.is_dir()


def test_removing_twice_is_fine(tmp_path: Path) -> None:
    files.write_file(str(tmp_path / "x"), "")
    files.remove_file(str(tmp_path / "x"))
    files.remove_file(str(tmp_path / "x"))
    files.remove_file(str(tmp_path / "nowhere/x"))


def test_unit_that_may_write_into_a_folder_alone_removes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", path)

    folder = tmp_path / "sockets.target.d"
    files.write_file(str(folder / "x.conf"), "text")
    monkeypatch.setattr(os, "rmdir", refused)
    files.remove_file(str(folder / "x.conf"))
    assert not (folder / "x.conf").exists()


def test_folder_that_another_takes_away_before_the_first_file_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sockets.target.d"
    opened, calls = os.open, iter([True])

    def late(path: str, *args: int) -> int:
        if next(calls, False):
            folder.rmdir()
        return opened(path, *args)

    monkeypatch.setattr(os, "open", late)
    files.write_file(str(folder / "x.conf"), "text")
    assert (folder / "x.conf").read_text() == "text"


def test_empty_folder_of_sockets_that_a_killed_run_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sockets.target.d"
    monkeypatch.setattr(files, "_SOCKETS", str(folder))
    monkeypatch.setattr(files, "_WRITTEN", ())
    folder.mkdir()
    assert files.abandoned() == [str(folder)]
    files.remove_file(str(folder))
    assert not folder.exists()
    files.write_file(str(folder / "x.conf"), "")
    assert files.abandoned() == []
    files.remove_file(str(folder / "x.conf"))
    assert not folder.exists()


@pytest.mark.parametrize(
    "directory", ["/etc/sysctl.d", "/etc/systemd/system/sockets.target.d", "/etc/NetworkManager/conf.d"]
)
def test_half_written_files_are_looked_for_wherever_machctl_writes(directory: str) -> None:
    assert directory in files._WRITTEN


def test_reading_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.txt").write_text("c")
    (tmp_path / ".#machctl-1-d.toml").write_text("half")
    (tmp_path / "e.toml").write_bytes(b"\xff")
    (tmp_path / "f.toml").symlink_to("nowhere")
    (tmp_path / "g.toml").symlink_to("g.toml")
    (tmp_path / "h.toml").symlink_to("c.txt/x")
    (tmp_path / "i.toml").symlink_to("a.toml")
    found = files.read_files([f"{tmp_path}/*.toml", f"{tmp_path}/nowhere/*", f"{tmp_path}/*.toml/*"])
    assert found == {f"{tmp_path}/a.toml": "a", f"{tmp_path}/e.toml": "�", f"{tmp_path}/i.toml": "a"}


def test_what_killed_processes_left_is_told(locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITTEN", (str(tmp_path / "bases/*"),))
    (tmp_path / "bases/1").mkdir(parents=True)
    for pid in (os.getpid(), 2**22 + 1):
        (locks / f"pacman-{pid}-a_b/db").mkdir(parents=True)
        (tmp_path / f"bases/1/.#machctl-{pid}-base.json").touch()
    (locks / "machine-a-b.lock").touch()
    assert files.abandoned_directories() == [f"{locks}/pacman-{2**22 + 1}-a_b"]
    assert files.abandoned() == sorted(
        [f"{locks}/machine-a-b.lock", f"{tmp_path}/bases/1/.#machctl-{2**22 + 1}-base.json"]
    )


def test_a_file_that_is_closed_to_others_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "web.toml"
    path.write_text("a")
    path.chmod(0o600)
    files.write_file(str(path), "b")
    assert (path.read_text(), files.mode_of(str(path)), files.mode_of(f"{path}.no")) == ("b", 0o600, 0o644)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_file_stays_whose_it_is(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text("old")
    os.chown(file, 1234, 4321)
    file.chmod(0o600)
    files.write_file(str(file), "new")
    there = file.stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o777, file.read_text()) == (1234, 4321, 0o600, "new")
