# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
import threading
import time
import tty

import pytest

from machines.errors import CommandFailed
from machines.host import terminal
from machines.host.terminal import EscapeKeys, forward


@pytest.fixture
def session():
    """The two ends of a guest's terminal, and the two of ours, all closed in the end."""
    master, slave = pty.openpty()
    outer, inner = pty.openpty()
    fds = {"master": master, "slave": slave, "outer": outer, "inner": inner}
    yield fds
    for fd in fds.values():
        try:
            os.close(fd)
        except OSError:
            continue


def close(fds, name):
    os.close(fds.pop(name))


def later(call, *args):
    thread = threading.Thread(target=call, args=args)
    thread.start()
    return thread


def read_all(fd):
    text = b""
    os.set_blocking(fd, False)
    try:
        while data := os.read(fd, 65536):
            text += data
    except OSError:
        pass
    return text


def test_three_escapes_within_a_second_leave():
    keys = EscapeKeys()
    assert not keys.typed(b"\x1d", 10.0)
    assert not keys.typed(b"\x1d", 10.4)
    assert keys.typed(b"\x1d", 10.9)
    assert EscapeKeys().typed(b"ls\n\x1d\x1d\x1d", 1.0)


@pytest.mark.parametrize("typed", [[(b"\x1d\x1d", 1.0), (b"\x1d", 2.1)], [(b"\x1d\x1dx\x1d", 1.0)], [(b"\x1dx", 1.0)]])
def test_slow_or_interrupted_escapes_do_not(typed):
    keys = EscapeKeys()
    assert [keys.typed(data, now) for data, now in typed] == [False] * len(typed)


def test_all_output_is_shown_before_the_end(session, tmp_path):
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    tty.setraw(session["slave"])

    def guest():
        os.write(session["slave"], b"x" * 200_000 + b"END")
        close(session, "slave")

    thread = later(guest)
    assert forward(session["master"], what="sh", stdin=session["inner"], stdout=out) == "closed"
    thread.join()
    os.close(out)
    assert (tmp_path / "out").read_bytes() == b"x" * 200_000 + b"END"


def test_a_session_without_output_ends(session):
    close(session, "slave")
    assert forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"]) == "closed"


def test_typing_arrives_and_escape_leaves_with_the_terminal_as_before(session):
    before = termios.tcgetattr(session["inner"])
    tty.setraw(session["slave"])

    def user():
        wait_for_raw(session["inner"])
        os.write(session["outer"], b"\x03hi\x1d\x1d\x1d")

    thread = later(user)
    assert forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"]) == "escape"
    thread.join()
    assert read_all(session["slave"]).startswith(b"\x03hi")
    assert termios.tcgetattr(session["inner"]) == before


def wait_for_raw(fd):
    deadline = time.monotonic() + 5
    while termios.tcgetattr(fd)[3] & termios.ICANON and time.monotonic() < deadline:
        os.sched_yield()


def test_the_size_is_passed_on_and_kept_up(session):
    def size(fd):
        return struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))[:2]

    fcntl.ioctl(session["inner"], termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    seen = []

    def user():
        wait_for_raw(session["inner"])
        # Raw comes first, the size a moment later.
        deadline = time.monotonic() + 5
        while size(session["slave"]) == (0, 0) and time.monotonic() < deadline:
            os.sched_yield()
        seen.append(size(session["slave"]))
        fcntl.ioctl(session["inner"], termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        os.kill(os.getpid(), signal.SIGWINCH)
        deadline = time.monotonic() + 5
        while size(session["slave"]) != (50, 120) and time.monotonic() < deadline:
            os.sched_yield()
        seen.append(size(session["slave"]))
        close(session, "slave")

    thread = later(user)
    forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"])
    thread.join()
    assert seen == [(33, 101), (50, 120)]


def test_piped_input_is_followed_by_its_end(session, monkeypatch, tmp_path):
    monkeypatch.setattr(terminal, "HELD_SECONDS", 0.01)
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo")
    os.close(writing)
    got = []

    def guest():
        while data := os.read(session["slave"], 100):
            got.append(data)
        close(session, "slave")

    thread = later(guest)
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    assert forward(session["master"], what="sh", stdin=reading, stdout=out) == "closed"
    thread.join()
    os.close(out)
    os.close(reading)
    assert got == [b"one\n", b"two"]


def test_a_watched_descriptor_ends_it_after_what_was_shown(session, tmp_path):
    reading, writing = os.pipe()
    tty.setraw(session["slave"])
    os.write(session["slave"], b"last words")
    os.write(writing, b"x")
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    assert (
        forward(session["master"], what="sh", stdin=session["inner"], stdout=out, watch={reading: lambda: True})
        == "closed"
    )
    for fd in (reading, writing, out):
        os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"last words"


def test_a_signal_is_passed_on_when_wanted(session):
    got = []

    def on_signal(number):
        got.append(number)
        close(session, "slave")

    def user():
        wait_for_raw(session["inner"])
        os.kill(os.getpid(), signal.SIGTERM)

    thread = later(user)
    forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"], on_signal=on_signal)
    thread.join()
    assert got == [signal.SIGTERM]


def test_a_signal_that_ends_the_process_finds_the_terminal_restored(session):
    before = termios.tcgetattr(session["inner"])
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"])
        os._exit(0)
    wait_for_raw(session["inner"])
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert termios.tcgetattr(session["inner"]) == before


@pytest.mark.parametrize("watched", [False, True])
def test_output_that_cannot_be_written_is_an_error(session, watched):
    reading, writing = os.pipe()
    os.write(writing, b"x")
    tty.setraw(session["slave"])
    os.write(session["slave"], b"some words")
    full = os.open("/dev/full", os.O_WRONLY)
    before = termios.tcgetattr(session["inner"])
    watch = {reading: lambda: True} if watched else {}
    with pytest.raises(CommandFailed, match=r"^the output of seq could not be written: No space left on device$"):
        forward(session["master"], what="seq", stdin=session["inner"], stdout=full, watch=watch)
    assert termios.tcgetattr(session["inner"]) == before
    for fd in (reading, writing, full):
        os.close(fd)


def test_a_reader_who_has_had_enough_is_none(session):
    reading, writing = os.pipe()
    os.close(reading)
    os.write(session["slave"], b"some words")
    assert forward(session["master"], what="sh", stdin=session["inner"], stdout=writing) == "closed"
    os.close(writing)


def test_it_is_asked_how_long_it_may_wait(session):
    asked = []

    def left():
        asked.append(0.05)
        if len(asked) == 3:
            close(session, "slave")
        return 0.05

    assert forward(session["master"], what="sh", stdin=session["inner"], stdout=session["inner"], left=left) == "closed"
    assert len(asked) >= 3
