# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bases: made once, copied, kept apart by what shaped them, and cleaned up after."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from acting import REPORTER, Meanwhile, Once, apply, create, declare, nothing_left, see, web
from fakes import FakeHost
from machines.declare.fleet import own_file
from machines.errors import MachctlError, NotFound
from machines.host.interfaces import Progress, SourceRequest
from machines.model.base import Base
from machines.model.machine import Publish
from machines.model.source import parse_source
from machines.operations import fleet, fleetplan
from machines.operations.bases import known_base, make_base
from machines.operations.garbage import collect_garbage
from machines.operations.observe import observe
from machines.operations.records import write_record
from machines.operations.remove import remove
from machines.operations.tree import make_tree
from machines.plan import steps
from machines.render import paths
from samples import PAYLOAD, TRIXIE, machine

pytestmark = pytest.mark.usefixtures("as_root")


def made(host: FakeHost, source: str = "debian:trixie") -> int:
    """How often a source has produced a tree."""
    return host.done.count(f"make {source}")


def test_the_second_machine_of_a_source_is_copied_from_the_base_of_the_first() -> None:
    host = FakeHost()
    first = asyncio.run(fleet.create(web(), host, REPORTER))
    second = asyncio.run(fleet.create(machine("db", origin=own_file("db")), host, REPORTER))
    assert (made(host), host.done.count("copy web"), host.done.count("copy db")) == (1, 1, 1)
    assert [isinstance(plan[0], steps.MakeBase) for plan in (first, second)] == [True, False]
    (base,) = host.storage.bases().values()
    assert {record.base for record in observe(host).records.values()} == {base.id}
    assert (base.source, base.kind, base.os, base.size, base.files) == (
        "debian:trixie",
        "tree",
        "debian 13",
        250 * 2**20,
        9000,
    )


def test_fresh_makes_another_base_and_takes_that() -> None:
    host = FakeHost()
    create(host, web())
    plan = asyncio.run(fleet.create(machine("db", origin=own_file("db")), host, REPORTER, fresh=True))
    assert str(plan[0]) == "bootstrap debian:trixie"
    assert made(host) == 2
    old, new = host.storage.bases().values()
    assert old.digest == new.digest
    records = observe(host).records
    assert (records["web"].base, records["db"].base) == (old.id, new.id)


@pytest.mark.parametrize(
    ("values", "other"),
    [
        ({}, False),
        ({"memory": 2**30, "hostname": "x", "publish": (Publish(80, 80),), "autostart": True}, False),
        ({"storage": "copy", "disk": None, "ephemeral": True}, False),
        ({"packages": ("less",)}, True),
        ({"variant": "standard"}, True),
        ({"mirror": "http://m.example/"}, True),
        ({"bootstrapper": "debootstrap"}, True),
        ({"ssh_keys": ("ssh-ed25519 AAAA",)}, True),
        ({"source": parse_source("debian:bookworm")}, True),
    ],
)
def test_what_shapes_a_tree_tells_its_base_from_others(values: dict[str, Any], *, other: bool) -> None:
    host = FakeHost()
    create(host, web())
    assert (known_base(machine("db", **values), host) is None) is other


def test_order_of_packages_and_whose_key_it_is_make_no_other_base() -> None:
    host = FakeHost()
    create(host, web(packages=("less", "vim"), ssh_keys=("ssh-ed25519 AAAA",)))
    assert known_base(machine(packages=("vim", "less"), ssh_keys=("ssh-ed25519 BBBB",)), host) is not None
    text = host.guests.texts
    assert text["/var/lib/machines/web/root/.ssh/authorized_keys"] == "ssh-ed25519 AAAA\n"
    assert not [path for path in text if "authorized_keys" in path and path.startswith(host.storage.room)]


def test_keyring_with_other_keys_makes_another_base(tmp_path: Path) -> None:
    host = FakeHost()
    keyring = tmp_path / "mine.gpg"
    keyring.write_bytes(b"one")
    declared = web(keyring=str(keyring))
    create(host, declared)
    assert known_base(declared, host) is not None
    keyring.write_bytes(b"other")
    assert known_base(declared, host) is None
    keyring.unlink()
    with pytest.raises(NotFound, match="cannot be read"):
        known_base(declared, host)


def test_source_that_has_changed_is_read_again() -> None:
    host = FakeHost()
    tar: dict[str, Any] = {"source": parse_source("tar:/srv/a.tar")}
    host.maker.identities["tar:/srv/a.tar"] = {"size": 1}
    create(host, web(**tar))
    host.maker.identities["tar:/srv/a.tar"] = {"size": 2}
    create(host, web("db", **tar, publish=()))
    assert made(host, "tar:/srv/a.tar") == 2


def test_source_that_cannot_be_told_apart_is_read_each_time() -> None:
    host = FakeHost()
    folder: dict[str, Any] = {"source": parse_source("dir:/srv/tree")}
    host.maker.identities["dir:/srv/tree"] = None
    create(host, web(**folder))
    create(host, web("db", **folder, publish=()))
    assert made(host, "dir:/srv/tree") == 2


