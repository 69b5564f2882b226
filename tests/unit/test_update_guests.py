# SPDX-License-Identifier: LGPL-2.1-or-later
"""What updates hear of guests, which may say anything for ever; and killed updates that gc finds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from keeping import made
from machines.cli.options import Options
from machines.cli.verbs import fleet
from machines.cli.words import Exit
from machines.errors import CommandFailed, Conflict, InvalidFile, MachctlError, NotRunning
from machines.host.inside import _PART, _CutLines
from machines.host.loop import looped
from machines.model.machine import Bind
from machines.model.update import UPGRADING, Update, write_update
from machines.operations import applying, packages, update
from machines.operations.garbage import collect_garbage
from machines.operations.observe import observe
from machines.operations.reporter import Reporter
from machines.render import paths
from samples import machine


def guest(speak: Callable[[Callable[[str], None]], None], *, ends: bool) -> FakeHost:
    """A host with a machine whose commands say what ``speak`` does."""

    async def run_inside(name: str, argv: list[str], *, env: object, on_line: Callable[[str], None]) -> int:
        speak(on_line)
        if not ends:
            await asyncio.Event().wait()
        return 0

    host = FakeHost()
    host.upkeep = SimpleNamespace(run_inside=run_inside, looped=looped)
    return host


def run(host: Any, **values: Any) -> list[str]:
    return asyncio.run(packages.run_script("web", "x", host, what="look", **values))


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("line", "count"), [("x", packages._LINES_MAX + 1), ("x" * 2**20, 9)])
def test_one_that_says_too_much_is_ended(ends: bool, line: str, count: int) -> None:
    heard: list[str] = []

    def speak(on_line: Callable[[str], None]) -> None:
        for _ in range(count):
            on_line(line)

    with pytest.raises(CommandFailed, match="could not look: it said more than"):
        run(guest(speak, ends=ends), on_line=heard.append)
    assert len(heard) == count - 1
    assert run(guest(speak, ends=True), talkative=True) == []


def test_one_that_takes_for_ever_is_ended() -> None:
    with pytest.raises(CommandFailed, match="longer than 0 seconds") as raised:
        run(guest(lambda on_line: on_line("so far"), ends=False), limit=0.01)
    assert raised.value.hint == "so far"


def test_one_that_says_what_it_should_is_heard() -> None:
    assert run(guest(lambda on_line: on_line("a\tb"), ends=True)) == ["a b"]


def test_line_without_an_end_is_cut() -> None:
    lines = _CutLines()
    assert lines.feed(b"x" * _PART) == []
    assert lines.feed(b"y") == ["x" * _PART + "y"]
    assert lines.feed(b"z\n") == ["z"]
    assert lines.end() == []


def test_one_that_has_ended_is_no_fault_of_machctl() -> None:
    host: Any = FakeHost()
    with pytest.raises(NotRunning, match="web does not run any more"):
        packages.manager_of("web", host)


class Heard(Reporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_gc_leaves_a_machine_that_was_started_since_its_update_was_killed() -> None:
    host: Any = FakeHost()
    record = paths.update_record("web")
    host.files.write_file(record, write_update(Update("web", UPGRADING, "s", running=True, at=time.time(), since=5)))
    host.registered = lambda: {"web": SimpleNamespace(unit="systemd-nspawn@web.service", leader=7, since_usec=6)}
    reporter = Heard()
    assert asyncio.run(update.finish_updates(host, reporter, dry_run=False)) == ([], {})
    assert "machctl update --interrupted undo web" in reporter.warnings[0]
    assert host.files.read_text(record)
    host.registered = lambda: {"web": SimpleNamespace(unit="systemd-nspawn@web.service", leader=7, since_usec=5)}
    # It is gone about, and there is no tree to bring back here.
    assert "has no tree now" in asyncio.run(update.finish_updates(host, reporter, dry_run=False))[1]["web"].message
    assert host.files.read_text(record)


def killed(**values: Any) -> Any:
    """A host on which an update was killed and whose machine has been started since."""
    host: Any = made("web")
    given = {"running": True, "at": time.time(), "since": 5, **values}
    host.files.write_file(paths.update_record("web"), write_update(Update("web", UPGRADING, "s", **given)))
    host.registered = lambda: {"web": SimpleNamespace(unit="systemd-nspawn@web.service", leader=7, since_usec=6)}
    return host


@pytest.mark.usefixtures("as_root")
def test_update_leaves_what_has_served_since_the_one_before_was_killed_to_whoever_says_so() -> None:
    host, reporter = killed(), Heard()
    for dry_run in (False, True):
        with pytest.raises(Conflict, match="would be lost") as raised:
            asyncio.run(update.update("web", host, reporter, dry_run=dry_run))
        assert "--interrupted keep web" in raised.value.hint
        assert host.files.read_text(paths.update_record("web"))
    wishes = update.PLAIN._replace(interrupted=update.UNDO)
    with pytest.raises(Conflict, match="has no snapshot s now"):
        asyncio.run(update.update("web", host, reporter, wishes))
    keep = update.PLAIN._replace(interrupted=update.KEEP)
    assert not asyncio.run(update._finish_former("web", host, reporter, keep, dry_run=False))
    assert host.files.read_text(paths.update_record("web")) is None


@pytest.mark.usefixtures("as_root")
def test_gc_and_apply_end_with_what_could_not_be_taken_back_and_do_all_else() -> None:
    host = killed()
    host.registered = dict
    host.files.texts["/tmp/left"] = ""
    host.files.abandoned = lambda: [path for path in ("/tmp/left",) if path in host.files.texts]
    with pytest.raises(MachctlError, match="update of web cannot be taken back: web has no snapshot s now"):
        asyncio.run(collect_garbage(host, Heard(), dry_run=False))
    assert "/tmp/left" not in host.files.texts
    host.files.texts["/tmp/left"] = ""
    _, failed = asyncio.run(applying.apply([], host, Heard()))
    assert "cannot be taken back" in failed["web"].message
    assert "/tmp/left" not in host.files.texts


def test_directories_are_not_kept_while_nobody_knows_who_else_writes_there() -> None:
    host: Any = FakeHost()
    host.files.write_file(host.declarations[0].replace("*", "other"), "what = ")
    with pytest.raises(InvalidFile) as raised:
        update._volumes(machine(binds=(Bind("/srv/a", "/a"),)), observe(host), host)
    assert "--no-volumes web" in raised.value.hint
    assert update._volumes(machine(), observe(host), host) == ((), {})


@pytest.mark.usefixtures("as_root")
def test_gc_ends_with_the_error_where_something_could_not_be_taken_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = killed()
    host.registered = dict
    monkeypatch.setattr(fleet, "RealHost", lambda: host)
    with pytest.raises(Exit) as raised:
        fleet.gc(SimpleNamespace(obj=Options()))
    assert raised.value.code == Conflict.exit_code
    assert "the update of web cannot be taken back" in capsys.readouterr().err
