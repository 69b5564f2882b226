# SPDX-License-Identifier: LGPL-2.1-or-later
"""Probes of ports, files and commands, here in the place of a machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machines.host import probing
from machines.host.probing import Prober, one_line
from machines.model.health import Health, Outcome

ME = os.getpid()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the leader, in whose network nobody has to enter."""
    monkeypatch.setattr(probing, "in_namespace", lambda namespace, act: act())


@contextlib.contextmanager
def listening(answer: bytes | None = None, *, family: int = socket.AF_INET) -> Iterator[str]:
    """Have a port that answers whoever connects, or says nothing."""
    with socket.socket(family) as server:
        server.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        server.listen()
        ended = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    client, _ = server.accept()
                    with client:
                        if answer is None:
                            ended.wait(5)
                        elif client.recv(4096):
                            client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield str(server.getsockname()[1])
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)


def outcome(health: Health) -> Outcome:
    """Probe once and give what came of it."""
    prober = Prober()
    prober.begin("web", health, ME)
    ((name, found),) = prober.wait(10)
    assert (name, prober.busy("web")) == ("web", False)
    return found


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_that_takes_connections(family: int) -> None:
    try:
        with listening(family=family) as port:
            assert outcome(Health("tcp", (port,))).ok
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_more_time_than_poll_can_wait_for() -> None:
    prober = Prober()
    with listening() as port:
        prober.begin("web", Health("tcp", (port,), timeout=10**9), ME)
        ((_, found),) = prober.wait(1e9)
    assert found.ok


def test_a_port_that_does_not() -> None:
    port = free_port()
    found = outcome(Health("tcp", (port,)))
    assert (found.ok, found.said) == (False, f"port {port}: Connection refused")


@pytest.mark.parametrize(
    ("answer", "ok", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhello", True, "200 OK"),
        (b"HTTP/1.0 302 Found\r\n\r\n", True, "302 Found"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, "404 Not Found"),
        (b"HTTP/1.1 503 \x1b[31mred\r\n", False, "503 [31mred"),
        (b"HTTP/1.1 200", True, "200"),
        (b"SSH-2.0-OpenSSH\r\n", False, "it answers, but not with HTTP"),
        (b"x" * 10000, False, "it answers, but not with HTTP"),
        (b"", False, "it closed the connection without an answer"),
    ],
)
def test_what_answers_with_http(answer: bytes, ok: bool, said: str) -> None:
    with listening(answer) as port:
        found = outcome(Health("http", (port, "/")))
    assert (found.ok, found.said) == (ok, said)


def test_who_says_nothing_has_failed_in_time() -> None:
    with listening() as port:
        began = time.monotonic()
        found = outcome(Health("http", (port, "/"), timeout=1))
    assert (found.ok, found.said) == (False, "no answer within 1 s")
    assert 1 <= time.monotonic() - began < 4


def test_a_file_that_is_there(tmp_path: Path) -> None:
    # /proc/self/root is this root.
    there = tmp_path / "ready"
    there.write_text("")
    assert outcome(Health("file", (str(there),))).ok
    found = outcome(Health("file", (f"{tmp_path}/no",)))
    assert (found.ok, found.said) == (False, f"{tmp_path}/no: No such file or directory")


def test_a_machine_that_has_ended_has_failed() -> None:
    for kind, target in (("file", "/run/ready"), ("tcp", free_port())):
        found = probing.Prober()
        found.begin("web", Health(kind, (target,)), 2**22 + 1)
        ((_, ended),) = found.wait(5)
        assert not ended.ok


def test_a_file_system_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def never(root: str, path: str, *, flags: int) -> int:
        answered.wait(20)
        raise OSError

    monkeypatch.setattr(probing, "open_in_root", never)
    found = outcome(Health("file", ("/mnt/ready",), timeout=1))
    answered.set()
    assert (found.ok, found.said) == (False, "no answer within 1 s")


def command(act: Callable[[int], int], monkeypatch: pytest.MonkeyPatch, *, timeout: int = 5) -> Outcome:
    monkeypatch.setattr(probing, "_command", lambda *args, **values: act)
    return outcome(Health("exec", ("x",), timeout=timeout))