def test_image_is_a_base_by_its_name() -> None:
    host = FakeHost()
    create(host, web())
    (base,) = host.storage.bases().values()
    host.storage.rename_base(base, "golden")
    create(host, web("db", source=parse_source("image:golden"), publish=()))
    assert observe(host).records["db"].base == base.id
    assert [what for what in host.done if what.startswith("make ")] == ["make debian:trixie"]


def test_two_creates_of_one_base_at_once_make_it_once() -> None:
    host = FakeHost()

    async def scenario() -> None:
        await asyncio.gather(
            fleet.create(web(), host, REPORTER), fleet.create(machine("db", origin=own_file("db")), host, REPORTER)
        )

    asyncio.run(scenario())
    assert made(host) == 1
    assert set(host.placed) == {"web", "db"}
    assert len({record.base for record in observe(host).records.values()}) == 1
    assert host.files.held == set()


def test_whoever_waits_for_a_base_that_fails_makes_it() -> None:
    host = FakeHost()
    host.failing = Once("make debian:trixie", iter([True]))  # type: ignore[assignment]

    async def scenario() -> Sequence[object]:
        return await asyncio.gather(
            fleet.create(web(), host, REPORTER),
            fleet.create(machine("db", origin=own_file("db")), host, REPORTER),
            return_exceptions=True,
        )

    failed, made_it = asyncio.run(scenario())
    assert isinstance(failed, MachctlError)
    assert isinstance(made_it, list)
    assert set(host.placed) == {"db"}
    assert len(host.storage.bases()) == len(list(Path(host.storage.room).iterdir())) == 1


def test_fresh_takes_the_base_that_another_made_while_it_waited() -> None:
    host = FakeHost()

    async def scenario() -> list[Base]:
        return await asyncio.gather(
            *(make_base(machine(), host, lambda *_: None, fresh=True) for _ in range(2)),
        )

    one, other = asyncio.run(scenario())
    assert one == other
    assert made(host) == 1


def test_an_apply_of_new_machines_makes_each_base_once() -> None:
    host = FakeHost()
    for name in "abc":
        declare(host, name, source="debian" if name == "a" else "debian:bookworm")
    plans = fleetplan.fleet_plan([], host, verb="plan").plans
    assert [str(plans[name][0]) for name in "abc"] == ["bootstrap debian:trixie", *["bootstrap debian:bookworm"] * 2]
    apply(host)
    assert (made(host), made(host, "debian:bookworm")) == (1, 1)
    assert set(host.placed) == {"a", "b", "c"}


def test_base_has_nobodys_identity_and_what_a_machine_boots_quickly_with() -> None:
    host = FakeHost()
    units = "/usr/lib/systemd/system"
    theirs = {
        "/etc/machine-id": "0123\n",
        "/etc/hostname": "theirs\n",
        "/var/lib/systemd/random-seed": "x",
        "/var/lib/dhcp/lease": "x",
        "/var/log/journal/0123/system.journal": "x",
        "/usr/sbin/sshd": "x",
        "/etc/ssh/ssh_host_rsa_key": "x",
        "/etc/ssh/sshd_config": "x",
        f"{units}/systemd-networkd.service": "x",
        f"{units}/systemd-resolved.service": "x",
    }

    async def make(request: SourceRequest, progress: Progress) -> None:
        for path, text in theirs.items():
            host.guests.write_file(str(request.target), path, text)

    host.maker.make = make  # type: ignore[method-assign]
    base = asyncio.run(make_base(machine(), host, lambda *_: None))
    tree = host.storage.base_path(base)
    left = {path.removeprefix(tree): text for path, text in host.guests.texts.items() if path.startswith(tree)}
    assert left["/etc/machine-id"] == ""
    assert {"/etc/hosts", "/etc/ssh/sshd_config", "/etc/systemd/system/machctl-ssh-keys.service"} <= left.keys()
    gone = {"/etc/hostname", "/var/lib/systemd/random-seed", "/var/lib/dhcp/lease", "/etc/ssh/ssh_host_rsa_key"}
    assert not gone & left.keys()
    assert not [path for path in left if "journal/" in path]
    assert left["/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"] == (
        f"-> {units}/systemd-networkd.service"
    )
    assert left["/etc/resolv.conf"].startswith("-> ")
    assert left["/etc/systemd/system/systemd-firstboot.service"] == "-> /dev/null"


def test_tree_without_an_init_is_left_as_it_is() -> None:
    host = FakeHost()
    host.maker.payload = PAYLOAD
    create(host, web(source=parse_source("oci:/srv/image")))
    record = observe(host).records["web"]
    assert record.payload == PAYLOAD
    tree = "/var/lib/machines/web"
    assert {path.removeprefix(tree) for path in host.guests.texts if path.startswith(f"{tree}/")} == {
        "/etc/hosts",
        "/etc/machine-id",
        # Without that nspawn would not have it.
        "/usr",
    }
    assert "Boot=no" in host.files.texts[paths.settings_file("web")]
    assert fleetplan.fleet_plan([], host, verb="plan").plans == {"web": [], "": []}


