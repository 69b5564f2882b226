# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machctl exec and run end with where it is not the command's own status."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from acting import declare
from fakes import FakeHost
from machines.cli import wire
from machines.cli.options import Options
from machines.cli.verbs import enter as verb
from machines.cli.verbs import run as run_verb
from machines.errors import CommandFailed, InvalidValue, MachctlError, NotFound, NotRunning, TimedOut, Unsupported
from machines.host.bus import guest


@pytest.fixture(autouse=True)
def _declared(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ka-1", "ka-2", "web"):
        declare(host, name)
    monkeypatch.setattr(wire, "RealHost", lambda: host)


def status(name: str) -> int:
    context: Any = SimpleNamespace(obj=SimpleNamespace(timeout=None))
    with pytest.raises(MachctlError) as caught:
        verb.exec_(context, name, ["true"], user=None, setenv=[], directory=None, tty=False)  # type: ignore[arg-type]
    return caught.value.exit_code


def failing(error: MachctlError) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("name", "wanted"), [("web", 3), ("w*", 3), ("nosuch", 4), ("nosuch*", 4), ("ka-*", 2), ("a b", 2)]
)
def test_a_pattern_is_as_the_name(name: str, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "exec_in", failing(NotRunning("machine is not running")))
    assert status(name) == wanted


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (NotFound("there is no user x"), 125),
        (CommandFailed("no answer"), 125),
        (CommandFailed("no command", exit_code=127), 127),
        (CommandFailed("not executable", exit_code=126), 126),
        (TimedOut("took longer"), 124),
    ],
)
def test_failures_of_machctl_are_told_from_those_of_the_command(
    error: MachctlError, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "exec_in", failing(error))
    assert status("web") == wanted


def test_they_are_in_a_machine_without_an_init_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "exec_in", failing(Unsupported("machine web has no system bus")))
    monkeypatch.setattr(verb, "_enter", lambda *_, **__: None)
    assert status("web") == 125
    monkeypatch.setattr(verb, "_enter", failing(NotFound("there is no user x in machine web")))
    assert status("web") == 125
    monkeypatch.setattr(verb, "_enter", failing(NotRunning("machine web has ended")))
    assert status("web") == 3


def status_of_run(host: FakeHost, monkeypatch: pytest.MonkeyPatch, making: Any, running: Any) -> int:
    async def make(*_: object, **__: object) -> None:
        making()

    def read(host: FakeHost) -> dict[str, Any]:
        return {"job": SimpleNamespace(payload=None)}

    for name, value in {
        "RealHost": lambda: host, "_catch": lambda timeout: None, "_making": make, "read_records": read,
        "_run": running, "_remove": lambda name, host: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(run_verb, name, value)
    context: Any = SimpleNamespace(obj=Options())
    with pytest.raises(MachctlError) as caught:
        run_verb.run_(
            context, "debian", ["true"], bridge=[], publish=[], bind=[], package=[],
            memory=None, cpus=None, name="job", user=None, keep=False,  # type: ignore[arg-type]
        )  # fmt: skip
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (InvalidValue("no source"), 2),
        (NotFound("no image"), 4),
        (CommandFailed("no answer"), 125),
        (TimedOut("took longer"), 124),
    ],
)
def test_what_run_is_to_make_a_machine_of_is_as_exec_has_it(
    error: MachctlError, wanted: int, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_of_run(host, monkeypatch, failing(error), failing(CommandFailed("not reached"))) == wanted


def test_what_is_missing_in_a_machine_that_was_made_is_machctls_own_failure(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_of_run(host, monkeypatch, lambda: None, failing(NotFound("there is no user x"))) == 125
    assert status_of_run(host, monkeypatch, lambda: None, failing(CommandFailed("no command", exit_code=127))) == 127
