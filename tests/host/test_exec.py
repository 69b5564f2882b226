# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl exec: the command's own exit status, streams, words and environment."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import time
from collections.abc import Iterator

import pytest

from throwaway import Host, Road, until

pytestmark = pytest.mark.usefixtures("debian")

FREEZE = "/sys/fs/cgroup/machine.slice/systemd-nspawn@debian.service/payload/cgroup.freeze"


def inside(host: Host, *words: str, status: int | None = 0, flags: tuple[str, ...] = ()) -> str:
    return host.machctl("exec", *flags, "debian", "--", *words, status=status).stdout


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 1", 1), ("exit 37", 37), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)],
)
def test_exit_status_is_the_commands(host: Host, script: str, status: int) -> None:
    done = host.machctl("exec", "debian", "--", "sh", "-c", script, status=status)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("nosuch",), 127, "nosuch"),
        (("/nosuch",), 127, "/nosuch"),
        (("/etc/passwd",), 126, "/etc/passwd"),
        (("/etc",), 126, "/etc"),
    ],
)
def test_a_command_that_cannot_run_is_named(host: Host, words: tuple[str, ...], status: int, says: str) -> None:
    host.machctl("exec", "debian", "--", *words, status=status).says(says, "debian")


def test_a_failed_command_leaves_no_failed_unit(host: Host) -> None:
    inside(host, "false", status=1)
    inside(host, "nosuch", status=127)
    assert inside(host, "systemctl", "is-system-running") == "running\n"


