# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in machines without an init; namespaces of our own are the machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.errors import NotFound, NotRunning, TimedOut
from machines.host import enter as entering
from machines.host.enter import enter, make_group


@pytest.fixture(scope="module")
def leader() -> Iterator[int]:
    """A process in namespaces of its own, whose root may do less than root may."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
    drop = ["setpriv", "--bounding-set=-net_raw", "--no-new-privs"]
    process = subprocess.Popen([*words, *drop, "sh", "-c", "echo on; exec sleep 100"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != b"on\n":
        process.wait()
        pytest.skip("no namespaces can be made here")
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield int(child)
    os.kill(int(child), signal.SIGKILL)
    process.wait()
    process.stdout.close()


def said(
    leader: int,
    *argv: str,
    env: dict[str, str] | None = None,
    directory: str | None = None,
    timeout: float | None = None,
    group: str | None = None,
) -> tuple[int, str]:
    """Give how a command in the machine ended and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            words = {"user": "", "env": env or {}, "directory": directory, "name": "web", "once": True}
            enter(leader, argv, **words, group=group, timeout=timeout)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001
            os.write(1, repr(error).encode())
        finally:
            os._exit(99)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.strip()


def test_a_command_is_in_the_namespaces_of_the_machine(leader: int) -> None:
    kinds = ["user", "mnt", "pid", "uts", "ipc"]
    code, text = said(leader, "sh", "-c", "cd /proc/self/ns; stat -Lc %i " + " ".join(kinds) + "; id -u")
    wanted = [str(Path(f"/proc/{leader}/ns/{kind}").stat().st_ino) for kind in kinds]
    assert (code, text.split()) == (0, [*wanted, "0"])


def test_what_the_machine_says_of_libraries_is_not_for_a_program_of_the_host(leader: int, tmp_path: Path) -> None:
    # The loader says so of what it cannot load, once for each program that it was to be loaded into.
    code, text = said(leader, "/bin/true", env={"LD_PRELOAD": f"{tmp_path}/evil.so"})
    assert (code, text.count("evil.so")) == (0, 1)


def test_it_may_do_no_more_than_the_machine(leader: int) -> None:
    _, text = said(leader, "grep", "-E", "^(CapBnd|NoNewPrivs):", "/proc/self/status")
    values = dict(line.split(":\t") for line in text.splitlines())
    assert values["NoNewPrivs"] == "1"
    assert not int(values["CapBnd"], 16) >> 13 & 1


def test_how_it_ends(leader: int) -> None:
    assert said(leader, "sh", "-c", "exit 7") == (7, "")
    assert said(leader, "sh", "-c", "kill -9 $$") == (137, "")
    assert said(leader, "pwd", directory="/usr") == (0, "/usr")
    code, text = said(leader, "no-such-thing")
    assert (code, "no command 'no-such-thing'" in text) == (127, True)
    code, text = said(leader, "true", directory="/no/such")
    assert (code, "has no directory /no/such" in text) == (99, True)


@pytest.mark.parametrize("script", ["exec sleep 50", "trap '' TERM; while :; do sleep 0.1; done"])
def test_it_is_ended_when_its_time_is_over(leader: int, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entering, "ENDING_SECONDS", 0.2)
    code, text = said(leader, "sh", "-c", script, timeout=0.2)
    wanted = "machctl: sh in machine web took longer than 0.2 seconds and was ended\n  give it more with --timeout"
    assert (code, text) == (TimedOut.exit_code, wanted)
    assert said(leader, "sh", "-c", "exit 7", timeout=50) == (7, "")


def test_what_it_started_is_ended_with_it(leader: int, tmp_path: Path) -> None:
    # A group that is only files: what is written to them is all that can be seen of it.
    for file, text in {"procs": "", "kill": "", "events": "populated 0\nfrozen 0\n"}.items():
        (tmp_path / f"cgroup.{file}").write_text(text)
    assert said(leader, "sh", "-c", "exit 7", timeout=50, group=str(tmp_path)) == (7, "")
    assert ((tmp_path / "cgroup.procs").read_text(), (tmp_path / "cgroup.kill").read_text()) == ("0", "")
    code, _ = said(leader, "sleep", "50", timeout=0.2, group=str(tmp_path))
    assert (code, (tmp_path / "cgroup.kill").read_text()) == (TimedOut.exit_code, "1")