def test_layer_is_made_mounted_and_removed() -> None:
    host = FakeHost()
    host.storage.driver = "overlay"
    create(host, web(ssh_keys=("ssh-ed25519 AAAA",)))
    assert host.storage.layers() == ["web"]
    record = observe(host).records["web"]
    assert (record.storage, record.uid is not None) == ("overlay", True)
    # A directory of the layer hides the mode and the owner of the one below.
    assert "/root/.ssh/authorized_keys" in host.guests.copied
    assert fleetplan.fleet_plan([], host, verb="plan").plans == {"web": [], "": []}


@pytest.mark.parametrize("tree_left", [True, False])
def test_removing_a_layer_that_a_killed_run_has_half_removed(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, *, tree_left: bool
) -> None:
    see(host, monkeypatch)
    host.storage.driver = "overlay"
    create(host, web())
    if not tree_left:
        host.placed.clear()
    asyncio.run(remove("web", host, REPORTER, force=False, dry_run=False))
    assert nothing_left(host)
    assert host.storage.mounted == set()


def test_disk_is_limited_and_no_longer() -> None:
    host = FakeHost()
    host.storage.driver = "btrfs"
    create(host, web(disk=2**30))
    assert host.storage.limits == {"/var/lib/machines/web": 2**30}
    assert fleetplan.fleet_plan([], host, verb="plan").plans == {"web": [], "": []}
    asyncio.run(fleet.change("web", lambda made: dataclasses.replace(made, disk=None), host, REPORTER, dry_run=False))
    assert host.storage.limits == {"/var/lib/machines/web": None}
    assert fleetplan.fleet_plan([], host, verb="plan").plans == {"web": [], "": []}


def test_dry_run_with_a_base_says_what_is_copied_and_without_one_that_it_is_made() -> None:
    host = FakeHost()
    plan = list(map(str, asyncio.run(fleet.create(web(), host, REPORTER, dry_run=True))))
    assert plan[0] == "bootstrap debian:trixie"
    assert "make the tree, a copy of base that is made first" in plan
    assert asyncio.run(make_base(web(), host, lambda *_: None)).source == str(TRIXIE)
    (base,) = host.storage.bases()
    again = list(map(str, asyncio.run(fleet.create(web(), host, REPORTER, dry_run=True))))
    assert f"make the tree, a copy of base {base}" in again
    assert not [step for step in again if "bootstrap" in step]


def test_base_that_vanished_before_it_was_copied() -> None:
    host = FakeHost()
    create(host, web())
    (base,) = host.storage.bases()
    gone = Meanwhile(lambda host: None)
    step = steps.MakeTree(reason="x", machine="db", declared=machine("db"), storage="copy", base=base)
    with pytest.raises(NotFound, match=f"base {base} is gone"):
        asyncio.run(make_tree(step, gone, lambda *_: None))


def test_gc_removes_what_is_half_made_in_the_store_and_nothing_that_is_being_made() -> None:
    host = FakeHost()
    create(host, web())
    host.storage.stage_base("aaaaaaaaaaaa-1")
    host.storage.stage_base("bbbbbbbbbbbb-1")
    host.storage.half_layers = {"/store/layers/.web.new": "web", "/store/layers/.db.new": "db"}
    host.files.held |= {"base-bbbbbbbbbbbb", "machine-db"}
    plan = asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert {step.path.rsplit("/", 1)[1] for step in plan if isinstance(step, steps.RemoveLeftover)} == {
        ".new-aaaaaaaaaaaa-1",
        ".web.new",
    }
    assert [path.rsplit("/", 1)[1] for path in host.storage.base_leftovers()] == [".new-bbbbbbbbbbbb-1"]
    assert host.storage.half_layers == {"/store/layers/.db.new": "db"}
    assert len(host.storage.bases()) == 1
    assert set(host.placed) == {"web"}


@pytest.mark.parametrize(("intent", "goes"), [("throwaway 17.42", True), ("", False)])
def test_gc_removes_a_machine_whose_one_command_has_ended(intent: str, *, goes: bool) -> None:
    host = FakeHost()
    asyncio.run(fleet.create(web(), host, REPORTER, intent=intent))
    assert observe(host).records["web"].intent == intent
    host.files.alive.add("17.42")
    assert asyncio.run(collect_garbage(host, REPORTER, dry_run=False)) == []
    host.files.alive.clear()
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert ("web" not in host.placed) is goes
    assert nothing_left(host) is goes


def test_a_remove_that_was_killed_is_finished_by_gc_and_taken_back_by_apply() -> None:
    host = FakeHost()
    create(host, web())
    record = observe(host).records["web"]
    host.files.texts[paths.machine_record("web")] = write_record(dataclasses.replace(record, intent="remove"))
    # As long as it is declared it is a machine, and wanted.
    assert asyncio.run(collect_garbage(host, REPORTER, dry_run=True)) == []
    apply(host)
    assert observe(host).records["web"] == record
    host.files.texts[paths.machine_record("web")] = write_record(dataclasses.replace(record, intent="remove"))
    del host.files.texts[own_file("web")]
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert nothing_left(host)
