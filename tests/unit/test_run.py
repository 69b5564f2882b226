# SPDX-License-Identifier: LGPL-2.1-or-later
"""Child processes: their environment, their errors, their output, and that none stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from machines.errors import CommandFailed, TimedOut, Unsupported
from machines.host import run, streaming
from machines.host.lines import Lines
from machines.host.streaming import stream

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="unshare(1) of a PID namespace needs root")


@pytest.mark.parametrize("written", [0, 1 << 20])
def test_a_filter_whose_output_nobody_reads(written: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        os.fdopen(writing, "wb") as target,
        pytest.raises(BrokenPipeError),
        run.pipe(["sh", "-c", "echo x; cat >/dev/null; echo y"], target=target.fileno()) as stream,
    ):
        stream.write(bytes(written))


def test_output_and_input() -> None:
    assert run.run(["cat"], input="ä\n") == run.Completed(0, "ä\n", "")
    assert run.run(["cat"]).stdout == ""


def test_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    words = run.run(["env"], env={"EXTRA": "1"}).stdout.splitlines()
    assert "SECRET=x" not in words
    assert {
        "LC_ALL=C.UTF-8",
        "https_proxy=http://proxy.example:3128",
        "EXTRA=1",
        f"PATH={run.PATH}",
    } <= set(words)


def test_a_failure_names_the_cause_and_a_command_to_paste() -> None:
    argv = ["sh", "-c", "echo one >&2; echo 'two words' >&2; exit 3"]
    with pytest.raises(CommandFailed) as caught:
        run.run(argv)
    assert caught.value.message == "sh ended with exit status 3: two words"
    assert caught.value.hint == "the command was: sh -c 'echo one >&2; echo '\"'\"'two words'\"'\"' >&2; exit 3'"
    assert run.run(argv, check=False).returncode == 3


def test_a_child_that_was_killed() -> None:
    with pytest.raises(CommandFailed, match="sh was killed by SIGKILL"):
        run.run(["sh", "-c", "kill -9 $$"])
    assert run.ending(-40) == "was killed by signal 40"


def test_a_tool_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PATH", "/nonexistent")
    with pytest.raises(Unsupported) as caught:
        run.run(["debootstrap"])
    assert caught.value.message.startswith("debootstrap not found")
    assert "apt install debootstrap" in caught.value.hint
    assert run.missing(["sh", "cat"]) == ("sh", "cat")
    with pytest.raises(Unsupported):
        run.replace(["journalctl", "-f"])


def test_time_limit() -> None:
    with pytest.raises(TimedOut) as caught:
        run.run(["sleep", "60"], timeout=0.1)
    assert caught.value.message == "sleep did not end within 0.1 s"


def test_which() -> None:
    assert run.which("sh") is not None
    assert run.which("no-such-tool") is None


def test_replace_becomes_the_tool() -> None:
    script = "from machines.host.run import replace; print('first'); replace(['sh', '-c', 'echo $LC_ALL'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "first\nC.UTF-8\n"


def test_importing_costs_neither_asyncio_nor_subprocess() -> None:
    script = "import sys, machines.host.run; print({'asyncio', 'subprocess'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_lines() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw") == ["one"]
    assert lines.feed(b"o\rthree\r\n\n") == ["two", "three"]
    assert lines.feed(b"\xff") == []
    assert lines.end() == ["\ufffd"]


def streamed(tmp_path: Path, argv: list[str], *, contained: bool, extra_fd3: bool = False) -> tuple[int, list[str]]:
    lines: list[str] = []
    log = tmp_path / "log" / "x.log"
    status = asyncio.run(stream(argv, on_line=lines.append, log=log, contained=contained, extra_fd3=extra_fd3))
    assert log.read_text().splitlines()[1:] == lines
    return status, lines


def test_stream_joins_all_output(tmp_path: Path) -> None:
    argv = ["sh", "-c", "umask; echo err >&2; echo three >&3; echo $LC_ALL; printf end; exit 7"]
    assert streamed(tmp_path, argv, contained=False, extra_fd3=True) == (
        7,
        ["0022", "err", "three", "C", "end"],
    )


def test_stream_of_a_missing_tool(tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        streamed(tmp_path, ["no-such-tool"], contained=False)


def test_a_child_that_runs_beside_its_caller() -> None:
    end = run.begin(["sh", "-c", "echo ä; echo no >&2; cat; exit 3"])
    assert run.begin(["env"])().stdout.splitlines()[0] == f"PATH={run.PATH}"
    assert end() == run.Completed(3, "ä\n", "")
    # More than a pipe holds.
    assert len(run.begin(["head", "-c", "200000", "/dev/zero"])().stdout) == 200000
    with pytest.raises(Unsupported, match="nosuchtool not found"):
        run.begin(["nosuchtool"])


@needs_root
def test_a_contained_child_is_the_first_process(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo $$; exit 5"]
    assert streamed(tmp_path, argv, contained=True) == (5, ["1"])


def outside_pids(mark: str) -> list[int]:
    """Give the processes that have ``mark`` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def gone(mark: str, *, within: float) -> bool:
    limit = time.monotonic() + within
    while outside_pids(mark):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


async def cancelled(argv: list[str], log: Path, *, contained: bool) -> None:
    ready = asyncio.Event()
    task = asyncio.create_task(stream(argv, on_line=lambda _: ready.set(), log=log, contained=contained))
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("contained", [False, pytest.param(True, marks=needs_root)])
@pytest.mark.parametrize("deaf", ["", "trap '' INT; "])
def test_nothing_is_left_after_a_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, contained: bool, deaf: str
) -> None:
    monkeypatch.setattr(streaming, "GRACE", 0.3)
    mark = f"100{os.getpid()}.{int(contained)}{len(deaf)}"
    argv = ["sh", "-c", f"{deaf}sleep {mark} & echo ready; sleep {mark}; sleep {mark}"]
    asyncio.run(cancelled(argv, tmp_path / "log", contained=contained))
    assert outside_pids(mark) == []


@needs_root
def test_nothing_is_left_after_a_sigkill(tmp_path: Path) -> None:
    mark = f"200{os.getpid()}"
    shell = f"mount -t tmpfs x {tmp_path}; setsid sleep {mark} & echo ready; sleep {mark}"
    script = textwrap.dedent(f"""
        import asyncio, pathlib
        from machines.host.streaming import stream
        asyncio.run(stream(["sh", "-c", {shell!r}], on_line=lambda line: print(line, flush=True),
                           log=pathlib.Path({os.fspath(tmp_path)!r}) / "log"))
    """)
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert os.fspath(tmp_path) not in Path("/proc/self/mounts").read_text()
        child.send_signal(signal.SIGKILL)
    assert gone(mark, within=5)
    assert os.fspath(tmp_path) not in Path("/proc/self/mounts").read_text()
