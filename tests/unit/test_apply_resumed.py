# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an apply leaves of itself, what is made of that later, and that nobody loses what he has not agreed to lose."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from acting import REPORTER, declare
from fakes import FakeHost
from keeping import PRUNE, PURGE, RECREATE, Keeping, applied, forget, made, planned
from machines.cli import words
from machines.cli.options import Options
from machines.cli.verbs import fleet as verbs
from machines.declare.fleet import own_file
from machines.errors import Conflict, MachctlError, NotFound
from machines.operations import applying
from machines.operations.execute import execute
from machines.operations.fleetplan import PLAIN, Wishes
from machines.operations.links import change_link
from machines.operations.records import read_records
from machines.operations.resuming import LATER_UNIT, UNIT, resume, resume_later
from machines.operations.unfinished import Unfinished, read_unfinished, write_unfinished
from machines.plan import steps
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")
FILE = "/tmp/fleet.toml"


@pytest.fixture(autouse=True)
def _seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.lexists", lambda path: path.startswith("/var/lib/machines/"))


def left(host: FakeHost) -> Unfinished:
    found = read_unfinished(host)
    assert found is not None
    return found


@pytest.mark.parametrize("go_on", [resume, resume_later])
def test_a_file_that_is_gone_prunes_nothing_and_stays_to_be_done(go_on: object) -> None:
    host = made("web")
    settings = paths.settings_file("web")
    host.files.texts[settings] = host.files.texts[settings].replace(own_file("web"), FILE)
    forget(host, "web")
    host.declarations = (FILE,)
    write_unfinished([], PURGE, host)
    with pytest.raises(NotFound, match=f"{FILE} is not there"):
        asyncio.run(go_on(left(host), host, REPORTER))  # type: ignore[operator]
    assert set(host.placed) == {"web"}
    assert left(host).wishes == PURGE


def test_no_declaration_at_all_is_no_reason_to_remove_everything() -> None:
    host = made("web")
    forget(host, "web")
    with pytest.raises(Conflict, match="nothing is declared"):
        planned(host, PURGE)
    assert planned(host).undeclared == ("web",)


def test_only_what_was_agreed_to_is_pruned_and_made_anew() -> None:
    host = made("web", "old", "older", "db", "mail")
    for name in ("old", "older"):
        forget(host, name)
    for name in ("db", "mail"):
        declare(host, name, 'bridges = ["br0"]', source="debian:bookworm")
    wishes = PURGE._replace(recreate=True)
    found = planned(host, wishes)
    assert (found.pruned, found.recreated) == (("old", "older"), ("db", "mail"))
    agreed = wishes._replace(pruned=("old",), recreated=("db",))
    write_unfinished([], agreed, host)
    assert left(host).wishes == agreed
    assert applied(host, left(host).wishes) == {}
    assert set(host.placed) == {"web", "older", "db", "mail"}
    made_of = {name: record.made["source"] for name, record in read_records(host).items()}
    assert (made_of["db"], made_of["mail"]) == ("debian:bookworm", "debian:trixie")


def test_of_what_an_older_machctl_left_nothing_is_pruned() -> None:
    host = FakeHost()
    host.files.texts[paths.APPLYING_FILE] = (
        '{"names": [], "declarations": [], "restart": true, "recreate": true, "prune": true, "purge": true, '
        '"wait": true, "no_bases": false}'
    )
    assert left(host).wishes == PLAIN


def on_demand(name: str) -> Keeping:
    """A host with a machine that is started on demand and runs, and something that listens for it."""
    host = made("other")
    declare(host, name, 'publish = ["8080:80"]', "on-demand = true")
    applied(host, PLAIN)
    host.active.add(f"machctl-port-{name}_8080.socket")
    host.running = lambda: {name: f"systemd-nspawn@{name}.service"}  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize("wishes", [PRUNE, PURGE])
def test_nothing_starts_a_machine_again_that_is_pruned(wishes: Wishes) -> None:
    host = on_demand("old")
    forget(host, "old")
    kinds = [type(step) for step in planned(host, wishes).plans["old"]]
    assert kinds.count(steps.ClosePorts) == 1
    assert kinds.index(steps.ClosePorts) < kinds.index(steps.StopMachine) < kinds.index(steps.RemoveTree)


