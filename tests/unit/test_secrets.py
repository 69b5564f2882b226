# SPDX-License-Identifier: LGPL-2.1-or-later
"""Secrets: how they are named, kept, asked for, and that none is ever a word of a command or of an error."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from acting import apply, declare
from fakes import FakeHost
from machines.declare.environment import check_credential, parse_secret, parse_variable
from machines.declare.fleet import parse_fleet
from machines.errors import Conflict, InvalidValue, MachctlError, NotFound
from machines.host import secrets as kept
from machines.host.files import _PRUNED
from machines.model.secret import PLAIN_DIRECTORY, SEALED_DIRECTORY, SIZE_MAX, Secret
from machines.operations.fleetplan import fleet_plan
from machines.operations.observe import observe
from machines.operations.secrets import list_secrets, remove_secrets, set_secret
from machines.operations.transfer import GIVEN
from machines.plan import steps
from machines.plan.check import check_machine
from samples import machine

SEALER = """#!/bin/sh
test "$1 $2 $3 $4" = "--name=token encrypt - -" || exit 9
echo sealed:$(cat | wc -c)
"""
BROKEN = "#!/bin/sh\ncat > /dev/null\necho 'No key here' >&2\nexit 1\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this host keeps secrets, with a systemd-creds of the test's own."""
    monkeypatch.setattr(kept, "SEALED_DIRECTORY", str(tmp_path / "sealed"))
    monkeypatch.setattr(kept, "PLAIN_DIRECTORY", str(tmp_path / "plain"))
    sealing(tmp_path, monkeypatch, SEALER)
    return tmp_path


