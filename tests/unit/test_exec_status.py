# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machctl exec ends with where it is not the command's own status."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from acting import declare
from fakes import FakeHost
from machines.cli import wire
from machines.cli.verbs import enter as verb
from machines.errors import CommandFailed, MachctlError, NotFound, NotRunning, TimedOut, Unsupported
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
