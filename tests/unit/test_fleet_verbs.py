# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl check, schema, fleet init and secret, as they are typed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.cli import quick
from machines.declare.example import fleet_example
from machines.operations.checking import check_files

WRONG = """\
colour = "red"

[machines.web]
source = "debian"
memroy = "1G"
publish = [
  "8080:80",
  "http",
]
"""


def typed(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr("sys.argv", ["machctl", *words])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin), read=stdin.decode, isatty=lambda: False))
    return quick.run()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    made = FakeHost()
    monkeypatch.setattr("machines.cli.verbs.secret.RealHost", lambda: made)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return made


def test_check_says_every_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(WRONG)
    assert typed(monkeypatch, "check", str(file)) == 8
    assert capsys.readouterr().err.splitlines() == [
        f"machctl: {file}:1: colour: is not a key of this table",
        f"machctl: {file}:5: machines.web.memroy: is not a key of this table",
        "  did you mean memory?",
        f"machctl: {file}:8: machines.web.publish[1]: published port 'http': 'http' is not a port",
        "  ports go from 1 to 65535",
    ]


def test_check_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(WRONG)
    assert typed(monkeypatch, "check", "-f", str(file), "--json") == 8
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["machines"], found["files"]) == (False, [], [str(file)])
    assert found["errors"][1] == {
        "file": str(file), "line": 5, "key": "machines.web.memroy",
        "message": "is not a key of this table", "hint": "did you mean memory?",
    }  # fmt: skip


def test_check_of_stdin(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert typed(monkeypatch, "check", "-", stdin=fleet_example().encode()) == 0
    assert capsys.readouterr().out == "3 machines and 1 network in 1 file: nothing is wrong\n"


def test_check_of_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert typed(monkeypatch, "check", str(tmp_path / "none.toml")) == 4
    assert "there is no file" in capsys.readouterr().err


def test_ports_that_machines_have_together() -> None:
    text = (
        "[defaults]\nsource = 'debian'\n[machines.a]\nreplicas = 3\npublish = ['80']\n[machines.b]\npublish = ['81']\n"
    )
    (error,) = check_files({"/f": text}).errors
    assert error.message == "/f:5: machines.a.publish[0]: port 80:80 cannot be that of all replicas"
    assert "{index}" in error.hint
    (error,) = check_files({"/f": text.replace("'80'", "'8{index}:80'")}).errors
    assert error.message == "/f:7: machines.b.publish[0]: port 81:81 of b is one of a-1, declared in /f"


def test_schema_is_json(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert typed(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "machctl fleet"


def test_fleet_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = tmp_path / "fleet.toml"
    assert typed(monkeypatch, "fleet", "init", str(file), "--dry-run") == 0
    assert not file.exists()
    assert typed(monkeypatch, "fleet", "init", str(file)) == 0
    assert file.read_text() == fleet_example()
    file.write_text("# mine\n")
    assert typed(monkeypatch, "fleet", "init", str(file)) == 5
    assert file.read_text() == "# mine\n"
    capsys.readouterr()
    assert typed(monkeypatch, "fleet", "init", "-") == 0
    assert capsys.readouterr().out == fleet_example()


def test_secrets_as_they_are_typed(
    tmp_path: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert typed(monkeypatch, "secret", "set", "db", stdin=b"hunter2\n") == 0
    (tmp_path / "key").write_bytes(b"\x00\xff")
    assert typed(monkeypatch, "secret", "set", "key", "--from", str(tmp_path / "key")) == 0
    assert host.secrets.kept == {"db": b"hunter2\n", "key": b"\x00\xff"}
    host.secrets.why = "systemd-creds is not installed"
    assert typed(monkeypatch, "secret", "set", "key", stdin=b"x") == 0
    assert typed(monkeypatch, "secret", "set", "empty") == 2
    assert typed(monkeypatch, "secret", "set", "a/b", stdin=b"x") == 2
    assert typed(monkeypatch, "secret", "set", "a", "--from", str(tmp_path / "none")) == 4
    said = capsys.readouterr()
    assert "keeps secret key, not sealed, but readable by root alone: systemd-creds is not installed" in said.err
    assert "hunter2" not in said.err + said.out
    host.secrets.why = ""
    assert typed(monkeypatch, "secret", "ls", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["db", "key"]
    assert typed(monkeypatch, "secret", "rm", "db", "--dry-run") == 0
    assert "db" in host.secrets.kept
    assert typed(monkeypatch, "secret", "rm", "db") == 0
    assert list(host.secrets.kept) == ["key"]
