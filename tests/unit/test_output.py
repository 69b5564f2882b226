# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers in every format on stdout, errors in their two lines on stderr."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from machines.cli.options import Options
from machines.cli.output import Unwritten, report_error, show_object, show_rows
from machines.cli.plans import show_plan
from machines.cli.several import exit_status
from machines.cli.verbs import doctor, events, net
from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, Several, TimedOut
from machines.operations.doctor import Finding
from machines.operations.events import Event
from machines.plan import steps

ROWS = [
    {"name": "db", "state": "stopped", "addresses": [], "ports": None, "declared": False},
    {"name": "web", "state": "running", "addresses": ["10.64.7.2", "fd00::2"], "ports": ["8080:80"], "declared": True},
]
COLUMNS = ("name", "state", "addresses", "ports")


@pytest.fixture(autouse=True)
def _no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)


def rows(capsys: pytest.CaptureFixture[str], **options: object) -> str:
    show_rows(ROWS, COLUMNS, Options.checked(**options), empty="none")
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys).splitlines() == [
        "NAME  STATE    ADDRESSES          PORTS",
        "db    stopped  -                  -",
        "web   running  10.64.7.2 fd00::2  8080:80",
    ]


def test_table_without_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, legend=False).splitlines()[0].startswith("db ")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(rows(capsys, output="json")) == ROWS


@pytest.mark.parametrize(
    ("words", "said"),
    [({}, "db\nweb\n"), ({"named": "state"}, "stopped\nrunning\n"), ({"named": "ports"}, "['8080:80']\n")],
)
def test_names_are_of_the_rows_once(capsys: pytest.CaptureFixture[str], words: dict[str, str], said: str) -> None:
    show_rows([*ROWS, ROWS[0]], COLUMNS, Options.checked(output="name"), **words)
    assert capsys.readouterr() == (said, "")


def test_every_listing_says_what_its_rows_are_called_by(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"machine": "web", "link": "host0"},
        {"machine": "web", "link": "host1"},
        {"machine": "db", "link": "host0"},
    ]
    happened = [
        Event(0.0, "web", "unit", "started"),
        Event(1.0, "", "unit", "failed"),
        Event(2.0, "web", "unit", "failed"),
    ]
    options = Options.checked(output="name")
    context = click.Context(click.Command("machctl"), obj=options)
    monkeypatch.setattr(net, "_rows", lambda _: rows)
    monkeypatch.setattr(events, "history", lambda *_: happened)
    net.ls(context, [])
    net.ip(context, [])
    assert capsys.readouterr().out == "web\ndb\n" * 2
    events._past(None, lambda _: True, None, None, options)
    assert capsys.readouterr().out == "web\n"
    doctor._show([Finding("clock", "ok", "right"), Finding("disk", "bad", "full")], options)
    assert capsys.readouterr().out == "clock\ndisk\n"


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(csv.reader(io.StringIO(rows(capsys, output="csv"))))
    assert found == [list(COLUMNS), ["db", "stopped", "-", "-"], ["web", "running", "10.64.7.2 fd00::2", "8080:80"]]


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, output="name") == "db\nweb\n"


def test_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, output="yaml").splitlines() == [
        '- name: "db"',
        '  state: "stopped"',
        "  addresses: []",
        "  ports: null",
        "  declared: false",
        '- name: "web"',
        '  state: "running"',
        "  addresses:",
        '    - "10.64.7.2"',
        '    - "fd00::2"',
        "  ports:",
        '    - "8080:80"',
        "  declared: true",
    ]


@pytest.mark.parametrize(
    ("output", "out", "err"),
    [
        ("table", "", "none\n"),
        ("json", "[]\n", ""),
        ("yaml", "[]\n", ""),
        ("csv", "name,state,addresses,ports\n", ""),
        ("name", "", ""),
    ],
)
def test_nothing(capsys: pytest.CaptureFixture[str], output: str, out: str, err: str) -> None:
    show_rows([], COLUMNS, Options(output=output), empty="none")
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("color", "environment", "colored"),
    [("auto", {}, False), ("never", {}, False), ("always", {}, True), ("always", {"NO_COLOR": "1"}, True)],
)
def test_colours(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    color: str,
    environment: dict[str, str],
    *,
    colored: bool,
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert ("\x1b[32mrunning\x1b[0m" in rows(capsys, color=color)) is colored


def test_colour_is_the_states_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"name": "failed", "state": "running"}], ("name", "state"), Options(color="always"))
    assert capsys.readouterr().out.splitlines()[1] == "failed  \x1b[32mrunning\x1b[0m"


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_object(capsys: pytest.CaptureFixture[str], output: str) -> None:
    show_object({"name": "wéb", "os": None, "nested": {"a": [1]}}, Options(output=output))
    out = capsys.readouterr().out
    if output == "json":
        assert json.loads(out) == {"name": "wéb", "os": None, "nested": {"a": [1]}}
    else:
        assert out.splitlines() == ['name: "wéb"', "os: null", "nested:", "  a:", "    - 1"]


