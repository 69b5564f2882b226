# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whoever is not root is told so where he would be shown less than there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from acting import create, web
from fakes import FakeHost
from machines.cli.options import Options
from machines.cli.verbs.rollout import rollout
from machines.cli.verbs.snapshot import ls
from machines.errors import MachctlError, NotPermitted
from machines.host import secrets
from machines.host.storage import store
from machines.operations.links import list_links
from machines.operations.logs import journal_command
from machines.operations.observe import observe


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directories of images and secrets, as whoever is not root sees them."""

    def refuse(path: str) -> list[Any]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.listdir", refuse)
    monkeypatch.setattr("os.scandir", refuse)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def assert_refused(error: MachctlError) -> None:
    assert error.exit_code == 6
    assert "needs root" in error.message or "need root" in error.message
    assert error.hint == "run it again with sudo"


@pytest.mark.usefixtures("closed")
def test_images_and_secrets_that_cannot_be_seen_are_not_none() -> None:
    for look in (store.bases, secrets.stored):
        with pytest.raises(NotPermitted) as caught:
            look()
        assert_refused(caught.value)


def test_a_look_at_the_host_does_without_images(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, Any]:
        raise NotPermitted("images need root")

    monkeypatch.setattr(host.storage, "bases", refuse)
    assert observe(host).bases == {}


def running(host: FakeHost, name: str) -> Any:
    """A machine that runs on ``host``, into which nobody but root can look."""
    any_host: Any = host
    any_host.registered = lambda: {name: SimpleNamespace(leader=7)}
    any_host.running = lambda: {name: f"systemd-nspawn@{name}.service"}
    any_host.tools.run = lambda argv, *, check: SimpleNamespace(returncode=1, stdout="", stderr="")
    return any_host


@pytest.mark.usefixtures("as_root", "seen")
def test_links_of_what_runs_are_not_missing(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    create(host, web(publish=()))
    stopped = list_links(["web"], host)
    assert {row["state"] for row in stopped} == {"stopped"}
    # It may have ended meanwhile.
    assert {row["state"] for row in list_links(["web"], running(host, "web"))} == {"missing"}
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotPermitted, match="web") as caught:
        list_links(["web"], host)
    assert_refused(caught.value)


@pytest.mark.usefixtures("user")
def test_journals_of_machines_need_root(host: FakeHost) -> None:
    with pytest.raises(NotPermitted, match="web") as caught:
        journal_command("web", running(host, "web"), [])
    assert_refused(caught.value)


@pytest.mark.usefixtures("user")
def test_snapshots_and_rollouts_that_cannot_be_seen_are_not_none(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.cli.verbs.snapshot.RealHost", lambda: host)
    monkeypatch.setattr("machines.cli.verbs.rollout.host_of", lambda file: host)
    context: Any = SimpleNamespace(obj=Options())
    for look in (lambda: ls(context, None), lambda: rollout(context, ["status"], None, False, 10.0, None)):
        with pytest.raises(NotPermitted) as caught:
            look()
        assert_refused(caught.value)
