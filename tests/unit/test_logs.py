# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which journal is read for a machine."""

from __future__ import annotations

import pytest

from acting import create, web
from fakes import FakeHost
from machines.errors import NotFound
from machines.model.base import Payload
from machines.model.source import parse_source
from machines.operations.logs import journal_command, without_init

pytestmark = pytest.mark.usefixtures("as_root", "seen")


@pytest.fixture
def alone(host: FakeHost) -> frozenset[str]:
    """Two machines, of which web has no init."""
    create(host, web("db", publish=()))
    host.maker.payload = Payload(command=("serve",))
    create(host, web(source=parse_source("oci:/srv/image")))
    return without_init(host)


def test_without_an_init_it_is_the_hosts(host: FakeHost, alone: frozenset[str]) -> None:
    wanted = ["journalctl", "_SYSTEMD_UNIT=systemd-nspawn@web.service", "--lines=3"]
    # What it printed is there when it has ended, too.
    assert journal_command("web", host, ["--lines=3"], alone=alone) == wanted


def test_with_one_it_is_the_machines(host: FakeHost, alone: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "running", lambda: {"db": "systemd-nspawn@db.service"})
    assert journal_command("db", host, ["--lines=3"], alone=alone) == ["journalctl", "--machine=db", "--lines=3"]


def test_without_an_init_there_are_no_units(host: FakeHost, alone: frozenset[str]) -> None:
    with pytest.raises(NotFound, match="machine web has no units"):
        journal_command("web", host, ["--unit=nginx"], alone=alone)