def test_a_group_that_another_removed_meanwhile_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("procs", "kill", "events"):
        (tmp_path / f"cgroup.{file}").write_text("")
    group = entering._Group(str(tmp_path), once=True)

    def gone(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", gone)
        patch.setattr("os.write", gone)
        assert group.kill()
        group.end(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_would_end_it_once_it_has_ended_is_for_nobody(
    leader: int, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, text in {"procs": "", "kill": "", "events": "populated 0\n"}.items():
        (tmp_path / f"cgroup.{file}").write_text(text)
    monkeypatch.setattr(entering._Group, "end", lambda self, seconds: os.kill(os.getpid(), number))
    assert said(leader, "sh", "-c", "exit 7", group=str(tmp_path)) == (7, "")
    assert said(leader, "sleep", "50", timeout=0.2, group=str(tmp_path))[0] == TimedOut.exit_code


def test_a_command_that_is_stopped_and_one_that_is_ended_by_what_ends_us(leader: int) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            words = ["sh", "-c", "kill -STOP $$; exec sleep 50"]
            enter(leader, words, user="", env={}, directory=None, name="web", group=None)
        finally:
            os._exit(99)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGTERM


def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("www:x:33:34::/:/bin/sh\n")
    ids = entering._ids
    assert (ids(str(tmp_path), "www", "web"), ids(str(tmp_path), "7:8", "web")) == ((33, 34), (7, 8))
    assert ids(str(tmp_path), "", "web") == (0, 0)
    with pytest.raises(NotFound, match="no user nobody"):
        ids(str(tmp_path), "nobody", "web")


def test_its_group_is_under_the_limits_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = SimpleNamespace(leader=7, unit="systemd-nspawn@web.service")
    monkeypatch.setattr(entering, "registered_machine", lambda name: entry)
    monkeypatch.setattr(entering, "group_of", lambda leader, unit: str(tmp_path))
    monkeypatch.setattr(entering.os.path, "exists", lambda path: path == "/sys/fs/cgroup/cgroup.controllers")
    assert make_group("web", 7, "probe") == make_group("web", 7, "probe") == f"{tmp_path}/machctl-probe"
    with pytest.raises(NotRunning, match="has ended"):
        make_group("web", 8, "probe")


def test_groups_that_nothing_runs_in_go_with_the_next_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = SimpleNamespace(leader=7, unit="systemd-nspawn@web.service")
    monkeypatch.setattr(entering, "registered_machine", lambda name: entry)
    monkeypatch.setattr(entering, "group_of", lambda leader, unit: str(tmp_path))
    monkeypatch.setattr(entering.os.path, "exists", lambda path: path == "/sys/fs/cgroup/cgroup.controllers")
    for name in ("machctl-exec-old", "machctl-exec-busy/sub", "machctl-exec-joined", "machctl-probe", "payload"):
        (tmp_path / name).mkdir(parents=True)
    for path in tmp_path.iterdir():
        if path.name != "machctl-exec-joined":
            os.utime(path, (1, 1))
    make_group("web", 7, "exec-new")
    left = {path.name for path in tmp_path.iterdir()}
    kept = {"machctl-exec-busy", "machctl-exec-joined", "machctl-exec-new", "machctl-probe", "payload"}
    assert left == kept


def test_a_kernel_that_kills_no_groups(leader: int, tmp_path: Path) -> None:
    for file, text in {"procs": "", "events": "populated 1\n"}.items():
        (tmp_path / f"cgroup.{file}").write_text(text)
    assert said(leader, "sh", "-c", "exit 7", group=str(tmp_path)) == (7, "")
    began = time.monotonic()
    assert said(leader, "sleep", "50", timeout=0.2, group=str(tmp_path))[0] == TimedOut.exit_code
    assert time.monotonic() - began < entering._KILLED_SECONDS, "nothing was killed that is to be waited for"
