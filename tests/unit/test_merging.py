# SPDX-License-Identifier: LGPL-2.1-or-later
"""Journals of several machines are printed as one; a cat stands for journalctl."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from machines.cli.merging import Merged
from machines.cli.options import Options
from machines.errors import CommandFailed, NotFound


def entry(at: float, who: str, pid: int, message: object, **more: object) -> str:
    """Give an entry as journalctl prints it."""
    fields = {"SYSLOG_IDENTIFIER": who, "_PID": str(pid), "MESSAGE": message, **more}
    return json.dumps({"__REALTIME_TIMESTAMP": f"{at * 1e6:.0f}", **fields}) + "\n"


WEB = (
    entry(1795358541.000001, "nginx", 1, "a")
    + entry(1795358543.5, "nginx", 1, "two\nlines 1795358500.000000 nginx[1]: of one message\n")
    + "-- cursor: s=1;i=6a\n"
)
DB = (
    entry(1795358542, "postgres", 22, "b")
    + entry(1795358544, "postgres", 22, list(b"c\xc3\xa4"))
    + "-- cursor: s=2;i=6b\n"
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def commands(tmp_path: Path, **texts: str) -> dict[str, list[str]]:
    """Commands that print these texts, whatever they are asked for."""
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: ["sh", "-c", 'cat "$0"', str(tmp_path / name)] for name in texts}


def follow_while(merged: Merged, happens: Callable[[], None]) -> None:
    """Follow until what happens meanwhile has happened, and a signal ends it."""

    def happen() -> None:
        happens()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=happen)
    thread.start()
    assert merged.follow() == 128 + signal.SIGTERM
    thread.join()


def test_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Merged(commands(tmp_path, web=WEB, db=DB), Options()).past(None)
    assert capsys.readouterr().out.splitlines() == [
        "Nov 22 14:42:21 web nginx[1]: a",
        "Nov 22 14:42:22 db  postgres[22]: b",
        "Nov 22 14:42:23 web nginx[1]: two",
        "                web lines 1795358500.000000 nginx[1]: of one message",
        "Nov 22 14:42:24 db  postgres[22]: cä",
    ]


def test_the_last_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Merged(commands(tmp_path, web=WEB, db=DB), Options()).past(1)
    assert capsys.readouterr().out == "Nov 22 14:42:24 db  postgres[22]: cä\n"


def test_each_machine_has_a_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Merged(commands(tmp_path, web=WEB, db=DB), Options(color="always")).past(2)
    first, _, last = capsys.readouterr().out.splitlines()
    assert "\x1b[36mweb\x1b[0m" in first
    assert "\x1b[33mdb \x1b[0m" in last


def test_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web = json.dumps({"__REALTIME_TIMESTAMP": "2000000", "MESSAGE": "two", "MACHINE": "forged"})
    db = json.dumps({"__REALTIME_TIMESTAMP": "1000000", "MESSAGE": "one"})
    Merged(commands(tmp_path, web=f"{web}\n-- cursor: x\n", db=f"{db}\n"), Options(output="json")).past(None)
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["MACHINE"], one["MESSAGE"]) == ("db", "one")
    assert (two["MACHINE"], two["MESSAGE"]) == ("web", "two")


def test_what_journalctl_refuses(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no such time"):
        Merged({"web": ["sh", "-c", "echo no such time >&2; exit 1"], "db": ["true"]}, Options()).past(None)


def test_followed_until_a_signal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = tmp_path / "begun"
    new = '{"__REALTIME_TIMESTAMP": "1795358545000000", "MESSAGE": "%s"}\\n'
    follow = f'printf \'{new}\' "$*"; : >"$0"; exec sleep 100'
    script = f'case "$*" in *--follow*) {follow};; *) cat "$1";; esac'
    (tmp_path / "web").write_text(WEB)
    merged = Merged({"web": ["sh", "-c", script, str(begun), str(tmp_path / "web")]}, Options())
    merged.past(0)

    def begin() -> None:
        while not begun.exists():
            time.sleep(0.01)

    follow_while(merged, begin)
    assert "--after-cursor=s=1;i=6a" in capsys.readouterr().out


def test_what_a_guest_writes_into_its_journal_ends_nobodys_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = entry(
        1795358541, "a\n1600000000.000000 sshd[1]: Accepted\n-- cursor: evil", 1, "\x1b[31mred\x07\tx\r\n\x9b2Jy"
    )
    odd = [
        entry(1795358541, "a", 1, None), entry(1795358541, "b", 1, [list(b"c"), "d"]),
        entry(1795358541, "c", 1, {"x": 1}), entry(1795358541, "d", 1, [[list(b"e")]]),
        "9x y[1]: z\n", '"x"\n', "[" * 9999 + "\n", entry(9e11, "late", 1, "x"), entry(-1, "early", 1, "x"),
        entry(1, "\u00b2", 1, "x", __REALTIME_TIMESTAMP="\u00b2"),
    ]  # fmt: skip
    merged = Merged(commands(tmp_path, web=forged + "".join(odd) + "-- cursor: good\n", db=DB), Options())
    merged.past(None)
    assert merged._cursors["web"] == "good"
    assert capsys.readouterr().out.splitlines()[:5] == [
        "Nov 22 14:42:21 web a\ufffd1600000000.000000 sshd[1]: Accepted\ufffd-- cursor: evil[1]: red\ufffd\tx\ufffd",
        "                web \ufffd2Jy",
        "Nov 22 14:42:21 web a[1]: ",
        "Nov 22 14:42:21 web b[1]: c",
        "Nov 22 14:42:21 web c[1]: ",
    ]


def test_json_that_a_guest_made_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = {"__REALTIME_TIMESTAMP": "1795358542000000", "MESSAGE": "fine"}
    lines = [{**fine, "__REALTIME_TIMESTAMP": ["1", "2"]}, ["no"], fine]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    Merged(commands(tmp_path, web=text, db=text), Options(output="json")).past(None)
    assert capsys.readouterr().out.count("fine") == 2


def test_a_journal_that_another_boot_goes_on_with_is_opened_until_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What opens it before the new boot writes into it is deaf; one that is opened later is not."""
    machines, opened = tmp_path / "machines", tmp_path / "opened"
    machines.mkdir()
    opened.touch()
    monkeypatch.setattr("machines.cli.merging.MACHINES", str(machines))
    monkeypatch.setattr("machines.cli.merging._SILENT", 0.05)
    monkeypatch.setattr("machines.cli.merging._leader", lambda name: len(list(machines.iterdir())) + 1)
    for number, text in enumerate(("one", "two")):
        (tmp_path / str(number)).write_text(entry(1795358541 + number, "web", 1, text, _BOOT_ID=str(number)))
    # The first follows the old boot, the second and third are deaf, the fourth has the new one; then once more.
    script = (
        'case "$*" in *--follow*) echo >>"$0/opened"; case $(wc -l <"$0/opened") in'
        ' 4) cat "$0/1";; 5) sleep 0.5; touch "$0/end";; esac; exec sleep 100;;'
        ' *) cat "$0/0";; esac'
    )
    merged = Merged({"web": ["sh", "-c", script, str(tmp_path)]}, Options())
    merged.past(None)

    def boot() -> None:
        while not opened.read_text():
            time.sleep(0.01)
        (machines / "web").touch()
        while not (tmp_path / "end").exists():
            time.sleep(0.01)

    follow_while(merged, boot)
    assert [line.split("]: ")[1] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]
    # It is not opened again once it was read.
    assert opened.read_text() == "\n" * 5
    assert not merged._awaited