def test_nothing_starts_a_machine_again_that_is_made_anew() -> None:
    host = on_demand("web")
    declare(host, "web", 'publish = ["8080:80"]', "on-demand = true", source="debian:bookworm")
    kinds = [type(step) for step in planned(host, RECREATE).plans["web"]]
    assert kinds.count(steps.ClosePorts) == 1
    assert kinds.index(steps.ClosePorts) < kinds.index(steps.StopMachine) < kinds.index(steps.TakeSnapshot)
    assert kinds.index(steps.PlaceTree) < kinds.index(steps.OpenPorts)


def test_the_tree_of_a_machine_that_runs_stays() -> None:
    host = on_demand("web")
    step = steps.RemoveTree(reason="", machine="web", path=paths.tree("web"), layer="")
    with pytest.raises(Conflict, match="started in the meantime"):
        asyncio.run(execute([step], host, reporter=REPORTER))
    assert "web" in host.placed


def test_a_resume_that_cannot_be_planned_is_tried_again_at_the_next_boot() -> None:
    host = FakeHost()
    declare(host, "web", 'after = ["nobody"]')
    write_unfinished([], PLAIN, host)
    mark = host.files.texts[paths.APPLYING_FILE]
    with pytest.raises(MachctlError):
        asyncio.run(applying.apply([], host, REPORTER, PLAIN._replace(wait=False)))
    assert host.files.texts[paths.APPLYING_FILE] == mark
    host.files.remove_file(paths.APPLYING_FILE)
    with pytest.raises(MachctlError):
        asyncio.run(applying.apply([], host, REPORTER))
    assert read_unfinished(host) is None


def test_what_another_apply_wrote_of_itself_stays() -> None:
    host = FakeHost()
    declare(host, "web")
    reload = host.units.reload_networkd

    def meanwhile() -> None:
        write_unfinished(["other"], PLAIN, host)
        reload()

    host.units.reload_networkd = meanwhile
    assert asyncio.run(applying.apply([], host, REPORTER))[1] == {}
    assert left(host).names == ["other"]


def test_what_nobody_would_know_again_is_made_at_once() -> None:
    host = Keeping()
    declare(host, "web", source="dir:/srv/tree")
    declare(host, "db")
    host.maker.identities["dir:/srv/tree"] = None
    started: list[str] = []
    host.units.start = started.append
    write_unfinished([], PLAIN, host)
    # At boot, and once the network is up.
    assert asyncio.run(resume(left(host), host, REPORTER)) == {}
    assert set(host.placed) == {"web"}
    assert started == [LATER_UNIT]
    assert asyncio.run(resume_later(left(host), host, REPORTER)) == {}
    assert started == [LATER_UNIT, UNIT]
    assert asyncio.run(resume(left(host), host, REPORTER)) == {}
    assert set(host.placed) == {"web", "db"}
    assert sorted(str(request.source) for request in host.maker.requests) == ["debian:trixie", "dir:/srv/tree"]
    assert started == [LATER_UNIT, UNIT]


def test_nothing_waits_at_boot_for_what_waits_for_the_network() -> None:
    unit = Path(__file__).parents[2] / "units/machctl-apply.service"
    (after,) = [line for line in unit.read_text().splitlines() if line.startswith("After=")]
    assert "docker" not in after
    assert "network-online" not in after


def test_the_address_of_a_machine_that_could_not_be_pruned_is_not_given_away() -> None:
    host = made("web", "old")
    address = read_records(host)["old"].addresses["br0"]
    forget(host, "old")
    declare(host, "new", 'bridges = ["br0"]')
    host.failing = {"snapshot old"}
    assert set(applied(host, PRUNE)) == {"old"}
    records = read_records(host)
    assert set(host.placed) == {"web", "old", "new"}
    assert records["old"].addresses["br0"] == address != records["new"].addresses["br0"]


def test_machines_without_a_base_count_and_networks_do_not() -> None:
    step = steps.ReloadUnits(reason="")
    plans = {"": [step], "network br0": [step], "web": [step], "same": []}
    assert verbs._concerned(plans, {"db": MachctlError("no base")}) == {"web", "db"}


