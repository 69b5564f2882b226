# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in machines, without a machine."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from types import SimpleNamespace

import pytest

from machines.errors import CommandFailed, NotFound, TimedOut
from machines.host.bus import given as giving
from machines.host.bus import guest
from machines.host.bus._sdbus import BusError
from machines.host.bus.given import Given


def test_a_command_whose_time_is_over_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [100.0]
    sent: list[int] = []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    given = Given("sleep", "web", 2.0, began=100.0)
    assert given.left(sent.append) == 2.0
    given.check()
    now[0] = 102.0
    assert given.left(sent.append) == giving.ENDING_SECONDS
    assert sent == [signal.SIGTERM]
    now[0] += giving.ENDING_SECONDS
    assert given.left(sent.append) is None
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    with pytest.raises(TimedOut, match=r"^sleep in machine web took longer than 2 seconds and was ended$") as caught:
        given.check()
    assert caught.value.exit_code == 124


def test_a_command_may_have_all_the_time() -> None:
    given = Given("sleep", "web", None, began=0.0)
    assert given.left(lambda number: None) is None
    given.check()
    given.start()


@pytest.mark.parametrize(
    ("started", "says"),
    [(False, "0.3 seconds, and sleep was not started"), (True, "does not answer: sleep took longer than 0.3 seconds")],
)
def test_a_machine_that_does_not_answer_is_not_waited_for(
    started: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving, "ENDING_SECONDS", 0.2)
    monkeypatch.setattr(giving, "ANSWER_SECONDS", 0.1)
    ours, guests = socket.socketpair()
    began = time.monotonic()

    def run() -> None:
        with Given("sleep", "web", 0.3, began=began) as given:
            given.watch(ours.fileno())
            if started:
                given.start()
                given.started()
            assert ours.recv(1) == b""
            raise CommandFailed("machine web went away while sleep ran in it")

    with ours, guests, pytest.raises(TimedOut, match=says):
        run()
    assert time.monotonic() - began >= (0.6 if started else 0.3)


def test_it_is_not_started_too_late() -> None:
    with pytest.raises(TimedOut, match="sleep was not started"), Given("sleep", "web", 0.1, began=0.0) as given:
        given.start()


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_a_time_limit_of_dbus_is_not_the_one_that_was_given(timeout: float | None) -> None:
    with (
        pytest.raises(CommandFailed, match="cannot connect to machine web: Connection timed out") as caught,
        Given("true", "web", timeout, began=time.monotonic()),
    ):
        raise BusError("", "", errno.ETIMEDOUT).translated(doing="connect to machine web")
    assert caught.value.exit_code == 1


def test_a_connection_that_is_no_more_needed_is_left_alone() -> None:
    ours, guests = socket.socketpair()
    with ours, guests, Given("true", "web", 60.0, began=time.monotonic()) as given:
        given.watch(ours.fileno())
        given.started()
        given.ended()
        guests.send(b"x")
        assert ours.recv(1) == b"x"
    with pytest.raises(NotFound), Given("true", "web", 60.0, began=time.monotonic()):
        raise NotFound("there is no user x in machine web")


def killed(given: Given) -> None:
    os.kill(given._child, signal.SIGKILL)
    os.waitid(os.P_PID, given._child, os.WEXITED | os.WNOWAIT)


def test_a_command_that_the_answer_about_came_too_late_for_is_not_left_without_a_word() -> None:
    ours, guests = socket.socketpair()

    def run() -> None:
        with Given("sleep", "web", 0.2, began=time.monotonic()) as given:
            given.watch(ours.fileno())
            given.start()
            assert ours.recv(1) == b""
            given.started()

    with ours, guests, pytest.raises(TimedOut, match=r"within 0\.2 seconds, and sleep may have been started"):
        run()


def test_a_command_that_no_answer_about_came_may_have_been_started() -> None:
    ours, guests = socket.socketpair()

    def run() -> None:
        with Given("sleep", "web", 0.2, began=time.monotonic()) as given:
            given.watch(ours.fileno())
            given.start()
            assert ours.recv(1) == b""
            raise CommandFailed("machine web went away while sleep ran in it")

    with ours, guests, pytest.raises(TimedOut, match="sleep may have been started"):
        run()


def test_time_is_kept_without_the_child_that_watches_the_connection() -> None:
    sent: list[int] = []
    ours, guests = socket.socketpair()
    with ours, guests, Given("sleep", "web", 60.0, began=time.monotonic()) as given:
        given.watch(ours.fileno())
        killed(given)
        given.start()
        given.started()
        assert 0 < (given.left(sent.append) or 0) <= 60
    assert sent == []


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("where", ["start", "started"])
def test_a_command_is_guarded_before_it_is_started(where: str, tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Guard:
        def __init__(self, machine: str, unit: str) -> None:
            seen.append(f"guard {machine} {unit}")

        def __enter__(self) -> None:
            seen.append("enter")

        def __exit__(self, kind: object, *_: object) -> None:
            seen.append("stop" if kind else "let go")

    class Command:
        unit, machine, argv, finished = "u.service", "web", ["sleep"], False

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def start(self, *_: object, **__: object) -> None:
            seen.append("start")
            if where == "start":
                raise CommandFailed("lost")

    class Host:
        def __enter__(self) -> Host:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call_with_fd(self, *_: object) -> tuple[int, list[str]]:
            master, slave = os.openpty()
            os.close(slave)
            return master, ["/dev/pts/0"]

    def late(_: Given) -> None:
        raise CommandFailed("lost")

    monkeypatch.setattr(guest, "_Guard", Guard)
    monkeypatch.setattr(guest, "_Command", Command)
    monkeypatch.setattr(guest, "_running", lambda machine: SimpleNamespace(leader=1))
    monkeypatch.setattr(guest.transient, "find_program", lambda *_, **__: "/bin/sleep")
    monkeypatch.setattr(guest, "open_machine", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(guest, "open_host", Host)
    if where == "started":
        monkeypatch.setattr(Given, "started", late)
    with pytest.raises(CommandFailed, match="lost"):
        guest.exec_in("web", ["sleep"], tty=tty, stdin=None)
    assert seen == ["guard web u.service", "enter", "start", "stop"]


def test_more_time_than_poll_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, guests = socket.socketpair()
    with ours, guests, Given("sleep", "web", 9e8, began=time.monotonic()) as given:
        given.watch(ours.fileno())
        given.start()
        given.started()
        left = given.left(lambda number: None)
        assert left is not None
        assert left * 1000 < 2**31
        ours.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        assert os.waitpid(given._child, os.WNOHANG) == (0, 0)
    # It looks again, as often as it takes.
    monkeypatch.setattr(giving, "LONGEST_SECONDS", 0.05)
    ours, guests = socket.socketpair()
    began = time.monotonic()
    with ours, guests, Given("sleep", "web", 0.3, began=began) as given:
        given.watch(ours.fileno())
        assert given.left(lambda number: None) == 0.05
        assert ours.recv(1) == b""
    assert time.monotonic() - began >= 0.3