def test_one_that_is_no_more_there_while_it_is_awaited_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines, opened = tmp_path / "machines", tmp_path / "opened"
    machines.mkdir()
    opened.touch()
    monkeypatch.setattr("machines.cli.merging.MACHINES", str(machines))
    monkeypatch.setattr("machines.cli.merging._SILENT", 0.05)
    monkeypatch.setattr("machines.cli.merging._leader", lambda name: len(list(machines.iterdir())))
    # What is opened after the start ends at once.
    script = 'case "$*" in *--follow*) echo >>"$0/opened"; [ -e "$0/machines/web" ] && exit 1; exec sleep 100;; esac'
    argv = ["sh", "-c", script, str(tmp_path)]

    def command(name: str) -> list[str]:
        if len(opened.read_text()) >= 3:
            raise NotFound(f"there is no machine {name}")
        return argv

    merged = Merged({"web": argv}, Options(), command)
    merged.past(0)

    def boot() -> None:
        while not opened.read_text():
            time.sleep(0.01)
        (machines / "web").touch()
        while len(opened.read_text()) < 3:
            time.sleep(0.01)
        time.sleep(0.3)
        (machines / "web").unlink()
        while merged._awaited:
            time.sleep(0.01)

    follow_while(merged, boot)


def test_the_journal_of_the_host_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines, opened = tmp_path / "machines", tmp_path / "opened"
    machines.mkdir()
    opened.touch()
    monkeypatch.setattr("machines.cli.merging.MACHINES", str(machines))
    monkeypatch.setattr("machines.cli.merging._SILENT", 0.01)
    monkeypatch.setattr("machines.cli.merging._leader", lambda name: len(list(machines.iterdir())))
    script = 'case "$*" in *--follow*) echo >>"$0/opened"; exec sleep 100;; esac'
    merged = Merged({"web": ["sh", "-c", script, str(tmp_path)]}, Options(), lasting={"web"})

    def boot() -> None:
        while not opened.read_text():
            time.sleep(0.01)
        (machines / "web").touch()
        time.sleep(0.3)

    follow_while(merged, boot)
    assert opened.read_text() == "\n"


def test_no_entry_of_the_hosts_journal_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = 'case "$*" in *--show-cursor*) exit 1;; esac'
    Merged({"web": ["sh", "-c", script, "x"], **commands(tmp_path, db=DB)}, Options(), lasting={"web"}).past(None)
    assert len(capsys.readouterr().out.splitlines()) == 2
