# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl shell at a real terminal: sizes, keys, ways out; and without one."""

from __future__ import annotations

import time

import pytest

from terminal import Terminal
from throwaway import Host

pytestmark = pytest.mark.usefixtures("debian")

PROMPT = r"root@debian:~# "


def shell(host: Host, *words: str) -> Terminal:
    return Terminal(host.argv("machctl", "shell", *words))


def test_a_shell_has_a_prompt_and_ends_with_its_end_of_file(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(r"Connected to machine debian\. Press \^\] three times")
        terminal.expect(PROMPT)
        terminal.type("echo $((6 * 7)) $TERM $(tty)\r")
        terminal.expect(r"42 xterm /dev/pts/\d")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert terminal.modes() == terminal.before


def test_exit_leaves_it(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        terminal.type("exit\r")
        terminal.ended()
        assert terminal.modes() == terminal.before


def test_its_size_follows_the_terminals(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        terminal.type("stty size\r")
        terminal.expect("24 80")
        terminal.resize(40, 132)
        terminal.type("stty size\r")
        terminal.expect("40 132")


def test_ctrl_c_interrupts_what_runs_in_it_and_not_the_shell(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        # Said by what is in the foreground by then: bash itself lets a key pass while it begins a command.
        terminal.type("sh -c 'echo go\"\"ing; exec sleep 100'; echo status $?\r")
        terminal.expect("going")
        began = time.monotonic()
        terminal.type("\x03")
        terminal.expect(PROMPT)
        assert time.monotonic() - began < 10
        terminal.type("echo alive\r")
        terminal.expect(r"[\r\n]alive")


def test_ctrl_z_and_ctrl_backslash_belong_to_the_machine(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        # Only what the shell has put into the foreground hears of the key.
        terminal.type("sh -c 'echo go\"\"ing; exec sleep 100'\r")
        terminal.expect("going")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("kill %1; echo done\r")
        terminal.expect(r"[\r\n]done")


def test_three_escapes_leave_it(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        terminal.type("\x1d\x1d\x1d")
        terminal.expect("left machine debian")
        terminal.ended()
        assert terminal.modes() == terminal.before


def test_other_keys_than_three_escapes_reach_the_shell(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        terminal.type("sh -c 'echo go\"\"ing; exec cat >/tmp/typed'\r")
        terminal.expect("going")
        terminal.type("\x1d\x1dx\r\x1d\r\x04")
        terminal.expect(PROMPT)
        assert host.machctl("exec", "debian", "--", "cat", "/tmp/typed").stdout == "\x1d\x1dx\n\x1d\n"


def test_a_user_has_a_shell_of_their_own(host: Host) -> None:
    host.machctl("exec", "debian", "--", "useradd", "--create-home", "--shell", "/bin/bash", "ada")
    try:
        with shell(host, "ada@debian") as terminal:
            terminal.expect(r"ada@debian:~\$ ")
            terminal.type("id -un; pwd\r")
            terminal.expect(r"ada\s+/home/ada")
            # An end of file that comes before the prompt is swallowed when the shell changes the terminal's mode.
            terminal.expect(r"ada@debian:~\$ ")
            terminal.type("\x04")
            terminal.ended()
    finally:
        host.machctl(
            "exec",
            "debian",
            "--",
            "sh",
            "-c",
            "loginctl terminate-user ada; pkill -u ada; userdel -rf ada",
            status=None,
        )


def test_a_command_instead_of_a_shell(host: Host) -> None:
    with shell(host, "debian", "/bin/echo", "a  b", "$HOME", "%n") as terminal:
        terminal.expect(r"a  b \$HOME %n\r\n")
        terminal.ended()


def test_a_command_without_a_terminal(host: Host) -> None:
    done = host.machctl("shell", "debian", "--", "/bin/echo", "hi")
    assert done.stdout.strip() == "hi"
    assert done.stderr == ""


def test_a_variable_is_set_in_it(host: Host) -> None:
    done = host.machctl("shell", "-E", "GREETING=good day", "debian", "/bin/sh", "-c", "echo $GREETING")
    assert done.stdout.strip() == "good day"


def test_the_machines_end_is_the_shells(host: Host) -> None:
    with shell(host, "debian") as terminal:
        terminal.expect(PROMPT)
        host.machctl("terminate", "debian")
        terminal.ended()
        assert terminal.modes() == terminal.before


def test_exec_has_a_terminal_at_a_terminal(host: Host) -> None:
    with Terminal(
        host.argv("machctl", "exec", "debian", "--", "sh", "-c", "tty; stty size; exit 5"), rows=30
    ) as terminal:
        terminal.expect(r"/dev/pts/\d+\s+30 80")
        assert terminal.ended() == 5
        assert terminal.modes() == terminal.before


def test_progress_and_colours_are_for_terminals(host: Host) -> None:
    with Terminal(host.argv("machctl", "list")) as terminal:
        terminal.expect("\x1b\\[32mrunning")
        terminal.ended()
    with Terminal(host.argv("env", "NO_COLOR=1", "machctl", "list")) as terminal:
        assert "\x1b" not in terminal.expect(r"running .*\n").string
        terminal.ended()
    assert "\x1b" not in host.machctl("list").stdout
    assert "\x1b[32m" in host.machctl("list", "--color", "always").stdout


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("nosuch",), 4, "nosuch"),
        (("nobody2@debian",), None, "nobody2"),
        (("ROOT@",), 2, "empty name"),
        (("root@../x",), 2, "../x"),
        (("debian", "ls"), 2, "machctl exec debian -- ls"),
    ],
)
def test_what_cannot_be_entered_is_said(host: Host, words: tuple[str, ...], status: int | None, says: str) -> None:
    done = host.machctl("shell", *words, status=status)
    assert done.status != 0
    done.says(says)


def test_a_stopped_machine_is_not_entered(host: Host) -> None:
    host.machctl("stop", "debian")
    host.machctl("shell", "debian", status=3).says("debian", "not running", "machctl start debian")
