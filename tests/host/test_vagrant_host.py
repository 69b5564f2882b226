# SPDX-License-Identifier: LGPL-2.1-or-later
"""vagrant/host itself: what run passes through, and that down leaves nothing on the outer machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from terminal import Terminal
from throwaway import PROGRAM, Host, until

STATE = Path(os.environ.get("MACHCTL_HOSTS_STATE", "/var/lib/machctl-hosts"))


@pytest.fixture(scope="module")
def cycle() -> Iterator[Host]:
    host = Host("t-cycle", "--suite", "trixie", "--pool", "btrfs")
    host.down()
    host.up()
    yield host
    host.down()


def left_of(host: Host) -> list[str]:
    """Everything on the outer machine that has the host's name in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word == host.name or f"/{host.name}/" in f"{word}/" or word.endswith(f"={host.name}") for word in words):
            found.append(f"process {process.name}: {' '.join(words)}")
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{host.name}" in line]
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True
    )
    found += [f"loop {line}" for line in loops.stdout.splitlines() if f"/{host.name}/" in line]
    groups = Path("/sys/fs/cgroup").glob(f"**/machctl-hosts/{host.name}/**/cgroup.procs")
    found += [f"cgroup {path}" for path in groups if path.read_text()]
    found += [f"file {path}" for path in STATE.glob(f"*{host.name}*")]
    return found


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@pytest.mark.parametrize("status", [0, 1, 37, 255])
def test_run_gives_the_exit_status(cycle: Host, status: int) -> None:
    cycle.run("sh", "-c", f"exit {status}", status=status)


def test_run_says_what_cannot_run(cycle: Host) -> None:
    cycle.run("nosuch", status=127).says("nosuch")


def test_run_keeps_streams_and_words_apart(cycle: Host) -> None:
    done = cycle.run(
        "sh", "-c", 'cat; echo err >&2; printf "<%s>" "$@"', "sh", "a b", "", "$HOME", "x\ny", stdin="in\n"
    )
    assert done.stdout == "in\n<a b><><$HOME><x\ny>"
    assert done.stderr == "err\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_passes_signals_on(cycle: Host, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.value}; echo ready; while :; do sleep 0.1; done"
    with cycle.background("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == b"caught\n"
        assert process.returncode == 9


def test_run_has_a_terminal_at_a_terminal(cycle: Host) -> None:
    with Terminal(cycle.argv("sh", "-c", "stty size; exec cat"), rows=33, columns=99) as terminal:
        terminal.expect("33 99")
        # The shell would lose a Ctrl-C on its way to the next command.
        terminal.type("there\n")
        terminal.expect("there\r\nthere")
        terminal.type("\x03")
        assert terminal.ended() == 128 + signal.SIGINT


def test_up_again_changes_nothing(cycle: Host) -> None:
    boot = (
        cycle.read("/proc/sys/kernel/random/boot_id"),
        cycle.sh("systemctl show --property=UserspaceTimestampMonotonic"),
    )
    cycle.up()
    after = (
        cycle.read("/proc/sys/kernel/random/boot_id"),
        cycle.sh("systemctl show --property=UserspaceTimestampMonotonic"),
    )
    assert after == boot


def test_list_shows_it(cycle: Host) -> None:
    listed = subprocess.run([PROGRAM, "list"], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in listed.splitlines() if line.startswith(f"{cycle.name} "))
    assert line.split() == [cycle.name, "nspawn", "trixie", "btrfs", "yes", "running"]


@pytest.mark.parametrize(
    "words", [("up", "--name", "{name}", "--pool", "ext4"), ("run",), ("up", "--suite", "sarge"), ("nosuch",)]
)
def test_what_cannot_be_is_refused(cycle: Host, words: tuple[str, ...]) -> None:
    words = tuple(word.format(name=cycle.name) for word in words)
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode in {1, 2}
    assert "vagrant/host: " in done.stderr


def test_down_leaves_nothing(cycle: Host) -> None:
    before = interfaces()
    assert left_of(cycle)
    cycle.down()
    assert left_of(cycle) == []
    assert interfaces() <= before
    cycle.up()


def test_down_leaves_nothing_of_a_host_whose_supervisor_was_killed(cycle: Host) -> None:
    pid = int((STATE / cycle.name / "supervisor").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    cycle.down()
    assert until(lambda: left_of(cycle), lambda found: not found, limit=5) == []
    cycle.up()
    assert cycle.run("systemctl", "is-system-running").stdout == "running\n"


def test_run_of_a_host_that_is_not_there_says_so() -> None:
    host = Host("t-nosuch")
    host.run("true", status=1).says(host.name, "vagrant/host up")
