# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory, and being root of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import fakehealth
from acting import see
from fakes import FakeHost
from machines.render import paths


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(paths, "LOG_DIRECTORY", str(tmp_path / "log"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def host() -> FakeHost:
    """A host on which nothing has been done."""
    return FakeHost()


@pytest.fixture
def seen(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees of ``host`` are there."""
    see(host, monkeypatch)


@pytest.fixture
def its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as late as it is on the host that fakehealth gave last."""
    monkeypatch.setattr("time.time", lambda: fakehealth.clock.now + fakehealth.clock.ahead)
    monkeypatch.setattr("time.monotonic", lambda: fakehealth.clock.now)