def test_a_link_that_was_given_at_once_needs_no_restart() -> None:
    host = FakeHost()
    host.registered = lambda: {"web": type("Entry", (), {"leader": 7})()}  # type: ignore[method-assign]
    host.inner_links = lambda leader: frozenset({"host1"})  # type: ignore[method-assign]
    path = paths.guest_network_file("web", "host1")
    copy = paths.started("web", path)
    attach = steps.AttachLink(reason="", machine="web", link="host1", make="link x", outside=(), inside=())
    host.files.texts[path] = "[Network]\nDHCP=yes\n"
    change_link(attach, host)
    assert copy not in host.files.texts
    host.files.texts[paths.started("web", paths.settings_file("web"))] = "[Exec]\n"
    change_link(attach, host)
    assert host.files.texts[copy] == host.files.texts[path]
    change_link(steps.DetachLink(reason="", machine="web", link="host1", parent=""), host)
    assert copy not in host.files.texts


def test_apply_does_what_was_asked_about_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    host = made("web", "old", "db")
    forget(host, "old")
    declare(host, "db", 'bridges = ["br0"]', source="debian:bookworm")
    given: list[Wishes] = []

    def act(names: object, host: object, options: object, wishes: Wishes, planned: object) -> int:
        given.append(wishes)
        return 0

    monkeypatch.setattr(verbs, "host_of", lambda file: host)
    monkeypatch.setattr(verbs, "_apply", act)
    context = SimpleNamespace(obj=SimpleNamespace(dry_run=False, yes=True, quiet=True))
    with pytest.raises(words.Exit):
        verbs.apply(context, [], None, True, True, True, False, "")  # type: ignore[arg-type]
    assert given == [PURGE._replace(recreate=True, pruned=("old",), recreated=("db",))]


def test_one_with_nothing_to_do_leaves_what_another_was_to_do_by_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    host = made("web")
    monkeypatch.setattr(verbs, "host_of", lambda file: host)
    context = SimpleNamespace(obj=Options(yes=True, quiet=True))
    for declarations, stays in (((FILE,), True), (host.declarations, False)):
        ours, host.declarations = host.declarations, declarations
        write_unfinished([], PLAIN, host)
        host.declarations = ours
        with contextlib.suppress(words.Exit):
            verbs.apply(context, [], None, False, False, False, False, "")  # type: ignore[arg-type]
        assert (read_unfinished(host) is not None) is stays


def test_what_a_killed_one_left_goes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "host_of", lambda file: host)
    lock = "/run/machctl/machine-web.lock"
    for mark in (True, False):
        # Nothing is planned, and still there is something to do.
        host = made("web")
        host.files.texts[lock] = "1"
        host.files.abandoned = lambda host=host: [lock] if lock in host.files.texts else []  # type: ignore[misc]
        if mark:
            write_unfinished([], PLAIN, host)
        with contextlib.suppress(words.Exit):
            verbs.apply(SimpleNamespace(obj=Options(quiet=True)), [], None, False, False, False, False, "")  # type: ignore[arg-type]
        assert lock not in host.files.texts
        host.files.texts[lock] = "1"
        declare(host, "web", 'bridges = ["br0"]', 'memory = "1G"')
        assert applied(host, PLAIN) == {}
        assert lock not in host.files.texts


def test_ports_of_one_that_is_left_as_it_is_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    host, said = Keeping(), ('publish = ["8080:80"]', 'after = ["db"]')
    declare(host, "db")
    declare(host, "web", *said)
    assert applied(host, PLAIN) == {}
    host.running = lambda: {name: f"systemd-nspawn@{name}.service" for name in host.placed}  # type: ignore[method-assign]
    host.active.add("machctl-port-web_8080.socket")
    declare(host, "db", source="debian:bookworm")
    declare(host, "web", *said, source="debian:bookworm")
    host.done.clear()

    async def stop_machine(name: str, *_: object, **__: object) -> None:
        raise MachctlError(f"{name} does not stop")

    monkeypatch.setattr("machines.operations.execute.stop_machine", stop_machine)
    assert sorted(applied(host, RECREATE)) == ["db", "web"]
    assert "stop machctl-port-web_8080.socket" not in host.done
