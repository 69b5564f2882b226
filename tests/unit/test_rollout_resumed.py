# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rollouts that ended in their middle, and what is made of them later."""

from __future__ import annotations

import asyncio

import pytest

from acting import REPORTER, create, declare, web
from fakes import FakeHost
from keeping import forget, made
from machines.declare.fleet import own_file
from machines.errors import Conflict, MachctlError
from machines.model.names import machine_unit
from machines.model.rollout import (
    DONE,
    REPLACING,
    RETURNING,
    TRYING,
    UNDONE,
    Before,
    Generation,
    Rollout,
    write_rollout,
)
from machines.model.snapshot import Snapshot
from machines.operations.copies import restore
from machines.operations.fleetplan import Wishes
from machines.operations.observe import observe
from machines.operations.reporter import Reporter
from machines.operations.rolling import Rolling
from machines.operations.rollout import _check_unchanged, members, rollout, take_up, undo
from machines.operations.standin import How, kept_tree, read_state
from machines.plan import rollout as parts
from machines.plan import steps
from machines.plan.kinds import RECREATE
from machines.plan.steps import Plan
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")


def interrupted(phase: str) -> FakeHost:
    host = made("web")
    record = host.files.texts[paths.machine_record("web")]
    state = Rollout("web", phase=phase, current=Generation(1, "", Before({}, record)))
    host.files.texts[paths.rollout_file("web")] = write_rollout(state)
    host.running = lambda: {"web-next": machine_unit("web-next")}  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize("phase", [REPLACING, RETURNING])
