# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that the files no longer have go when that is asked for; those made of something else are made anew."""

from __future__ import annotations

import asyncio

import pytest

from acting import REPORTER, Once, create, declare, web
from keeping import PRUNE, PURGE, RECREATE, applied, forget, made, planned
from machines.cli.verbs.fleet import _say_kept
from machines.declare.fleet import own_file
from machines.errors import Conflict, NotFound
from machines.model.observed import Record
from machines.operations import fleetplan
from machines.operations.copies import clone, restore
from machines.operations.fleetplan import PLAIN
from machines.operations.garbage import collect_garbage
from machines.operations.inspect import require
from machines.operations.records import read_records
from machines.operations.remove import remove
from machines.plan.kinds import kind_of_plan
from machines.plan.steps import RemoveFile, RemoveTree, TakeSnapshot

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(autouse=True)
def _seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.lexists", lambda path: path.startswith("/var/lib/machines/"))


def test_what_is_no_longer_declared_is_said_and_left_alone() -> None:
    host = made("web", "old")
    forget(host, "old")
    found = planned(host)
    assert found.undeclared == ("old",)
    assert found.pruned == ()
    assert not any(found.plans.values())


def test_prune_takes_it_away_and_keeps_its_tree_as_a_snapshot() -> None:
    host = made("web", "old")
    forget(host, "old")
    plan = planned(host, PRUNE).plans["old"]
    assert kind_of_plan(plan) == "remove"
    assert [type(step) for step in plan if isinstance(step, (TakeSnapshot, RemoveTree))] == [TakeSnapshot, RemoveTree]
    assert applied(host, PRUNE) == {}
    assert set(host.placed) == {"web"}
    assert list(host.storage.snapshots) == ["old"]
    assert read_records(host)["old"] == Record("old", intent="pruned")
    assert planned(host, PRUNE).undeclared == ()
    # It is no garbage, and its name is not free as long as they are there.
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert list(host.storage.snapshots) == ["old"]
    with pytest.raises(Conflict, match="snapshots of an earlier old") as caught:
        create(host, web("old", publish=()))
    assert "declare it again" in caught.value.hint
    assert "machctl rm old removes them" in caught.value.hint


def test_what_brings_it_back_is_said() -> None:
    host = made("web", "old")
    forget(host, "old")
    applied(host, PRUNE)
    ((kept, _),) = host.storage.snapshots["old"].items()
    way = f"declare it again, then: machctl apply old && machctl restore old {kept}"
    with pytest.raises(NotFound, match="old was pruned") as caught:
        asyncio.run(restore("old", kept, host, REPORTER, dry_run=False))
    assert way in caught.value.hint
    with pytest.raises(NotFound, match="no machine old") as caught:
        require(["old"], host)
    assert way in caught.value.hint
    with pytest.raises(NotFound) as caught:
        require(["none"], host)
    assert "machctl list" in caught.value.hint
    with pytest.raises(NotFound, match="old was pruned"):
        asyncio.run(clone("old", "back", host, REPORTER, snapshot=kept))
    with pytest.raises(NotFound, match="no machine nosuch with a tree"):
        asyncio.run(restore("nosuch", kept, host, REPORTER, dry_run=False))


def test_prune_says_what_brings_it_back(capsys: pytest.CaptureFixture[str]) -> None:
    host = made("web", "old", "older")
    forget(host, "old")
    _say_kept({"old": planned(host, PRUNE).plans["old"]})
    said = capsys.readouterr().err
    assert "old: its tree is kept as snapshot pruned-" in said
    assert "machctl restore old pruned-" in said
    forget(host, "older")
    plans = planned(host, PRUNE).plans
    _say_kept({name: plans[name] for name in ("old", "older")})
    assert "old, older: their trees are kept as snapshots" in capsys.readouterr().err
    _say_kept({"old": planned(host, PURGE).plans["old"]})
    assert capsys.readouterr().err == ""


def test_one_that_is_declared_again_has_its_snapshots() -> None:
    host = made("web", "old")
    text = host.files.texts[own_file("old")]
    forget(host, "old")
    applied(host, PRUNE)
    host.files.texts[own_file("old")] = text
    assert applied(host, PLAIN) == {}
    assert set(host.placed) == {"web", "old"}
    assert list(host.storage.snapshots) == ["old"]
    assert read_records(host)["old"].intent == ""