def test_stdout_and_stderr_stay_apart(host: Host) -> None:
    done = host.machctl("exec", "debian", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_stdin_and_stdout_carry_bytes_unchanged(host: Host) -> None:
    data = bytes(range(256)) * 4 * 20 * 1024  # 20 MB
    answer = host.pipe("machctl", "exec", "debian", "--", "cat", data=data)
    assert len(answer) == len(data)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


def test_end_of_stdin_is_passed_on(host: Host) -> None:
    assert host.machctl("exec", "debian", "--", "wc", "-c", stdin="").stdout == "0\n"


LITERAL = (
    "$HOME", "${HOME}", "$$", "%n", "%%", "%i", "a b", "", "two\nlines", "tab\there", "'", '"', "\\", "\\n", ";", "*",
    "~", "@", "-x", "--", "é", "{}", "|", "!", "+", ":", "`id`", "$(id)",
)  # fmt: skip


def test_words_arrive_as_they_were_typed(host: Host) -> None:
    shown = inside(host, "printf", "<%s>\\0", *LITERAL)
    assert shown.split("\0")[:-1] == [f"<{word}>" for word in LITERAL]


@pytest.mark.parametrize(
    ("flags", "script", "answer"),
    [
        ((), "id -un; pwd; echo $HOME", "root\n/\n/root\n"),
        (("-u", "nobody"), "id -un", "nobody\n"),
        (("--user=nobody",), "id -un", "nobody\n"),
        (("-E", "A=b", "-E", "C=d e%n$X"), 'echo "$A,$C"', "b,d e%n$X\n"),
        (("-C", "/tmp"), "pwd", "/tmp\n"),
        (("--tty",), "test -t 0 && test -t 1 && echo yes", "yes\r\n"),
        ((), "test -t 0 || test -t 1 || echo no", "no\n"),
    ],
)
def test_flags_shape_the_command(host: Host, flags: tuple[str, ...], script: str, answer: str) -> None:
    assert inside(host, "sh", "-c", script, flags=flags) == answer


@pytest.mark.parametrize(
    ("flags", "says"), [(("-u", "nosuch"), "nosuch"), (("-C", "/nosuch"), "/nosuch"), (("-E", "1=2"), "1=2")]
)
def test_what_the_machine_lacks_is_machctls_own_failure(host: Host, flags: tuple[str, ...], says: str) -> None:
    done = host.machctl("exec", *flags, "debian", "--", "true", status=None)
    assert done.status in {2, 125}, done
    done.says(says)


def test_a_signal_ends_the_command_in_the_machine(host: Host) -> None:
    count = ("sh", "-c", "grep -lxz 765[4] /proc/[0-9]*/cmdline 2>/dev/null | wc -l")
    with host.background("machctl", "exec", "debian", "--", "sleep", "7654") as process:
        assert until(lambda: inside(host, *count), lambda text: text == "1\n") == "1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert until(lambda: inside(host, *count), lambda text: text == "0\n", limit=5) == "0\n"


@pytest.mark.parametrize("flags", [(), ("--tty",)])
@pytest.mark.parametrize("script", ["exec sleep 60", "trap '' TERM; while :; do sleep 1; done"])
def test_a_command_is_ended_when_its_time_is_over(host: Host, flags: tuple[str, ...], script: str) -> None:
    began = time.monotonic()
    done = host.machctl("--timeout", "2", "exec", *flags, "debian", "--", "sh", "-c", script, status=124)
    done.says("sh in machine debian took longer than 2 seconds", "--timeout")
    assert time.monotonic() - began < 15
    assert host.machctl("--timeout", "20", "exec", *flags, "debian", "--", "sh", "-c", "exit 3", status=3).stderr == ""


@pytest.mark.parametrize("flags", [(), ("--tty",)])
def test_a_command_has_more_time_than_poll_can_wait_for(host: Host, flags: tuple[str, ...]) -> None:
    words = ("--timeout", "900000000", "exec", *flags, "debian", "--")
    assert host.machctl(*words, "sh", "-c", "sleep 1; exit 3", status=3).stderr == ""


@pytest.mark.parametrize("flags", [(), ("--tty",)])
def test_a_command_does_not_outlive_a_machctl_that_was_killed(host: Host, flags: tuple[str, ...]) -> None:
    count = ("sh", "-c", "grep -lxz 543[2] /proc/[0-9]*/cmdline 2>/dev/null | wc -l")
    # Not all that has a terminal ends when it is hung up.
    words = ("machctl", "exec", *flags, "debian", "--", "sh", "-c", "trap '' HUP; sleep 5432")
    with host.background("sh", "-c", 'echo $$ >/run/killed.pid; exec "$@"', "sh", *words):
        assert until(lambda: inside(host, *count), lambda text: text == "1\n") == "1\n"
        host.sh("kill -KILL $(cat /run/killed.pid)")
    assert until(lambda: inside(host, *count), lambda text: text == "0\n") == "0\n"


@contextlib.contextmanager
def frozen(host: Host) -> Iterator[None]:
    """Hold the machine still as a copy of it does, which is no reason not to wait for it."""
    host.sh(f"echo 1 >{FREEZE}")
    try:
        yield
    finally:
        host.sh(f"echo 0 >{FREEZE}")


def test_a_machine_that_does_not_answer_is_not_waited_for(host: Host) -> None:
    began = time.monotonic()
    with frozen(host):
        done = host.machctl("--timeout", "2", "exec", "debian", "--", "touch", "/run/started", status=124)
        done.says("machine debian did not answer within 2 seconds, and touch was not started")
    assert time.monotonic() - began < 15
    inside(host, "test", "-e", "/run/started", status=1)


@pytest.mark.parametrize("flags", [(), ("--tty",)])
def test_a_machine_that_does_not_answer_any_more_is_given_up(host: Host, flags: tuple[str, ...]) -> None:
    words = ("machctl", "--timeout", "8", "exec", *flags, "debian", "--", "sleep", "8765")
    count = ("sh", "-c", "grep -lxz 876[5] /proc/[0-9]*/cmdline 2>/dev/null | wc -l")
    with host.background(*words) as process:
        assert until(lambda: inside(host, *count), lambda text: text == "1\n") == "1\n"
        with frozen(host):
            assert process.wait(timeout=30) == 124
    # Somebody saw to it that it ends when the machine answers again.
    assert until(lambda: inside(host, *count), lambda text: text == "0\n") == "0\n"


@pytest.mark.parametrize("flags", ["", "--tty"])
def test_output_that_cannot_be_written_is_machctls_own_failure(host: Host, flags: str) -> None:
    done = host.run("sh", "-c", f"machctl exec {flags} debian -- seq 1 20000 >/dev/full", status=125)
    assert done.stderr == "machctl: the output of seq could not be written: No space left on device\n"
    done = host.run("sh", "-c", "machctl shell debian /usr/bin/seq 1 20000 >/dev/full", status=1)
    done.says("the output of /usr/bin/seq could not be written: No space left on device")


def test_a_reader_who_has_had_enough_ends_the_command(host: Host) -> None:
    script = "{ machctl exec debian -- seq 1 1000000; echo $? >&2; } | head -n 1"
    done = host.run("sh", "-c", script)
    assert (done.stdout, done.stderr) == ("1\n", "141\n")


def test_many_at_once_do_not_disturb_each_other(host: Host) -> None:
    script = """
        for i in 1 2 3 4 5 6 7 8; do machctl exec debian -- sh -c "echo $i; exit $i" & pids="$pids $!"; done
        for p in $pids; do wait $p; echo "status $?"; done
    """
    lines = sorted(host.sh(script).split("\n"))
    assert lines == sorted([*map(str, range(1, 9)), *(f"status {number}" for number in range(1, 9))])


def test_a_command_starts_within_a_second(host: Host) -> None:
    began = time.monotonic()
    inside(host, "true")
    # Loosely: the bench measures it; a wait for something that never comes takes much longer than this.
    assert time.monotonic() - began < 5


def test_a_machine_that_does_not_run_is_refused(debian: Road) -> None:
    debian.host.machctl("stop", "debian")
    debian.host.machctl("exec", "debian", "--", "true", status=3).says("debian", "not running", "machctl start debian")


def test_an_unknown_machine_is_refused(host: Host) -> None:
    host.machctl("exec", "nosuch", "--", "true", status=4).says("nosuch")