def test_one_that_is_no_longer_declared_is_ended(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(phase)
    why: list[str] = []
    forget(host, "web")

    async def restore(_: Rolling, before: Before, reason: str) -> Plan:
        why.append(reason)
        return []

    monkeypatch.setattr(Rolling, "_restore", restore)
    assert asyncio.run(take_up(["web"], host, REPORTER, How())) == ["web"]
    state = read_state("web", host)
    assert not state.unfinished
    if phase == REPLACING:
        assert state.phase == UNDONE
        assert "no longer declared" in why[0]
    else:
        assert why == []


def test_one_that_had_touched_nothing_is_not_told_of_as_a_machine_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(TRYING)
    reporter, said, ended = Reporter(), list[str](), list[str]()
    monkeypatch.setattr(reporter, "warn", said.append)
    monkeypatch.setattr(reporter, "ended", lambda name, _: ended.append(name))
    asyncio.run(take_up(["web"], host, reporter, How()))
    assert ended == []
    assert said == ["the rollout of web was interrupted before that was touched; its stand-in is gone"]


def test_one_of_a_file_goes_on_by_that_file(monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(REPLACING)
    host.files.texts["/srv/lab.toml"] = host.files.texts[own_file("web")]
    state = read_state("web", host)._replace(file="/srv/lab.toml")
    host.files.texts[paths.rollout_file("web")] = write_rollout(state)
    forget(host, "web")
    seen: list[bool] = []

    async def replaced(rolling: Rolling, wishes: Wishes) -> None:
        seen.append(rolling._declared())

    async def undo(rolling: Rolling, why: str) -> None:
        seen.append(False)

    monkeypatch.setattr(Rolling, "_replaced", replaced)
    monkeypatch.setattr(Rolling, "_undo", undo)
    usual = host.declarations
    asyncio.run(take_up(["web"], host, REPORTER, How()))
    assert seen == [True]
    assert host.declarations == usual
    del host.files.texts["/srv/lab.toml"]
    asyncio.run(take_up(["web"], host, REPORTER, How()))
    assert seen == [True, False]


def test_a_base_that_nobody_knows_again_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(REPLACING)
    host.files.texts[own_file("web")] = '[machines.web]\nsource = "dir:/srv/tree"\n'
    host.maker.identities["dir:/srv/tree"] = None
    state = read_state("web", host)._replace(kind=RECREATE)
    host.files.texts[paths.rollout_file("web")] = write_rollout(state)
    plans: list[Plan] = []

    async def do(_: Rolling, plan: Plan) -> None:
        plans.append(plan)

    async def done(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr(Rolling, "_do", do)
    for name in ("_answering", "_ready", "_finish"):
        monkeypatch.setattr(Rolling, name, done)
    asyncio.run(take_up(["web"], host, REPORTER, How()))
    (base,) = [base for base in host.storage.bases().values() if str(base.source) == "dir:/srv/tree"]
    trees = [step.base for plan in plans for step in plan if isinstance(step, steps.MakeTree)]
    assert trees == [base.id]
    assert not [step for plan in plans for step in plan if isinstance(step, steps.MakeBase)]


def test_one_that_cannot_be_gone_on_with_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(REPLACING)
    host.files.texts[own_file("web")] = '[machines.web]\nsource = "tar:/srv/web.tar"\n'
    host.files.texts[paths.rollout_file("web")] = write_rollout(read_state("web", host)._replace(kind=RECREATE))
    host.maker.fails = True
    why: list[str] = []

    async def undone(_: Rolling, reason: str) -> None:
        why.append(reason)

    monkeypatch.setattr(Rolling, "_undo", undone)
    with pytest.raises(MachctlError, match="web is as before again"):
        asyncio.run(take_up(["web"], host, REPORTER, How()))
    assert len(why) == 1


def test_nothing_to_do_needs_no_bases_of_others() -> None:
    host = made("web")
    declare(host, "other")
    host.maker.requests.clear()
    assert asyncio.run(rollout("web", host, REPORTER, How())) == {}
    assert host.maker.requests == []


def test_an_edit_during_a_rollout_ends_it() -> None:
    host = made("web")
    (machine,) = members("web", host)
    _check_unchanged(machine, host)
    host.files.texts[own_file("web")] += 'memory = "1G"\n'
    _check_unchanged(machine, host)
    host.files.texts[own_file("web")] = '[machines.web]\nsource = "arch"\n'
    with pytest.raises(Conflict, match="web was edited meanwhile"):
        _check_unchanged(machine, host)
    forget(host, "web")
    with pytest.raises(Conflict):
        _check_unchanged(machine, host)


def test_what_the_ports_need_is_done_while_the_stand_in_is_still_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    host = interrupted(REPLACING)
    host.files.texts[paths.redirect_file("web")] = "rules\n"
    unit = "machctl-port-web_8080.service"
    seen: list[tuple[str, bool]] = []

    async def restore(_: Rolling, before: Before, reason: str) -> Plan:
        return [steps.StopUnit(reason="", machine="web", unit=unit)]

    async def stop(unit: str) -> None:
        seen.append((unit, paths.redirect_file("web") in host.files.texts))

    forget(host, "web")
    monkeypatch.setattr(Rolling, "_restore", restore)
    monkeypatch.setattr(host.jobs, "stop", stop)
    asyncio.run(take_up(["web"], host, REPORTER, How()))
    assert seen == [(unit, True)]
    assert paths.redirect_file("web") not in host.files.texts


def rolled(snapshot: str = "rollout-20260101-000000") -> FakeHost:
    """A host on which a machine was rolled out with another tree."""
    host = interrupted(DONE)
    state = read_state("web", host)
    assert state.current.before is not None
    before = state.current.before._replace(snapshot=snapshot)
    state = state._replace(current=state.current._replace(before=before))
    host.files.texts[paths.rollout_file("web")] = write_rollout(state)
    for name in ("mine", snapshot):
        host.storage.snapshots.setdefault("web", {})[name] = Snapshot("web", name, 1.0, "btrfs")
    return host


def test_undo_leaves_a_tree_alone_that_was_restored_since(monkeypatch: pytest.MonkeyPatch) -> None:
    host = rolled()
    host.running = dict  # type: ignore[method-assign]
    host.storage.stage_restored = host.storage.exchange_restored = lambda *_, **__: None
    back: list[str] = []

    async def noted(*_: object, **__: object) -> None:
        back.append("web")

    async def done(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr("machines.operations.tree.restore_tree", done)
    monkeypatch.setattr(Rolling, "_move", noted)
    monkeypatch.setattr(Rolling, "_replaced", done)
    monkeypatch.setattr(parts, "check_rollout", lambda *_: [])
    asyncio.run(restore("web", "mine", host, REPORTER, dry_run=False, keep=False))
    with pytest.raises(Conflict, match="restored from snapshot mine since its rollout") as raised:
        asyncio.run(undo("web", host, REPORTER, How()))
    assert "--force web" in raised.value.hint
    assert back == []
    assert read_state("web", host).phase == DONE
    assert asyncio.run(undo("web", host, REPORTER, How(force=True))) == ["web"]
    assert back == ["web"]
    assert read_state("web", host).restored == ""


def test_restore_notes_nothing_where_no_undo_would_change_the_tree() -> None:
    host = rolled(snapshot="")
    assert parts.plan_restored("web", "mine", host.files.texts) == []
    assert parts.plan_restored("db", "mine", host.files.texts) == []


def test_what_another_was_given_while_the_stand_in_was_made_is_not_put_back() -> None:
    host = interrupted(DONE)
    create(host, web("db", publish=()))
    before = read_state("web", host).current.before
    assert before is not None
    other = paths.machine_record("db")
    taken = before._replace(record=host.files.texts[other].replace('"db"', '"web"'))
    files = dict(host.files.texts)
    with Rolling("web", host, REPORTER, How()) as rolling, pytest.raises(Conflict, match="machine db has its address"):
        asyncio.run(rolling._restore(taken, "asked for"))
    assert host.files.texts == files


def test_what_is_given_up_by_an_undo_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    host = rolled()
    said: list[str] = []
    # Somebody has undone another rollout in the same second.
    monkeypatch.setattr("time.strftime", lambda form: form.partition("%")[0] + "now")
    for name in ("rollout-20250101-000000", "undone-now"):
        host.storage.snapshots["web"][name] = Snapshot("web", name, 1.0, "btrfs")
    del host.storage.snapshots["web"]["mine"]

    async def move(*_: object, **__: object) -> None:
        return

    async def restore(rolling: Rolling, before: Before, reason: str) -> Plan:
        return kept_tree(rolling._state, observe(host), host)

    monkeypatch.setattr(parts, "check_rollout", lambda *_: [])
    monkeypatch.setattr(Rolling, "_move", move)
    monkeypatch.setattr(Rolling, "_restore", restore)
    host.storage.remove_snapshot = lambda snapshot: host.storage.snapshots["web"].pop(snapshot.name)
    reporter = Reporter()
    monkeypatch.setattr(reporter, "warn", said.append)
    assert asyncio.run(undo("web", host, reporter, How())) == ["web"]
    assert list(host.storage.snapshots["web"]) == ["undone-now", "undone-now.2"]
    assert "its snapshot undone-now.2;" in said[0]