def test_purge_keeps_nothing() -> None:
    host = made("web", "old")
    forget(host, "old")
    assert applied(host, PURGE) == {}
    assert set(host.placed) == {"web"}
    assert host.storage.snapshots == {}
    assert "old" not in read_records(host)


def test_what_prune_left_goes_by_rm() -> None:
    host = made("web", "old")
    forget(host, "old")
    applied(host, PRUNE)
    asyncio.run(remove("old", host, REPORTER, force=False, dry_run=False))
    assert host.storage.snapshots == {}
    assert "old" not in read_records(host)


@pytest.mark.parametrize("at", range(9))
def test_a_prune_that_was_killed_is_finished_by_the_next(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    host = made("web", "old")
    forget(host, "old")
    count = iter(range(100))

    def killed(step: object, *_: object) -> None:
        if next(count) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(REPORTER, "step", killed)
    try:
        applied(host, PRUNE)
    except KeyboardInterrupt:
        monkeypatch.undo()
        monkeypatch.setattr("os.path.lexists", lambda path: path.startswith("/var/lib/machines/"))
        asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
        applied(host, PRUNE)
    assert set(host.placed) == {"web"}
    assert list(host.storage.snapshots) == ["old"]
    assert read_records(host)["old"] == Record("old", intent="pruned")


def test_machines_of_other_files_and_of_others_are_not_pruned() -> None:
    host = made("web", "old")
    settings = "/etc/systemd/nspawn/old.nspawn"
    host.files.texts[settings] = host.files.texts[settings].replace(own_file("old"), "/root/fleet.toml")
    forget(host, "old")
    assert planned(host, PRUNE).undeclared == ()


def test_a_name_pattern_or_a_chosen_machine_prunes_nothing() -> None:
    host = made("web", "old")
    forget(host, "old")
    assert fleetplan.fleet_plan(["web"], host, verb="plan", wishes=PRUNE).pruned == ()


def test_another_source_is_said_and_done_only_when_asked_for() -> None:
    host = made("web")
    declare(host, "web", 'bridges = ["br0"]', source="debian:bookworm")
    found = planned(host)
    assert not any(found.plans.values())
    assert "source changed" in found.notes["web"]
    plan = planned(host, RECREATE).plans["web"]
    assert {step.kind for step in plan} == {"recreate"}
    assert applied(host, RECREATE) == {}
    assert read_records(host)["web"].made["source"] == "debian:bookworm"
    assert [name.split("-")[0] for name in host.storage.snapshots["web"]] == ["recreated"]
    assert host.done.count("make debian:bookworm") == 1
    assert not any(planned(host, RECREATE).plans.values())
    assert planned(host).notes == {}


def test_no_link_to_the_journal_of_the_old_tree_stays() -> None:
    host = made("web")
    link = "/var/log/journal/0123"
    host.facts.journal_links = lambda trees: {tree.name: link for tree in trees}
    declare(host, "web", 'bridges = ["br0"]', source="debian:bookworm")
    plan = planned(host, RECREATE).plans["web"]
    kinds = [type(step) for step in plan]
    assert link in [step.path for step in plan if isinstance(step, RemoveFile)]
    # While the tree is there that it leads to: without one it is not found.
    assert kinds.index(RemoveFile) < kinds.index(RemoveTree)


def test_a_snapshot_of_the_same_second_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that was killed has taken it, and the next one came at once.
    monkeypatch.setattr("time.strftime", lambda form: form.partition("%")[0] + "now")
    host = made("web", "old")
    forget(host, "old")
    for source in ("bookworm", "sid", "trixie"):
        declare(host, "web", 'bridges = ["br0"]', source=f"debian:{source}")
        assert applied(host, RECREATE) == {}
    assert list(host.storage.snapshots["web"]) == ["recreated-now", "recreated-now.2", "recreated-now.3"]


def test_a_recreate_that_failed_is_begun_again() -> None:
    host = made("web")
    declare(host, "web", 'bridges = ["br0"]', source="debian:bookworm")
    host.failing = Once("copy web", iter([True]))  # type: ignore[assignment]
    assert set(applied(host, RECREATE)) == {"web"}
    assert applied(host, PLAIN) == {}
    assert set(host.placed) == {"web"}
    assert read_records(host)["web"].made["source"] == "debian:bookworm"
    assert not any(planned(host, RECREATE).plans.values())