def test_object_with_empty_things_in_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    show_object({"list": [], "table": {}, "lists": [[], [1]]}, Options(output="yaml"))
    assert capsys.readouterr().out.splitlines()[:2] == ["list: []", "table: {}"]


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (Conflict("web exists", hint="choose\nanother"), "machctl: web exists\n  choose\n  another\n", 5),
        (MachctlError("no"), "machctl: no\n", 1),
        (TimedOut("late"), "machctl: late\n", 124),
        (Several([NotFound("a"), NotFound("b", hint="c")]), "machctl: a\nmachctl: b\n  c\n", 4),
        (Several([NotFound("a"), Conflict("b")]), "machctl: a\nmachctl: b\n", 1),
        (Several([NotFound("a"), Conflict("b")], exit_code=9), "machctl: a\nmachctl: b\n", 9),
        (click.UsageError("no such option: --x"), "machctl: no such option: --x\n  see: machctl --help\n", 2),
        (click.exceptions.Exit(3), "", 3),
        (click.exceptions.Abort(), "", 130),
        (KeyboardInterrupt(), "", 130),
        (PermissionError(13, "Permission denied", "/etc/x"), "machctl: /etc/x: not permitted\n  run it as root\n", 6),
    ],
)
def test_error(capsys: pytest.CaptureFixture[str], error: BaseException, text: str, code: int) -> None:
    assert report_error(error) == code
    assert capsys.readouterr() == ("", text)


def test_fault_of_machctls_own_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(ValueError("x")) == 1
    err = capsys.readouterr().err
    assert err.startswith("machctl: ValueError: x\n")
    assert "--debug" in err


def test_reader_who_has_had_enough(capfd: pytest.CaptureFixture[str]) -> None:
    stdout = os.dup(1)
    try:
        assert report_error(BrokenPipeError()) == 141
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert capfd.readouterr() == ("", "")


MAIN = "import sys; from machines.cli import main; sys.argv[0] = 'machctl'; main()"
FULL = "machctl: output could not be written: No space left on device\n"


def ended(*words: str, stdout: int, stderr: int = subprocess.PIPE, code: str = MAIN) -> tuple[int, str | None]:
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=stdout, stderr=stderr, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["version"], ["--help"], ["create", "--help"], ["schema"], []])
def test_output_that_cannot_be_written(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        assert ended(*words, stdout=full.fileno()) == (1, FULL)


def test_an_error_that_cannot_be_told() -> None:
    with Path("/dev/full").open("wb") as full:
        assert ended("list", "-o", "x", stdout=subprocess.PIPE, stderr=full.fileno()) == (2, None)


def test_a_full_disk_elsewhere_is_not_about_the_output() -> None:
    assert report_error(OSError(28, "No space left on device")) == 1
    assert not isinstance(OSError(28, "x"), Unwritten)


OPENING = """
import os
import sys
from machines.cli import main, quick
def verb():
    print("the answer")
    os._exit(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))
quick.verb_of = lambda words: verb
main()
"""


def test_a_closed_stdout_is_nobodys_descriptor(tmp_path: Path) -> None:
    opened = f"{sys.executable} -c '{OPENING}' {tmp_path}/file"
    assert subprocess.run(["sh", "-c", f"{opened} >&-"], check=False).returncode > 2


# The verb fails, with what it said so far not yet written.
FAILING = """
import sys
from machines.cli import main, quick
from machines.errors import NotFound
def verb():
    sys.stdout.write("a line\\n")
    if sys.argv[1:] == ["flush"]:
        sys.stdout.flush()
    raise NotFound("there is no b")
quick.verb_of = lambda words: verb
main()
"""


def test_an_error_after_output_that_cannot_be_written() -> None:
    with Path("/dev/full").open("wb") as full:
        assert ended(stdout=full.fileno(), code=FAILING) == (4, FULL + "machctl: there is no b\n")
        assert ended("flush", stdout=full.fileno(), code=FAILING) == (1, FULL)


@pytest.mark.parametrize(("words", "status", "text"), [([], 4, "machctl: there is no b\n"), (["flush"], 141, "")])
def test_reader_who_is_gone(words: list[str], status: int, text: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ended(*words, stdout=writing, code=FAILING) == (status, text)
    assert ended("version", stdout=writing) == (141, "")
    os.close(writing)


@pytest.mark.parametrize(
    ("failed", "count", "code"),
    [
        ({}, 3, 0),
        ({"a": NotFound("a")}, 1, 4),
        ({"a": NotFound("a"), "b": NotFound("b")}, 2, 4),
        ({"a": NotFound("a")}, 2, 9),
        ({"a": NotFound("a"), "b": InvalidValue("b")}, 2, 9),
    ],
)
def test_status_of_several(
    capsys: pytest.CaptureFixture[str], failed: dict[str, MachctlError], count: int, code: int
) -> None:
    assert exit_status(failed, count) == code
    assert len(capsys.readouterr().err.splitlines()) == len(failed)


def test_plan_says_what_why_and_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    step = steps.WriteFile(reason="differs", machine="web", path="/etc/x", text="new", detail="-old\n+new")
    show_plan({"web": [step], "db": []}, Options())
    assert capsys.readouterr().out.splitlines() == ["web:", "  write /etc/x  (differs)", "    -old", "    +new"]
    show_plan({"web": [step]}, Options(output="json"))
    assert json.loads(capsys.readouterr().out) == [
        {
            "machine": "web",
            "kind": None,
            "step": "WriteFile",
            "what": "write /etc/x",
            "reason": "differs",
            "difference": ["-old", "+new"],
        }
    ]


def test_plan_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan({"web": []}, Options())
    assert capsys.readouterr() == ("", "nothing to do\n")
    show_plan({"web": []}, Options(output="json"))
    assert capsys.readouterr().out == "[]\n"
