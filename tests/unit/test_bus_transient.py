# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os

import pytest

from machines.errors import CommandFailed, InvalidValue
from machines.host.bus import transient


def properties(**changes):
    given = {"user": None, "env": {}, "cwd": None, "fds": [0, 1, 2], "tty": None, **changes}
    return dict(transient.properties("/bin/echo", ["echo", "$HOME", "%n", "", "a b"], **given))


def test_words_are_literal():
    found = properties(env={"A": "$B %n"})
    assert found["ExecStartEx"] == (
        "a(sasas)",
        [("/bin/echo", ["echo", "$HOME", "%n", "", "a b"], ["no-env-expand"])],
    )
    assert found["Environment"] == ("as", ["A=$B %n"])
    assert "ExecStart" not in found


def test_an_old_systemd_gets_dollars_twice():
    found = properties(old=True)
    assert found["ExecStart"] == ("a(sasb)", [("/bin/echo", ["echo", "$$HOME", "%n", "", "a b"], False)])
    assert "ExecStartEx" not in found
    assert found["Type"] == ("s", "simple")


def test_no_end_of_the_command_makes_the_guest_degraded():
    codes, signals = properties()["SuccessExitStatus"][1]
    assert set(codes) | {0} == set(range(256))
    assert {1, 9, 15, 64} <= set(signals)
    assert properties()["CollectMode"] == ("s", "inactive-or-failed")


def test_user_directory_and_terminal():
    found = properties(user="www-data", cwd="/srv", tty="/dev/pts/3", fds=[7, 8, 9])
    assert found["User"] == ("s", "www-data")
    assert found["WorkingDirectory"] == ("s", "/srv")
    assert found["TTYPath"] == ("s", "/dev/pts/3")
    assert found["StandardErrorFileDescriptor"] == ("h", 9)
    assert properties()["User"] == ("s", "root")
    assert "TTYPath" not in properties()


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ([], {}),
        ([""], {}),
        (["a\0b"], {}),
        (["a", "\udcff"], {}),
        (["a"], {"env": {"1A": "x"}}),
        (["a"], {"env": {"A B": "x"}}),
        (["a"], {"env": {"A": "\x1b"}}),
        (["a"], {"cwd": "relative"}),
        (["a"], {"user": "\udcff"}),
    ],
)
def test_what_cannot_be_passed_is_refused(argv, changes):
    given = {"user": None, "env": {}, "cwd": None, **changes}
    with pytest.raises(InvalidValue):
        transient.check(argv, **given)


def test_newlines_and_tabs_are_fine():
    transient.check(["printf", "a\nb\t'\""], user=None, env={"A": "one\ntwo\t"}, cwd="~")


def tree(tmp_path):
    for name, mode in (("usr/bin/tool", 0o755), ("usr/sbin/tool", 0o755), ("usr/bin/plain", 0o644), ("srv/run", 0o755)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(mode)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/out").symlink_to("/../../../../../../bin/sh")
    return str(tmp_path)


def test_programs_are_found_in_the_tree(tmp_path):
    root = tree(tmp_path)

    def find(word, cwd=None):
        return transient.find_program(root, word, machine="m", cwd=cwd)

    assert find("tool") == "/usr/sbin/tool"
    assert find("/bin/tool") == "/bin/tool"
    assert find("./run", "/srv") == "/srv/./run"


@pytest.mark.parametrize(("word", "code"), [("nope", 127), ("/nope", 127), ("out", 127), ("plain", 126), ("/srv", 126)])
def test_programs_that_cannot_run(tmp_path, word, code):
    with pytest.raises(CommandFailed) as caught:
        transient.find_program(tree(tmp_path), word, machine="m", cwd=None)
    assert caught.value.exit_code == code


def test_exit_codes_are_those_of_a_shell():
    assert transient.exit_code(os.CLD_EXITED, 7) == 7
    assert transient.exit_code(os.CLD_KILLED, 9) == 137
    assert transient.exit_code(os.CLD_DUMPED, 11) == 139
