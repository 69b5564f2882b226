# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import contextlib
import errno
import os
import pty

import pytest

from machines.host.bus._sdbus import pack, split
from machines.host.bus.stdio import Stdio

END = (-1, None)


def test_signatures_are_split_into_complete_types():
    assert split("sasa(sbv)a{sv}b") == ["s", "as", "a(sbv)", "a{sv}", "b"]
    assert split("aaaay") == ["aaaay"]
    assert split("") == []


def test_values_are_packed_as_pystemd_appends_them():
    assert pack("sb", ["x", True]) == [(ord("s"), b"x"), (ord("b"), True)]
    assert pack("as", [["x"]]) == [(ord("a"), b"s"), (ord("s"), b"x"), END]
    assert pack("a(sv)", [[("K", ("u", 3))]]) == [
        (ord("a"), b"(sv)"),
        (ord("r"), b"sv"),
        (ord("s"), b"K"),
        (ord("v"), b"u"),
        (ord("u"), 3),
        END,
        END,
        END,
    ]
    assert pack("a{ss}", [{"k": "v"}]) == [
        (ord("a"), b"{ss}"),
        (ord("e"), b"ss"),
        (ord("s"), b"k"),
        (ord("s"), b"v"),
        END,
        END,
    ]


@pytest.mark.parametrize(("signature", "values"), [("s", ["a\0b"]), ("s", ["\udcff"]), ("ss", ["x"]), ("s", [])])
def test_what_cannot_be_sent_is_refused(signature, values):
    with pytest.raises(ValueError, match=r"."):
        pack(signature, values)


def test_a_pipe_is_passed_on_and_a_file_is_not(tmp_path):
    reading, writing = os.pipe()
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with Stdio(stdin=reading, stdout=writing, stderr=file) as stdio:
        assert stdio.fds[:2] == (reading, writing)
        assert stdio.fds[2] != file
    for fd in (reading, writing, file):
        os.close(fd)


def test_what_the_command_wrote_last_is_not_lost(tmp_path):
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with Stdio(stdin=None, stdout=file, stderr=file) as stdio:
        assert stdio.fds[1] == stdio.fds[2]
        os.write(stdio.fds[1], b"one ")
        os.write(stdio.fds[2], b"two")
        stdio.close_guest_ends()
        stdio.drain(lambda: False)
    os.close(file)
    assert (tmp_path / "file").read_bytes() == b"one two"


def test_input_is_copied_to_its_end(tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 300_000)
    file = os.open(tmp_path / "in", os.O_RDONLY)
    got = b""
    with Stdio(stdin=file) as stdio:
        guest = os.dup(stdio.fds[0])
        os.set_blocking(guest, False)
        stdio.close_guest_ends()
        while stdio.wants():
            stdio.ready(set(stdio.wants()))
            with contextlib.suppress(BlockingIOError):
                got += os.read(guest, 400_000)
        assert os.read(guest, 10) == b""
        os.close(guest)
    os.close(file)
    assert got == b"x" * 300_000


def test_output_that_cannot_be_written_is_remembered():
    full = os.open("/dev/full", os.O_WRONLY)
    with Stdio(stdin=None, stdout=full, stderr=full) as stdio:
        os.write(stdio.fds[1], b"one")
        stdio.ready(set(stdio.wants()))
        assert stdio.lost is None
        stdio.ready(set(stdio.wants()))
        assert stdio.lost is not None
        assert stdio.lost.errno == errno.ENOSPC
        # The command learns of it as of a closed pipe.
        assert stdio.wants() == {}
        with pytest.raises(BrokenPipeError):
            os.write(stdio.fds[1], b"two")
    os.close(full)


def test_what_is_left_at_the_end_and_cannot_be_written_is_remembered():
    full = os.open("/dev/full", os.O_WRONLY)
    with Stdio(stdin=None, stdout=full, stderr=full) as stdio:
        os.write(stdio.fds[1], b"one")
        stdio.close_guest_ends()
        stdio.drain(lambda: False)
        assert stdio.lost is not None
    os.close(full)


def test_a_terminal_that_hung_up_loses_nothing():
    outer, inner = pty.openpty()
    with Stdio(stdin=None, stdout=inner, stderr=inner) as stdio:
        os.close(outer)
        os.write(stdio.fds[1], b"one")
        stdio.close_guest_ends()
        stdio.drain(lambda: False)
        assert stdio.lost is None
    os.close(inner)
