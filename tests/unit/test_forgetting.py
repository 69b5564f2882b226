# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of a copy of a machine that forgets what it changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from acting import create, web
from fakes import FakeHost
from machines.cli.verbs import copies, snapshot, transfer
from machines.model.difference import Contents
from machines.model.machine import Machine
from machines.model.snapshot import Snapshot
from machines.operations.changes import changes
from machines.operations.forgetting import as_it_was, not_kept
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")

CHANGED = "what it changed since it was started"


def running(made: Machine, *, storage: str = "copy") -> FakeHost:
    host = FakeHost()
    host.storage.driver = storage
    create(host, made)
    host.running = lambda: {made.name: f"systemd-nspawn@{made.name}.service"}  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize("storage", ["copy", "btrfs", "overlay"])
def test_what_an_ephemeral_machine_changes_is_in_no_copy_of_it(storage: str) -> None:
    host = running(web(ephemeral=True), storage=storage)
    assert not_kept("web", host) == CHANGED
    assert as_it_was("web", host) == f", without {CHANGED}"
    host.running = dict  # type: ignore[method-assign]
    assert as_it_was("web", host) == ""


@pytest.mark.parametrize(
    ("volatile", "missing"),
    [("", ""), ("yes", CHANGED), ("overlay", CHANGED), ("state", "what it changed in /var since it was started")],
)
def test_what_a_volatile_machine_changes_is_in_no_copy_of_it(volatile: str, missing: str) -> None:
    host = running(web(volatile=volatile))
    assert not_kept("web", host) == missing
    assert as_it_was("web", host) == (f", without {missing}" if missing else ", as it was while running")


def test_what_counts_is_what_it_was_started_with() -> None:
    host = running(web(ephemeral=True))
    host.files.texts[paths.started("web", paths.settings_file("web"))] = "[Exec]\n"
    assert as_it_was("web", host) == ", as it was while running"


def test_the_verbs_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    host = running(web(ephemeral=True))
    context = SimpleNamespace(obj=SimpleNamespace(dry_run=False, quiet=False, timeout=None, output="table"))
    taken = Snapshot("web", "s", 0.0, "copy", "", None, "")
    for verbs, done in ((copies, ([], [])), (snapshot, taken), (transfer, None)):
        monkeypatch.setattr(verbs, "RealHost", lambda: host)
        monkeypatch.setattr(verbs, "Progress", lambda options: SimpleNamespace(clear=lambda: None))
        monkeypatch.setattr(verbs, "run", lambda work, done=done, **_: work.close() or done)
    copies.clone(context, "web", "two", "new", "", False, "")
    snapshot.create(context, "web", "s", "")
    transfer.export(context, "web", "/a.tar", "tar")
    assert capsys.readouterr().err.splitlines() == [
        f"cloned two from web, without {CHANGED}",
        f"took snapshot s of web, without {CHANGED}; to go back to it: machctl restore web s",
        f"exported web to /a.tar, without {CHANGED}",
    ]


def test_a_difference_says_what_is_not_compared() -> None:
    host = running(web(ephemeral=True))
    host.placed["web"] = host.placed["web"]._replace(path="/")
    host.contents = lambda tree, shift: Contents()
    found = changes("web", host, before=None, after=None)
    assert found.unread == ("what web changed since it was started, which it forgets when it stops",)
    host.running = dict  # type: ignore[method-assign]
    assert changes("web", host, before=None, after=None).unread == ()
