# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machctl rollout says of changes that are no rollout, and of what would do again what was undone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from acting import declare
from keeping import made
from machines.cli.options import Options
from machines.cli.verbs import rollout
from machines.operations import rollout as operation
from machines.operations.standin import How
from machines.plan.kinds import LIVE, RESTART
from machines.plan.steps import ReloadUnits, StartMachine

BRIDGE = 'bridges = ["br0"]'

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(autouse=True)
def _seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.lexists", lambda path: path.startswith("/var/lib/machines/"))


def test_what_is_made_live_is_no_rollout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def operate(name: str, host: Any, progress: rollout.Progress, how: How) -> dict[str, str]:
        progress.step(ReloadUnits(reason="", machine="web-1"))
        progress.ended("web-1", None)
        progress.step(StartMachine(reason="", machine="web-2", name="web-2-next"))
        progress.ended("web-2", None)
        return {"web-1": LIVE, "web-2": RESTART}

    monkeypatch.setattr(operation, "rollout", operate)
    host: Any = SimpleNamespace()
    rollout._rollout("web", host, Options(), How())
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("web-1: changed in ")
    assert second.startswith("web-2: rolled out in ")
    assert third.startswith("web-1: made live, without a stand-in; there is nothing for rollout undo")


@pytest.mark.parametrize(
    ("lines", "source", "says", "not_says"),
    [
        (
            (BRIDGE,),
            "debian:bookworm",
            "machctl rollout web, or machctl apply --recreate web, does it again\n",
            "the next",
        ),
        (('memory = "1G"',), "debian", "or the next machctl apply does it again (machctl plan web)\n", "--recreate"),
        (
            ('memory = "1G"',),
            "debian:bookworm",
            "does it again; of what needs no new tree, the next machctl apply",
            "nothing",
        ),
        (("memory = 1",), "debian", "the next machctl apply does it again", "--recreate"),
    ],
)
def test_what_does_again_what_was_undone(
    lines: tuple[str, ...], source: str, says: str, not_says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host: Any = made("web")
    declare(host, "web", *lines, source=source)
    rollout._say_declared("web", ["web"], host)
    said = capsys.readouterr().err
    assert said.startswith("web: the files still say what was undone; correct them, or ")
    assert says in said
    assert not_says not in said


def test_nothing_is_said_of_files_that_say_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    host: Any = made("web")
    rollout._say_declared("web", ["web"], host)
    assert capsys.readouterr().err == ""
