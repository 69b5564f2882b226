# SPDX-License-Identifier: LGPL-2.1-or-later
"""Updates of machines' packages: what is planned, what is kept of directories, and what is made of what guests say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from machines.errors import CommandFailed, Conflict, Unsupported
from machines.host.stale import _unit_of
from machines.host.storage import volumes
from machines.model.machine import Bind, Publish
from machines.model.observed import Record
from machines.model.snapshot import Origin, Snapshot
from machines.model.update import DONE, RESTORED, SAVING, UNDOING, UPGRADING, Update, Volume, read_update, write_update
from machines.operations.packages import MANAGERS, read_upgrades
from machines.plan import steps
from machines.plan.steps import Plan
from machines.plan.update import (
    check_updatable,
    half_restored,
    has_served,
    plan_commit,
    plan_forget,
    plan_keep,
    plan_restarts,
    plan_save,
    plan_undo,
    to_run,
    written_binds,
)
from machines.plan.updatesteps import (
    DropVolume,
    EndMachine,
    ForgetUpdate,
    NoteUpdate,
    RestartServices,
    RestoreVolume,
    SaveAll,
)
from samples import PAYLOAD, host_with, machine, running

KEPT = Snapshot("web", "before-update-20260102-030405", 1.0, "btrfs")
OLDER = "before-update-20260102-030405.2"
VOLUME = Volume("/srv/data", "/srv/.machctl-web-1", "directory")
UPDATE = Update("web", UPGRADING, KEPT.name, running=True, volumes=(VOLUME,))


def kinds(plan: Plan) -> list[type[steps.Step]]:
    return [type(step) for step in plan]


def test_record_is_read_as_it_was_written() -> None:
    assert read_update(write_update(UPDATE)) == UPDATE
    for text in ("", "{}", "[]", write_update(UPDATE).replace(UPGRADING, "what")):
        assert read_update(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Inst thing [1] (2 localhost [all])\nConf thing (2 localhost [all])", ["thing 1 -> 2"]),
        ("Inst new (2:1.0-1+b1 Debian:13/stable [amd64]) []", ["new -> 2:1.0-1+b1"]),
        ("NOTE: This is only a simulation!", []),
    ],
)
def test_upgrades_of_apt(text: str, found: list[str]) -> None:
    assert read_upgrades(MANAGERS[0], text.splitlines()) == found


def test_no_more_is_restarted_than_runs_old_code() -> None:
    libssl = {"nginx.service": ("/usr/lib/libssl.so.3",), "user@0.service": ("/usr/lib/libssl.so.3",)}
    assert plan_restarts("web", {}) == []
    (step,) = plan_restarts("web", libssl | {"session-1.scope": ("/usr/bin/bash",)})
    assert isinstance(step, RestartServices)
    assert step.units == ("nginx.service",)
    for unit in ("init.scope", "dbus.service", "dbus-broker.service"):
        assert kinds(plan_restarts("web", libssl | {unit: ("/usr/lib/libc.so.6",)})) == [steps.RestartMachine]


def test_units_of_control_groups() -> None:
    assert _unit_of("/payload/system.slice/nginx.service") == "nginx.service"
    assert _unit_of("/payload/system.slice/system-getty.slice/getty@tty1.service") == "getty@tty1.service"
    assert _unit_of("/payload/user.slice/user-0.slice/user@0.service/app.slice/x.service") == "user@0.service"
    assert _unit_of("/payload/init.scope") == "init.scope"
    assert _unit_of("/supervisor") == ""
    assert _unit_of("/payload/it's.service") == ""


def test_directories_that_others_see_are_left_alone() -> None:
    web = machine(
        binds=(
            Bind("/srv/a", "/a"), Bind("/srv/a/inner", "/b"), Bind("/srv/c", "/c"),
            Bind("/srv/d", "/d", read_only=True), Bind("/srv/e/web", "/e"),
        )
    )  # fmt: skip
    db = machine("db", binds=(Bind("/srv/c", "/c", read_only=True), Bind("/srv/e", "/e")))
    found = written_binds(web, {"web": web, "db": db})
    assert found.own == ("/srv/a",)
    assert found.left == {"/srv/c": "db sees it too", "/srv/e/web": "db sees it too"}


def test_directories_are_told_by_where_they_lead_and_by_all_who_see_them() -> None:
    web = machine(binds=(Bind("/srv/a", "/a"), Bind("/srv/b", "/b"), Bind("/srv/c:d", "/c"), Bind("/srv/e", "/e")))
    db = machine("db", binds=(Bind("/link", "/a"),))
    settings = {
        "/etc/systemd/nspawn/web.nspawn": "[Files]\nBind=/srv/e:/e\n",
        "/etc/systemd/nspawn/old.nspawn": "[Files]\nBind=/srv/b:/b:norbind\nBindReadOnly = /srv/c\\:d\nBind=+/srv/e\n",
    }
    found = written_binds(
        web, {"web": web, "db": db}, settings=settings, real=lambda path: path.replace("/link", "/srv/a")
    )
    assert found.own == ("/srv/e",)
    assert found.left == {"/srv/a": "db sees it too", "/srv/b": "old sees it too", "/srv/c:d": "old sees it too"}


def test_what_keeps_nothing_is_not_updated() -> None:
    check_updatable(machine(), Record("web"), "web")
    check_updatable(None, None, "web")
    for made, record in (
        (machine(read_only=True), None), (machine(volatile="state"), None), (machine(ephemeral=True), None),
        (machine(), Record("web", payload=PAYLOAD)),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match="nothing can be upgraded") as raised:
            check_updatable(made, record, "web")
        assert "image refresh" in raised.value.hint


def test_all_of_one_moment_is_kept_before_anything_is_changed() -> None:
    plan = plan_save(UPDATE, Origin("/var/lib/machines/web", "btrfs"), now=1.0)
    assert kinds(plan) == [NoteUpdate, SaveAll, NoteUpdate]
    assert [step.update.phase for step in plan if isinstance(step, NoteUpdate)] == [SAVING, UPGRADING]
    assert isinstance(plan[1], SaveAll)
    assert plan[1].held == "web"
    (alone,) = [
        step
        for step in plan_save(UPDATE._replace(volumes=()), Origin("/x", "btrfs"), now=1.0)
        if isinstance(step, SaveAll)
    ]
    assert alone.held == ""


def undo(update: Update, *, up: bool = True, kept: bool = True, **values: Any) -> Plan:
    host = replace(host_with(machine()), snapshots={"web": (KEPT,) if kept else ()}, resolved=True, **values)
    return plan_undo(update, running(host, "web") if up else host, reason="it broke")


def test_undo_brings_all_of_it_back() -> None:
    wanted = [
        NoteUpdate, EndMachine, RestoreVolume, steps.RestoreTree, NoteUpdate, steps.StartMachine, NoteUpdate,
        DropVolume, steps.RemoveSnapshot, ForgetUpdate,
    ]  # fmt: skip
    for phase in (UPGRADING, UNDOING):
        plan = undo(UPDATE._replace(phase=phase))
        assert kinds(plan) == wanted
        assert isinstance(plan[0], NoteUpdate)
        assert plan[0].update.phase == UNDOING
        assert isinstance(plan[4], NoteUpdate)
        assert (plan[4].update.phase, plan[4].update.running) == (RESTORED, True)
        # Who stops it once it has started wants that, and nobody is to start it again.
        assert isinstance(plan[6], NoteUpdate)
        assert (plan[6].update.phase, plan[6].update.running) == (RESTORED, False)
    stopped = undo(UPDATE._replace(running=False), up=False)
    assert kinds(stopped) == [NoteUpdate, *wanted[2:5], *wanted[7:]]


def test_no_connection_starts_one_on_demand_while_it_is_brought_back() -> None:
    made = machine(publish=(Publish(8080, 80),), on_demand=True)
    host = replace(host_with(made), snapshots={"web": (KEPT,)}, resolved=True)
    plan = plan_undo(UPDATE, running(host, "web"), reason="it broke")
    found = [kind for kind in kinds(plan) if kind not in {NoteUpdate, RestoreVolume, DropVolume, ForgetUpdate}]
    assert found == [
        steps.ClosePorts, EndMachine, steps.RestoreTree, steps.OpenPorts, steps.StartMachine, steps.RemoveSnapshot
    ]  # fmt: skip
    (opened,) = [step for step in plan if isinstance(step, steps.OpenPorts)]
    assert opened.units == ("machctl-port-web_8080.socket",)


def test_undo_of_what_has_changed_nothing_yet_and_of_what_is_done() -> None:
    assert kinds(undo(UPDATE._replace(phase=SAVING))) == [DropVolume, steps.RemoveSnapshot, ForgetUpdate]
    assert kinds(undo(UPDATE._replace(phase=SAVING, running=False))) == [
        DropVolume, steps.RemoveSnapshot, EndMachine, ForgetUpdate
    ]  # fmt: skip
    assert kinds(undo(UPDATE._replace(phase=DONE))) == [DropVolume, ForgetUpdate]


def test_what_was_brought_back_is_not_brought_back_again() -> None:
    restored = UPDATE._replace(phase=RESTORED)
    rest = [DropVolume, steps.RemoveSnapshot, ForgetUpdate]
    assert kinds(undo(restored, up=False)) == [steps.StartMachine, NoteUpdate, *rest]
    assert kinds(undo(restored._replace(running=False), up=False)) == rest
    assert kinds(undo(restored)) == rest
    # Somebody has started it since, who wants it to run.
    assert kinds(undo(restored._replace(running=False))) == rest
    assert kinds(undo(restored, kept=False)) == [DropVolume, ForgetUpdate]


def test_undo_without_a_snapshot_or_a_tree_keeps_what_there_is() -> None:
    for phase in (UPGRADING, UNDOING):
        update = UPDATE._replace(phase=phase)
        with pytest.raises(Conflict, match=f"no snapshot.*{VOLUME.saved}"):
            undo(update, kept=False)
        with pytest.raises(Conflict, match=f"no tree now.*{VOLUME.saved}"):
            undo(update, up=False, trees={})
    assert kinds(undo(UPDATE._replace(phase=SAVING), up=False, trees={}, kept=False)) == [DropVolume, ForgetUpdate]


def test_rm_of_what_was_being_undone_ends_that_for_directories_of_the_host() -> None:
    forget = {
        phase: kinds(plan_forget("web", write_update(UPDATE._replace(phase=phase)), reason="rm"))
        for phase in (UPGRADING, UNDOING, RESTORED)
    }
    assert forget[UNDOING] == [RestoreVolume, DropVolume, ForgetUpdate]
    assert forget[UPGRADING] == forget[RESTORED] == [DropVolume, ForgetUpdate]


@pytest.mark.parametrize(
    ("phase", "up", "since", "now", "served"),
    [
        (UPGRADING, True, 7, 1001.0, False), (UPGRADING, True, 8, 1001.0, True), (UPGRADING, True, 0, 1001.0, True),
        (UPGRADING, True, 7, 9000.0, True), (UPGRADING, True, 7, 1.0, True),
        (UPGRADING, False, 0, 1001.0, False), (UPGRADING, False, 0, 9000.0, True),
        (UNDOING, True, 8, 1001.0, True), (UNDOING, False, 0, 9000.0, False),
        (SAVING, True, 8, 9000.0, False), (RESTORED, True, 8, 9000.0, False), (DONE, True, 8, 9000.0, False),
    ],
)  # fmt: skip
def test_gc_takes_nothing_back_from_a_machine_that_was_started_since(
    phase: str, up: bool, since: int, now: float, served: bool
) -> None:
    update = UPDATE._replace(phase=phase, at=1000.0, since=7)
    assert has_served(update, up=up, since=since, now=now) is served


@pytest.mark.parametrize(
    ("phase", "before", "up", "died", "since", "runs"),
    [
        (UPGRADING, True, True, False, 7, True), (UPGRADING, True, False, False, 0, False),
        (UPGRADING, True, False, True, 0, True), (UPGRADING, False, True, False, 7, False),
        (UPGRADING, False, True, False, 8, True), (UPGRADING, False, False, True, 0, False),
        (SAVING, False, True, False, 7, False), (SAVING, False, True, False, 8, True),
        (DONE, False, True, False, 7, False), (DONE, False, True, False, 8, True),
        (UNDOING, True, False, False, 0, True), (UNDOING, False, False, True, 0, False),
        (RESTORED, True, False, False, 0, True), (RESTORED, False, False, False, 0, False),
    ],
)  # fmt: skip
def test_machine_that_somebody_has_stopped_since_stays_stopped(
    phase: str, before: bool, up: bool, died: bool, since: int, runs: bool
) -> None:
    update = UPDATE._replace(phase=phase, running=before, since=7)
    assert to_run(update, up=up, died=died, since=since) is runs


def test_who_is_kept_with_half_a_volume_keeps_the_whole_of_it_as_well() -> None:
    volume = Volume("/srv/data", "/srv/.machctl-web-1", "directory")
    half = UPDATE._replace(phase=UNDOING, volumes=(volume,))
    assert [type(step) for step in plan_keep(half)] == [ForgetUpdate]
    assert "/srv/data may have but a part" in half_restored(half)
    assert volume.saved in half_restored(half)
    whole = half._replace(phase=UPGRADING)
    assert [type(step) for step in plan_keep(whole)] == [DropVolume, ForgetUpdate]
    assert half_restored(whole) == ""


def test_only_the_newest_of_its_own_snapshots_are_kept() -> None:
    taken = {
        each.name: each
        for each in (KEPT, KEPT._replace(name=OLDER, created=0.0), KEPT._replace(name="before-update-x", created=0.5))
    }
    for keep, gone in ((2, []), (1, [OLDER]), (0, [OLDER, KEPT.name])):
        plan = plan_commit(UPDATE, taken, keep=keep)
        assert [step.snapshot.name for step in plan if isinstance(step, steps.RemoveSnapshot)] == gone
        assert isinstance(plan[-1], ForgetUpdate)


# --- directories ---


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    async def copy(source: str, target: str, **_: Any) -> None:
        import shutil

        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)

    monkeypatch.setattr(volumes, "_NOT_BELOW", ())
    monkeypatch.setattr("machines.host.storage.copying.copy", copy)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("first")
    found = volumes.find_volume(str(tmp_path / "data"), "web", 1)
    assert isinstance(found, Volume)
    return found


def save(volume: Volume) -> None:
    asyncio.run(volumes.save_volume(volume, log="/dev/null", progress=lambda *_: None))


def restore(volume: Volume) -> None:
    asyncio.run(volumes.restore_volume(volume, log="/dev/null", progress=lambda *_: None))


def look(volume: Volume) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(volume.source).iterdir()}


def break_it(volume: Volume) -> None:
    Path(volume.source, "file").write_text("second")
    Path(volume.source, "added").write_text("")


def test_volume_is_brought_back_once(volume: Volume, tmp_path: Path) -> None:
    save(volume)
    break_it(volume)
    restore(volume)
    assert look(volume) == {"file": "first"}
    Path(volume.source, "file").write_text("later")
    restore(volume)
    assert look(volume) == {"file": "later"}
    volumes.drop_volume(volume)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("when", [0, 1, 2])
def test_volume_that_was_being_brought_back_when_somebody_was_killed(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    save(volume)
    break_it(volume)
    calls = iter(range(10))

    def dying(function: Any) -> Any:
        def act(*words: Any) -> Any:
            if next(calls) == when:
                raise KeyboardInterrupt
            return function(*words)

        return act

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", dying(__import__("os").rename))
        patch.setattr("machines.host.storage.pool.remove_path", dying(volumes.pool.remove_path))
        with pytest.raises(KeyboardInterrupt):
            restore(volume)
    restore(volume)
    volumes.drop_volume(volume)
    assert look(volume) == {"file": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_volume_is_kept_whole_or_not_at_all(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise CommandFailed("no space left")

    monkeypatch.setattr("machines.host.storage.copying.copy", full)
    with pytest.raises(CommandFailed):
        save(volume)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    monkeypatch.setattr("machines.host.storage.trees.measure", lambda path: (2**60, 1))
    monkeypatch.setattr("machines.host.storage.btrfs.on_btrfs", lambda path: False)
    with pytest.raises(Exception, match="MiB of room") as raised:
        save(volume)
    assert "--no-volumes" in raised.value.hint  # type: ignore[attr-defined]


def test_what_is_the_hosts_own_is_no_volume() -> None:
    for path in ("/", "/etc", "/usr/share", "/var/lib/machines", "/proc/self", "/var"):
        assert volumes.find_volume(path, "web", 1) == "it is the host's own"
    assert volumes.find_volume("/etc/passwd", "web", 1) == "it is no directory"
