# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said to be different between two trees, and how."""

from __future__ import annotations

import json

import pytest

from machines.cli.differences import show_difference
from machines.cli.options import Options
from machines.model.difference import DIFF_LINES_MAX, Contents, Difference, File, Size
from machines.operations.differences import NOISE, compare


def text(content: str, *, mode: int = 0o644, uid: int = 0) -> File:
    return File("file", mode, uid, uid, digest=content, text=content)


BEFORE = Contents(
    packages={"curl": "8.1", "vim": "9.1", "bash": "5.2"},
    etc={"/etc": File("directory", 0o755), "/etc/hosts": text("127.0.0.1 a\n"), "/etc/motd": text("hi\n")},
    units={"ssh.service": "enabled", "apt.timer": "enabled"},
    users={"root": "0:0:/root:/bin/bash"},
    size=Size(100 * 2**20, 1000),
)
AFTER = Contents(
    packages={"curl": "8.2", "nginx": "1.26", "bash": "5.2"},
    etc={
        "/etc": File("directory", 0o755),
        "/etc/hosts": text("127.0.0.1 b\n", mode=0o600, uid=7),
        "/etc/nginx": File("directory", 0o755),
        "/etc/nginx/x": text("x"),
        "/etc/empty": File("directory", 0o755),
        "/etc/systemd/system/multi-user.target.wants/nginx.service": File("link", target="/lib/nginx.service"),
    },
    units={"ssh.service": "enabled", "apt.timer": "masked", "nginx.service": "enabled"},
    users={"root": "0:0:/root:/bin/bash", "eve": "0:0:/:/bin/sh"},
    groups={"eve": "1000:"},
    size=Size(110 * 2**20, 1010),
)

TABLE = """\
Packages
  ~ curl 8.1 -> 8.2
  + nginx 1.26
  - vim 9.1
/etc
  + /etc/empty/
  ~ /etc/hosts (content, mode 644 -> 600, owner 0:0 -> 7:7)
  - /etc/motd
  + /etc/nginx/x
Units
  ~ apt.timer enabled -> masked
  + nginx.service enabled
Users
  + eve 0:0:/:/bin/sh
Groups
  + eve 1000:
Size
  100.0 MB in 1000 files -> 110.0 MB in 1010 files (+10.0 MB, +10 files)
"""


def shown(capsys: pytest.CaptureFixture[str], difference: Difference, **options: object) -> str:
    show_difference(difference, Options.checked(**options))
    return capsys.readouterr().out


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, compare(BEFORE, AFTER)) == TABLE


def test_table_with_lines_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, compare(BEFORE, AFTER), verbose=True).splitlines()
    at = next(index for index, line in enumerate(lines) if "/etc/hosts" in line)
    assert lines[at + 1 : at + 4] == ["      @@ -1 +1 @@", "      -127.0.0.1 a", "      +127.0.0.1 b"]


def test_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = shown(capsys, compare(BEFORE, AFTER), color="always")
    assert "  \x1b[32m+ nginx 1.26\x1b[0m\n" in table
    assert "  \x1b[31m- vim 9.1\x1b[0m\n" in table
    assert "  \x1b[33m~ curl 8.1 -> 8.2\x1b[0m\n" in table


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, compare(BEFORE, AFTER), output="json"))
    assert found["changed"] is True
    assert found["packages"][0] == {"name": "curl", "change": "changed", "before": "8.1", "after": "8.2"}
    assert found["etc"][1]["diff"] == ["@@ -1 +1 @@", "-127.0.0.1 a", "+127.0.0.1 b"]
    assert found["size"]["after"] == {"bytes": 110 * 2**20, "files": 1010}


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, compare(BEFORE, AFTER), output="name").splitlines()[:3] == ["curl", "nginx", "vim"]


def test_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    same = compare(AFTER, AFTER._replace(size=Size(1, 1)))
    assert not same.changed
    assert shown(capsys, same) == "nothing changed\n"
    assert json.loads(shown(capsys, same, output="json"))["packages"] == []


def test_what_could_not_be_read_is_said_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    show_difference(compare(Contents(unread=("the packages of rpm",)), Contents()), Options())
    assert capsys.readouterr() == ("nothing changed\n", "not compared: the packages of rpm\n")


@pytest.mark.parametrize("path", [path.replace("*", "host0") for path in NOISE])
def test_noise(path: str) -> None:
    assert not compare(Contents(), Contents(etc={path: text("new")})).changed
    assert not compare(Contents(etc={path: text("old")}), Contents(etc={path: text("new")})).changed


def test_only_machctls_own_resolv_conf_is_noise() -> None:
    own = Contents(etc={"/etc/resolv.conf": File("link", target="../run/systemd/resolve/stub-resolv.conf")})
    other = Contents(etc={"/etc/resolv.conf": text("nameserver 192.0.2.1\n")})
    assert not compare(other, own).changed
    assert compare(own, other).changed
    assert compare(own, Contents()).changed


def test_file_that_became_a_link() -> None:
    after = Contents(etc={"/etc/hosts": File("link", target="/dev/null")})
    (change,) = compare(Contents(etc={"/etc/hosts": text("a")}), after).etc
    assert (change.kind, change.what, change.diff()) == ("changed", ("file -> link",), [])


def test_long_texts_are_not_compared_by_line() -> None:
    lines = [f"{number}\n" for number in range(DIFF_LINES_MAX + 1)]
    before, after = (Contents(etc={"/etc/x": text("".join(order))}) for order in (lines, lines[::-1]))
    (change,) = compare(before, after).etc
    assert (change.what, change.diff()) == (("content",), [])


@pytest.mark.parametrize("output", ["table", "csv", "name"])
def test_terminal_obeys_no_guest(capsys: pytest.CaptureFixture[str], output: str) -> None:
    evil = "\x1b]0;x\x07\r\u202e\n"
    after = Contents({evil: evil}, {f"/etc/{evil}": text("b\x1b[2J\n")}, {evil: evil}, {evil: evil}, {evil: evil})
    before = Contents(etc={f"/etc/{evil}": text("a\n")})
    table = shown(capsys, compare(before, after), output=output, verbose=True, color="never")
    assert not set(table) & {"\x1b", "\x07", "\r", "\u202e"}