def test_a_command_that_ends_well_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(lambda fd: 0, monkeypatch).ok
    found = command(lambda fd: os.write(fd, b"first\nno\tconnection\n") and 3, monkeypatch)
    assert (found.ok, found.said) == (False, "no connection")
    assert command(lambda fd: 3, monkeypatch).said == "it ended with 3"


def test_what_a_command_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> int:
        raise OSError("there is no such thing")

    found = command(fails, monkeypatch)
    assert (found.ok, found.said) == (False, "there is no such thing")


def test_a_command_that_hangs_is_killed_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hangs(fd: int) -> int:
        child = os.fork()
        if child:
            (tmp_path / "pid").write_text(str(child))
        threading.Event().wait()
        return 0

    found = command(hangs, monkeypatch, timeout=1)
    assert (found.ok, found.said) == (False, "no answer within 1 s")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(child):
        os.sched_yield()
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_many_are_probed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as silent, listening(b"HTTP/1.1 200 OK\r\n\r\n") as quick:
        prober = Prober()
        prober.begin("slow", Health("http", (silent, "/"), timeout=2), ME)
        prober.begin("quick", Health("http", (quick, "/")), ME)
        ((first, _),) = prober.wait(5)
        assert (first, prober.busy("slow")) == ("quick", True)
        assert prober.wait(0.01) == []
        prober.close()
        assert not prober.busy("slow")


def test_who_does_not_wait_gets_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        prober = Prober()
        prober.begin("web", Health("http", (port, "/")), ME)
        found: list[tuple[str, Outcome]] = []
        end = time.monotonic() + 10
        while not found and time.monotonic() < end:
            found = prober.wait(0)
        assert [outcome.ok for _, outcome in found] == [True]


def test_what_a_machine_says_is_one_line() -> None:
    assert one_line("a\nb\x1b[2J\x07 c\n\n") == "b [2J c"
    assert one_line("") == ""
    assert len(one_line("x" * 5000)) == 200


@pytest.mark.parametrize("answer", ["HTTP/1.1 \u00b2 OK\r\n".encode(), b"HTTP/1.1 " + b"1" * 4200 + b"\r\n"])
def test_no_answer_ends_the_probes_of_others(answer: bytes) -> None:
    with listening(answer) as port:
        found = outcome(Health("http", (port, "/")))
    assert (found.ok, found.said) == (False, "it answers, but not with HTTP")


def test_whatever_goes_wrong_with_one_probe_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: object, **values: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(probing, "addresses", wrong)
    assert not outcome(Health("tcp", (free_port(),))).ok
    monkeypatch.setattr(probing, "_Look", wrong)
    assert outcome(Health("file", ("/run/x",))).said == "too deep"


def test_of_thousands_of_addresses_a_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    class Refused:
        def __init__(self, *args: object) -> None: ...

        def connect_ex(self, address: tuple[str, int]) -> int:
            tried.append(address[0])
            return 13

        def close(self) -> None: ...

    monkeypatch.setattr(probing.socket, "socket", Refused)
    monkeypatch.setattr(probing, "addresses", lambda leader: tuple(f"10.0.{n // 250}.{n % 250}" for n in range(3000)))
    assert outcome(Health("tcp", ("80",))).said == "port 80: Permission denied"
    assert len(tried) == 10


def test_a_command_that_prints_more_than_a_pipe_holds_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def talks(fd: int) -> int:
        for _ in range(4096):
            os.write(fd, b"x" * 99 + b"\n")
        os.write(fd, b"all is well\n")
        return 0

    assert command(talks, monkeypatch)[::2] == (True, "all is well")


def test_children_have_turns_and_their_time_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_command", lambda name, *args, **values: lambda fd: int(threading.Event().wait(0.6)))
    prober = Prober(children=1)
    for name in "abc":
        prober.begin(name, Health("exec", ("x",), timeout=1), ME)
    assert len(prober._running) == 1
    assert all(map(prober.busy, "abc"))
    found: list[tuple[str, Outcome]] = []
    while len(found) < 3:
        found += prober.wait(10)
    assert [(name, outcome.ok) for name, outcome in found] == [("a", True), ("b", True), ("c", True)]


def test_a_child_that_made_no_session_yet_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.os, "setsid", lambda: None)
    began = time.monotonic()
    found = command(lambda fd: int(threading.Event().wait(20)), monkeypatch, timeout=1)
    assert not found.ok
    assert time.monotonic() - began < 10