def sealing(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = path / "systemd-creds"
    tool.write_text(script)
    tool.chmod(0o755)
    monkeypatch.setattr(kept, "_CREDS", str(tool))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("file:/root/token", Secret("a", "file", "/root/token")),
        ("file:/a-b:c%", Secret("a", "file", "/a-b:c%")),
        ("credential:db.password", Secret("a", "credential", "db.password")),
    ],
)
def test_reference(text: str, secret: Secret) -> None:
    assert parse_secret("a", text) == secret
    assert str(secret) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "hunter2"), ("a", "value:hunter2"), ("a", "hunter2:/x"), ("a", "file:hunter2"),
        ("a", "file:/x/../hunter2"), ("a", "file:/hunter2\\"),
        ("a", "file:/hunter2\n"), ("a", "credential:hunter2/x"), ("a", "file:/a hunter2"), ("a b", "file:/hunter2"),
        ("-a", "file:/hunter2"), ("", "file:/hunter2"), ("a" * 200, "file:/hunter2"),
    ],
)  # fmt: skip
def test_wrong_reference(name: str, text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_secret(name, text)
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_secret_with_braces_is_in_no_error() -> None:
    text = '[machines.web]\nsource = "debian"\n[machines.web.secrets]\na = "hun{index}ter2"\n'
    _, errors = parse_fleet({"/f": text})
    assert errors
    assert all("ter2" not in error.message + error.hint for error in errors)


def test_no_unit_of_the_host_takes_secrets_for_its_own() -> None:
    for directory in (SEALED_DIRECTORY, PLAIN_DIRECTORY):
        assert directory.startswith("/etc/machctl/secrets")
        assert directory in _PRUNED


@pytest.mark.parametrize("name", ["db", "db.password", "A_1-b"])
def test_names_of_secrets(name: str) -> None:
    assert check_credential(name) == name


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[1m"])
def test_variable_is_one_line(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_variable("A", text)


def test_sealed_secret(store: Path) -> None:
    (store / "plain").mkdir()
    (store / "plain/token").write_text("an older one")
    assert kept.seal("token", b"hunter2\x00\xff") == ""
    assert (store / "sealed/token").read_text() == "sealed:9\n"
    assert stat.S_IMODE((store / "sealed/token").stat().st_mode) == 0o600
    assert stat.S_IMODE((store / "sealed").stat().st_mode) == 0o700
    assert kept.stored() == {"token": str(store / "sealed/token")}
    kept.remove("token")
    assert kept.stored() == {}


def test_secret_that_this_host_cannot_seal(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealing(store, monkeypatch, BROKEN)
    assert "No key here" in kept.seal("token", b"hunter2\xff")
    assert (store / "plain/token").read_bytes() == b"hunter2\xff"
    assert stat.S_IMODE((store / "plain/token").stat().st_mode) == 0o600
    assert kept.stored() == {"token": str(store / "plain/token")}
    monkeypatch.setattr(kept, "_CREDS", "no-such-tool")
    assert kept.seal("token", b"x") == "no-such-tool is not installed"


def test_sealed_secret_stays_where_it_cannot_be_sealed_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.seal("token", b"hunter2")
    sealing(store, monkeypatch, BROKEN)
    with pytest.raises(Conflict, match=r"token was sealed, and cannot be now: .*No key here"):
        kept.seal("token", b"hunter3")
    assert (store / "sealed/token").read_text() == "sealed:7\n"
    assert kept.stored() == {"token": str(store / "sealed/token")}
    assert kept.seal("token", b"hunter3", plain=True)
    assert kept.stored() == {"token": str(store / "plain/token")}


def test_secret_that_is_too_much(store: Path) -> None:
    with pytest.raises(MachctlError, match="token has 1048577 bytes"):
        kept.seal("token", b"x" * (SIZE_MAX + 1))


def test_set_list_and_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    host = FakeHost()
    declare(host, "web", 'secrets = { token = "credential:db", key = "file:/root/key" }')
    assert list_secrets(host) == [{"name": "db", "state": "missing", "machines": ["web"], "file": None}]
    monkeypatch.setattr(host, "running", lambda: {"web": "systemd-nspawn@web.service"})
    assert set_secret("db", b"hunter2", host) == ("", ["web"], [])
    assert set_secret("other", b"x", host) == ("", [], [])
    monkeypatch.setattr(host.secrets, "why", "No key here")
    monkeypatch.setattr(host.secrets, "stored", iter([{"db": "/sealed/db"}, {"db": "/plain/db"}]).__next__)
    assert set_secret("db", b"hunter2", host, plain=True) == ("No key here", ["web"], ["web"])
    assert host.secrets.plain
    monkeypatch.undo()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    rows = list_secrets(host)
    assert [(row["name"], row["state"], row["machines"]) for row in rows] == [
        ("db", "sealed", ["web"]), ("other", "sealed", []),
    ]  # fmt: skip
    assert "hunter2" not in str(rows)
    with pytest.raises(Conflict, match="secret db is what web has"):
        remove_secrets(["other", "db"], host, force=False)
    with pytest.raises(NotFound):
        remove_secrets(["other", "third"], host, force=True)
    assert list(host.secrets.kept) == ["db", "other"]
    remove_secrets(["other", "db"], host, force=True)
    assert host.secrets.kept == {}


def test_secret_that_is_not_there_is_said_before_anything_is_done() -> None:
    declared = machine(secrets=(Secret("token", "credential", "db"), Secret("key", "file", "/root/key")))
    host = FakeHost()
    first, second = check_machine(declared, observe(host, [declared]), {})
    assert first.message == "secret token of web: nothing is kept as db"
    assert first.hint == "keep it: machctl secret set db"
    assert second.message == "secret key of web: /root/key is no file of this host"
    host.secrets.seal("db", b"x")
    host.secrets.there.add("/root/key")
    assert check_machine(declared, observe(host, [declared]), {}) == []


def test_command_of_the_stock_unit_is_kept() -> None:
    declared = machine(secrets=(Secret("key", "file", "/root/key"),))
    host = FakeHost()
    host.files.texts["/usr/lib/systemd/system/systemd-nspawn@.service"] = (
        "[Service]\nExecStart=systemd-nspawn --new %i\n"
    )
    assert observe(host, [declared]).nspawn == "systemd-nspawn --new %i"
    assert observe(host, [machine()]).nspawn == ""


def test_an_archive_of_somebody_brings_no_secrets() -> None:
    assert {"secrets", "binds", "devices", "capabilities", "nesting"} <= set(GIVEN)


@pytest.mark.usefixtures("as_root")
def test_a_secret_that_an_ejected_machine_needs_is_not_forgotten(host: FakeHost) -> None:
    set_secret("token", b"x", host)
    (path,) = host.secrets.stored().values()
    unit = "/etc/systemd/system/systemd-nspawn@web.service.d/50-machctl.conf"
    host.files.texts[unit] = f"[Service]\nLoadCredential=token:{path}\n"
    with pytest.raises(Conflict, match="web has"):
        remove_secrets(["token"], host, force=False)
    remove_secrets(["token"], host, force=True)


OPENER = """#!/bin/sh
test "$1 $2 $3 $4" = "--name=token decrypt - -" || exit 9
sed s/^sealed://
"""


@pytest.fixture
def given(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the unit u.service was given for what is in the store, as it is now."""
    monkeypatch.setattr(kept, "_GIVEN_DIRECTORY", str(store / "run"))
    monkeypatch.setattr(kept, "_CREDS", "/nonexistent/systemd-creds")
    for directory in ("sealed", "plain", "run/u.service"):
        (store / directory).mkdir(parents=True)
    (store / "sealed" / "token").write_text("sealed:old")
    (store / "plain" / "key").write_text("old")
    for name in ("token", "key"):
        (store / "run/u.service" / name).write_text("old")
    return store


def newer(store: Path) -> set[str]:
    files = {"token": str(store / "sealed/token"), "key": str(store / "plain/key"), "not-given": "/etc/hostname"}
    return set().union(*kept.changed({"u.service": files, "other.service": files}).values())


def test_secrets_that_a_unit_was_given_are_compared_with_those_that_are_kept(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as a sealed one is older, nobody opens it.
    assert newer(given) == set()
    (given / "plain/key").write_text("new")
    assert newer(given) == {"key"}
    later = time.time() + 5
    os.utime(given / "sealed/token", (later, later))
    os.utime(given / "run/u.service/token", (1, 1))
    # One that cannot be opened would be given to nobody.
    assert newer(given) == {"key"}
    sealing(given, monkeypatch, OPENER)
    assert newer(given) == {"key"}
    (given / "sealed/token").write_text("sealed:new")
    assert newer(given) == {"key", "token"}
    (given / "sealed/token").unlink()
    assert newer(given) == {"key"}


@pytest.mark.usefixtures("as_root")
def test_a_machine_whose_secret_changed_is_restarted() -> None:
    host = FakeHost()
    host.secrets.kept |= {"db": b""}
    host.secrets.there |= {"/root/key", f"{SEALED_DIRECTORY}/db"}
    declare(host, "web", 'secrets = { db = "credential:db", key = "file:/root/key" }')
    apply(host)
    unit = "systemd-nspawn@web.service"
    host.running = lambda: {"web": unit}  # type: ignore[method-assign]

    def restarts() -> list[str]:
        plan = fleet_plan([], host, verb="plan").plans["web"]
        return [f"{step.kind}: {step.reason}" for step in plan if isinstance(step, steps.RestartMachine)]

    assert restarts() == []
    host.secrets.newer = {"db", "key@file"}
    assert restarts() == ["restart: secret db, secret key changed since it started"]
    host.running = dict  # type: ignore[method-assign]
    assert restarts() == []
