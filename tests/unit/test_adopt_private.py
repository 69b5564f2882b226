# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was in no file, or in one of root's alone, is not for all to read once it is declared."""

from __future__ import annotations

import asyncio
import json

import pytest

from acting import REPORTER, apply, create, declare, web
from fakes import FakeHost
from machines.cli.options import Options
from machines.cli.verbs.adopt import _show
from machines.declare.fleet import own_file
from machines.model.snapshot import Origin
from machines.operations.adopt import adopt_from
from machines.operations.copies import clone, rename
from machines.operations.eject import eject
from machines.plan import steps
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")


def test_password_of_our_own_environment_is_for_root_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = FakeHost()
    monkeypatch.setenv("PW", "hunter2")
    text = json.dumps({"services": {"web": {"image": "nginx", "environment": {"PW": "$PW"}}, "db": {"image": "x"}}})
    host.files.texts["/srv/compose.json"] = text
    done = asyncio.run(adopt_from([], "/srv/compose.json", host, REPORTER, dry_run=False))
    assert [each.inherited for each in done] == [("PW",), ()]
    assert (host.files.modes[own_file("web")], host.files.modes[own_file("db")]) == (0o600, 0o644)
    _show(done, Options(), described=True)
    said = capsys.readouterr().err
    assert f"{own_file('web')} is for root alone" in said
    assert "hunter2" not in said


def test_settings_are_no_more_open_than_what_declares_them() -> None:
    for mode in (0o600, 0o644):
        host = FakeHost()
        declare(host, "web", 'health.exec = "true"', "[machines.web.environment]", 'PW = "hunter2"')
        host.files.modes[own_file("web")] = mode
        apply(host)
        assert "hunter2" in host.files.texts[paths.settings_file("web")]
        for path in (paths.settings_file("web"), paths.dropin_file("web"), paths.probe_file("web")):
            assert host.files.modes[path] == mode, path


def test_what_is_closed_stays_so_by_another_name() -> None:
    host = FakeHost()
    create(host, web("web"))
    host.files.modes[own_file("web")] = 0o600
    host.storage.origin_of_machine = lambda name, storage, **_: Origin(f"/var/lib/machines/{name}", storage, "b", 0)
    copied, _ = asyncio.run(clone("web", "copy", host, REPORTER, dry_run=True))
    said = (own_file("copy"), paths.settings_file("copy"), paths.dropin_file("copy"))
    closed = {step.path for step in copied if isinstance(step, steps.WriteFile) and step.like == own_file("web")}
    assert closed == set(said)
    host.pool.rename = lambda old, new: host.placed.update({new: host.placed.pop(old)._replace(name=new)})
    host.storage.rename_snapshots = lambda old, new: None
    asyncio.run(rename("web", "site", host, REPORTER, dry_run=False))
    for path in (own_file("site"), paths.settings_file("site"), paths.dropin_file("site")):
        assert host.files.modes[path] == 0o600, path
    asyncio.run(eject("site", host, REPORTER, dry_run=False))
    assert host.files.modes[paths.ejected_file("site")] == 0o600
