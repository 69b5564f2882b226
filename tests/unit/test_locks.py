# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks: one holder at a time, given back however that ends, waited for and left alone."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machines.errors import Conflict
from machines.host import files

ROOT = Path(__file__).parents[2]

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


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep locks in a folder of this test's own."""
    directory = tmp_path / "locks"
    monkeypatch.setattr(files, "LOCK_DIRECTORY", str(directory))
    return directory


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


def test_lock_that_somebody_waited_for_names_who_has_it(locks: Path) -> None:
    async def scenario() -> None:
        async with files.wait_lock("machine-web"):
            with pytest.raises(Conflict) as caught, files.lock("machine-web", what="machine web"):
                pass
            assert caught.value.message == f"machine web is being changed by another machctl (process {os.getpid()})"

    asyncio.run(scenario())


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


def test_a_second_one_waits_for_a_lock_and_gets_it(locks: Path) -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        async with files.wait_lock("base-0123"):
            assert files.is_locked("base-0123")
            done.append(f"{name} begins")
            await asyncio.sleep(0.02)
            done.append(f"{name} ends")

    async def scenario() -> None:
        await asyncio.wait_for(asyncio.gather(work("a"), work("b"), work("c")), 10)

    asyncio.run(scenario())
    assert [word.split()[1] for word in done] == ["begins", "ends"] * 3
    assert [first.split()[0] for first in done[::2]] == [last.split()[0] for last in done[1::2]]
    assert list(locks.iterdir()) == []
    assert not files.is_locked("base-0123")


def test_waiting_for_a_lock_ends_when_it_is_cancelled(locks: Path) -> None:
    async def scenario() -> None:
        async with files.wait_lock("x"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), files.wait_lock("x"):
                    pass
        async with asyncio.timeout(10), files.wait_lock("x"):
            pass

    asyncio.run(scenario())


def test_process_is_alive_as_long_as_it_runs() -> None:
    assert files.is_alive(files.this_process())
    for other in ("", "x", f"{os.getpid()}", f"{os.getpid()}.1", "999999999.1"):
        assert not files.is_alive(other)
