# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the host: whole or not at all, gone with what was made around them; and locks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machines.errors import Conflict, MachctlError, NotPermitted
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


def test_reading_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.txt").write_text("c")
    (tmp_path / ".#machctl-1-d.toml").write_text("half")
    (tmp_path / "e.toml").write_bytes(b"\xff")
    (tmp_path / "f.toml").symlink_to("nowhere")
    found = files.read_files([f"{tmp_path}/*.toml", f"{tmp_path}/nowhere/*"])
    assert found == {f"{tmp_path}/a.toml": "a", f"{tmp_path}/e.toml": "�"}


PROLOGUE = """
import asyncio, sys
from machines.host import files
files.LOCK_DIRECTORY = sys.argv[1]
def held():
    sys.stdout.write("held\\n"); sys.stdout.flush(); sys.stdin.readline()
"""

ONE = (
    PROLOGUE
    + """
with files.lock(sys.argv[2], what="x"):
    held()
"""
)

FLEET = (
    PROLOGUE
    + """
async def main():
    async with files.fleet_lock():
        held()
asyncio.run(main())
"""
)


@contextmanager
def held_by_another(code: str, locks: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock until this is over."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(locks), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other


def test_lock_that_another_process_has_names_it(locks: Path) -> None:
    with held_by_another(ONE, locks, "machine-web") as other:
        assert files.is_locked("machine-web")
        with pytest.raises(Conflict) as caught, files.lock("machine-web", what="machine web"):
            pass
        assert caught.value.message == f"machine web is being changed by another machctl (process {other.pid})"
        assert caught.value.exit_code == 5
        with files.lock("machine-db", what="machine db"):
            pass


def test_lock_is_free_after_its_holder_was_killed(locks: Path) -> None:
    with held_by_another(ONE, locks, "machine-web") as other:
        other.kill()
    assert not files.is_locked("machine-web")
    with files.lock("machine-web", what="machine web"):
        assert files.is_locked("machine-web")


def test_looking_whether_a_lock_is_held_takes_it_from_nobody(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks.mkdir()
    assert not files.is_locked("machine-web")
    with files.lock("machine-db", what="machine db"):
        assert files.is_locked("machine-db")
        assert not files.is_locked("machine-web")
    # A file without a holder is what a killed one left.
    (locks / "machine-web.lock").write_text("1\n")
    assert not files.is_locked("machine-web")
    # Somebody who looks while another takes it would make that one fail.
    taken = []
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: taken.append(arguments))
    with held_by_another(ONE, locks, "machine-web"):
        assert files.is_locked("machine-web")
    assert not taken


def test_lock_leaves_no_file(locks: Path) -> None:
    with files.lock("fleet", what="the fleet"):
        assert (locks / "fleet.lock").exists()
    assert not list(locks.iterdir())
    assert not files.is_locked("fleet")


def test_lock_is_given_back_after_a_failure(locks: Path) -> None:
    with pytest.raises(RuntimeError), files.lock("fleet", what="the fleet"):
        raise RuntimeError
    with files.lock("fleet", what="the fleet"):
        pass


async def take_fleet() -> None:
    async with files.fleet_lock():
        pass


def fleet_is_free(locks: Path) -> bool:
    """Tell whether nobody has the fleet's lock, by taking it for a moment."""
    fd = os.open(locks, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_lock_of_the_fleet_is_waited_for(locks: Path) -> None:
    async def scenario(other: subprocess.Popen[str]) -> None:
        waiting = asyncio.create_task(take_fleet())
        # The loop goes on meanwhile.
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        other.communicate("done\n")
        await asyncio.wait_for(waiting, 10)

    with held_by_another(FLEET, locks) as other:
        asyncio.run(scenario(other))
    assert fleet_is_free(locks)
    assert not list(locks.iterdir())


def test_lock_of_the_fleet_is_free_after_its_holder_was_killed(locks: Path) -> None:
    async def scenario(other: subprocess.Popen[str]) -> None:
        waiting = asyncio.create_task(take_fleet())
        await asyncio.sleep(0.1)
        other.kill()
        await asyncio.wait_for(waiting, 10)

    with held_by_another(FLEET, locks) as other:
        asyncio.run(scenario(other))


def test_lock_of_the_fleet_is_given_back_after_a_failure(locks: Path) -> None:
    async def fail() -> None:
        async with files.fleet_lock():
            assert not fleet_is_free(locks)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        asyncio.run(fail())
    assert fleet_is_free(locks)


def test_lock_of_the_fleet_and_those_of_machines_are_apart(locks: Path) -> None:
    with held_by_another(FLEET, locks), files.lock("machine-web", what="machine web"):
        assert files.is_locked("machine-web")
    with held_by_another(ONE, locks, "machine-web"):
        asyncio.run(asyncio.wait_for(take_fleet(), 10))


def test_who_waits_for_the_fleet_can_be_cancelled_and_has_no_lock_later(locks: Path) -> None:
    async def scenario(other: subprocess.Popen[str]) -> None:
        waiting = asyncio.create_task(take_fleet())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 5)
        assert other.poll() is None
        other.communicate("done\n")
        # What was cancelled may still get the lock; it has to give it back.
        await asyncio.wait_for(take_fleet(), 10)

    with held_by_another(FLEET, locks) as other:
        asyncio.run(scenario(other))
    assert fleet_is_free(locks)


def test_who_is_cancelled_just_when_the_fleet_is_free_has_no_lock_later(locks: Path) -> None:
    async def scenario(fd: int) -> None:
        waiting = asyncio.create_task(take_fleet())
        await asyncio.sleep(0.1)
        os.close(fd)
        # The thread is to report while the loop stands still.
        time.sleep(0.3)
        asyncio.get_running_loop().call_soon(waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert fleet_is_free(locks)

    locks.mkdir()
    fd = os.open(locks, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    asyncio.run(scenario(fd))


def test_who_waits_for_the_fleet_does_not_keep_its_process_from_ending(locks: Path) -> None:
    code = (
        PROLOGUE
        + """
async def main():
    async with files.fleet_lock():
        pass
try:
    asyncio.run(asyncio.wait_for(main(), 0.2))
except TimeoutError:
    print("gave up")
"""
    )
    with held_by_another(FLEET, locks) as other:
        done = subprocess.run(
            [sys.executable, "-c", code, str(locks)], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
        assert (done.stdout, done.stderr) == ("gave up\n", "")
        assert other.poll() is None


def test_one_holder_at_a_time(locks: Path) -> None:
    inside = []
    most = []

    async def once() -> None:
        for _ in range(20):
            async with files.fleet_lock():
                inside.append(1)
                await asyncio.sleep(0)
                most.append(len(inside))
                inside.pop()

    async def all_at_once() -> None:
        await asyncio.wait_for(asyncio.gather(*(once() for _ in range(4))), 60)

    asyncio.run(all_at_once())
    assert len(most) == 80
    assert max(most) == 1


def test_one_process_at_a_time(locks: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = (
        PROLOGUE
        + """
from pathlib import Path
counter = Path(sys.argv[2])
async def main():
    for _ in range(25):
        async with files.fleet_lock():
            number = int(counter.read_text())
            await asyncio.sleep(0.001)
            counter.write_text(str(number + 1))
asyncio.run(main())
"""
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(locks), str(counter)], cwd=ROOT) for _ in range(4)]
    assert [other.wait(60) for other in others] == [0] * 4
    assert counter.read_text() == "100"


def test_a_lock_that_is_held_is_not_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "LOCK_DIRECTORY", str(tmp_path))
    with files.lock("machine-web", what="machine web"):
        files.remove_file(f"{tmp_path}/machine-web.lock")
        assert files.is_locked("machine-web")
    (tmp_path / "machine-db.lock").touch()
    files.remove_file(f"{tmp_path}/machine-db.lock")
    assert not (tmp_path / "machine-db.lock").exists()
