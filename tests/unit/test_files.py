# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the host: whole or not at all, gone with what was made around them; and locks."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machines.errors import Conflict, NotPermitted
from machines.host import files

ROOT = Path(__file__).parents[2]


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
    with pytest.raises(OSError, match="No space left"):
        files.write_file(str(path), "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


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


def test_reading_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.txt").write_text("c")
    (tmp_path / ".#machctl-1-d.toml").write_text("half")
    (tmp_path / "e.toml").write_bytes(b"\xff")
    (tmp_path / "f.toml").symlink_to("nowhere")
    found = files.read_files([f"{tmp_path}/*.toml", f"{tmp_path}/nowhere/*"])
    assert found == {f"{tmp_path}/a.toml": "a", f"{tmp_path}/e.toml": "�"}


@contextmanager
def held_by_another(name: str, locks: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock until this is over."""
    code = (
        "import sys; from machines.host import files\n"
        f"files.LOCK_DIRECTORY = {str(locks)!r}\n"
        f"with files.lock({name!r}, wait=True, what='x'):\n"
        "    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other


def test_lock_that_another_process_has_names_it(locks: Path) -> None:
    with held_by_another("machine-web", locks) as other:
        assert files.is_locked("machine-web")
        with pytest.raises(Conflict) as caught, files.lock("machine-web", wait=False, what="machine web"):
            pass
        assert caught.value.message == f"machine web is being changed by another machctl (process {other.pid})"
        assert caught.value.exit_code == 5
        with files.lock("machine-db", wait=False, what="machine db"):
            pass


def test_lock_is_free_after_its_holder_was_killed(locks: Path) -> None:
    with held_by_another("machine-web", locks) as other:
        other.kill()
    assert not files.is_locked("machine-web")
    with files.lock("machine-web", wait=False, what="machine web"):
        assert files.is_locked("machine-web")


def test_lock_is_waited_for(locks: Path) -> None:
    got = threading.Event()

    def wait_for_it() -> None:
        with files.lock("fleet", wait=True, what="the fleet"):
            got.set()

    with held_by_another("fleet", locks) as other:
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert not got.wait(0.2)
        other.communicate("done\n")
    assert got.wait(10)
    waiting.join()


def test_one_holder_at_a_time(locks: Path) -> None:
    inside = []
    most = []

    def once() -> None:
        for _ in range(20):
            with files.lock("fleet", wait=True, what="the fleet"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_lock_leaves_no_file(locks: Path) -> None:
    with files.lock("fleet", wait=False, what="the fleet"):
        assert (locks / "fleet.lock").exists()
    assert not list(locks.iterdir())
    assert not files.is_locked("fleet")


def test_lock_is_given_back_after_a_failure(locks: Path) -> None:
    with pytest.raises(RuntimeError), files.lock("fleet", wait=False, what="the fleet"):
        raise RuntimeError
    with files.lock("fleet", wait=False, what="the fleet"):
        pass
