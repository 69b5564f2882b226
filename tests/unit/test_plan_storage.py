# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a machine's tree is kept and what runs in it: what a plan says of it, and that it stays so."""

from __future__ import annotations

import dataclasses

import pytest

from machines.declare.write import write_machine
from machines.errors import Conflict
from machines.model.ids import SIZE
from machines.model.machine import Machine, Publish
from machines.model.names import mount_unit
from machines.model.observed import Host, Record
from machines.model.source import parse_source
from machines.plan import steps
from machines.plan.claims import with_claims
from machines.plan.machine import plan_machine, tree_note
from machines.plan.place import place
from machines.plan.storage import FIRST, LAST, choose_uid, storage_of, uid_of
from machines.render import paths
from samples import BASE, PAYLOAD, TRIXIE, edited, empty_host, host_with, kinds, machine, shown

LOWER = f"{paths.UNIT_DIRECTORY}/{mount_unit('/var/lib/machctl/store/layers/web/lower')}"
MERGED = f"{paths.UNIT_DIRECTORY}/{mount_unit('/var/lib/machines/web')}"


def on(driver: str, **values: object) -> Host:
    """A host whose pool is best served by ``driver``, and that has systemd know nothing of machines."""
    return empty_host(storage={"auto": driver}, **values)


def made(plan: list[steps.Step]) -> steps.MakeTree:
    (step,) = [step for step in plan if isinstance(step, steps.MakeTree)]
    return step


def claimed(plan: list[steps.Step]) -> Record:
    (step,) = [step for step in plan if isinstance(step, steps.Claim)]
    return step.record


def written(plan: list[steps.Step]) -> dict[str, str]:
    return {step.path: step.text for step in plan if isinstance(step, steps.WriteFile)}


@pytest.mark.parametrize(
    ("driver", "how", "where"),
    [
        ("btrfs", "a snapshot of base", "place the tree in"),
        ("overlay", "a layer over base", "mount the tree in"),
        ("reflink", "a shared copy of base", "place the tree in"),
        ("copy", "a copy of base", "place the tree in"),
    ],
)
def test_new_machine_on_each_driver(driver: str, how: str, where: str) -> None:
    plan = plan_machine(machine(), on(driver), base=BASE)
    step, record = made(plan), claimed(plan)
    assert (step.storage, step.base, record.storage, record.base) == (driver, BASE.id, driver, BASE.id)
    assert f"make the tree, {how} {BASE.id}" in shown(plan)
    assert f"{where} /var/lib/machines/web" in shown(plan)
    assert (step.uid is not None) is (record.uid is not None) is (driver == "overlay")
    assert ({LOWER, MERGED} <= written(plan).keys()) is (driver == "overlay")
    ownership = "PrivateUsersOwnership=" + ("off" if driver == "overlay" else "auto")
    assert ownership in written(plan)[paths.settings_file("web")].splitlines()


def test_layer_is_mounted_after_its_units_are_there_and_has_the_ids_that_are_recorded() -> None:
    plan = plan_machine(machine(), on("overlay"), base=BASE)
    uid = claimed(plan).uid
    assert made(plan).uid == uid
    assert f"PrivateUsers={uid}:65536" in written(plan)[paths.settings_file("web")]
    assert f"X-mount.idmap=b:0:{uid}:65536" in written(plan)[LOWER]
    assert "upperdir=/var/lib/machctl/store/layers/web/upper" in written(plan)[MERGED]
    words = shown(plan)
    assert words.index(f"write {MERGED}") < words.index("mount the tree in /var/lib/machines/web")
    assert max(words.index(f"write {path}") for path in (LOWER, MERGED)) > words.index(str(made(plan)))


def test_ids_of_a_layer_stay_whatever_is_taken_since() -> None:
    host = host_with(machine(), driver="overlay")
    uid = host.records["web"].uid
    assert plan_machine(machine(), host) == []
    other = dataclasses.replace(host.records["web"], name="db")
    both = dataclasses.replace(host, records={**host.records, "db": other})
    assert not [step for step in plan_machine(machine(), both) if "uid" in str(step) or "mount" in str(step)]
    # The tree was deleted by hand; what is mounted instead of it has the same ids.
    gone = dataclasses.replace(host, trees={}, storage={"auto": "overlay"})
    assert made(plan_machine(machine(), gone, base=BASE)).uid == uid


def test_pool_that_changed_does_not_change_the_trees_in_it() -> None:
    for driver in ("btrfs", "overlay", "copy", "reflink"):
        host = host_with(machine(), driver=driver)
        assert plan_machine(machine(), dataclasses.replace(host, storage={"auto": "copy"})) == []


def test_two_new_layers_have_ids_of_their_own() -> None:
    host = on("overlay")
    first = plan_machine(machine("a"), host, base=BASE)
    taken = claimed(first).uid
    assert taken is not None
    # As if both names asked for the same range first.
    clash = with_claims(host, [steps.Claim(reason="x", record=Record("b2", uid=choose_uid("b", [])))])
    second = plan_machine(machine("b"), with_claims(clash, first), base=BASE)
    assert claimed(second).uid not in {taken, choose_uid("b", [])}


def test_unit_of_a_layer_that_was_edited_is_put_right() -> None:
    host = host_with(machine(), driver="overlay")
    plan = plan_machine(machine(), edited(host, MERGED, host.files[MERGED] + "Options=x\n"))
    assert shown(plan) == [f"write {MERGED}"]
    assert "reload systemd" in shown(
        plan_machine(
            machine(),
            dataclasses.replace(edited(host, MERGED, None), loaded=frozenset({mount_unit("/var/lib/machines/web")})),
        )
    )


def test_mount_unit_of_somebody_else_is_in_the_way() -> None:
    with pytest.raises(Conflict, match="machctl did not write it"):
        plan_machine(machine(), on("overlay", files={MERGED: "[Mount]\n"}), base=BASE)


def test_raw_image_is_kept_as_one_whatever_the_pool_is() -> None:
    declared = machine(source=parse_source("raw:/srv/disk.raw"))
    plan = plan_machine(declared, on("btrfs"), base=BASE._replace(kind="raw"))
    assert (made(plan).storage, claimed(plan).storage, claimed(plan).uid) == ("raw", "raw", None)


def test_storage_of_what_is_there_is_what_is_recorded() -> None:
    host = host_with(machine(), driver="overlay")
    assert storage_of(machine(), host) == "overlay"
    assert storage_of(machine(storage="btrfs"), host) == "overlay"
    # The layer itself says what it is when the record is lost.
    assert storage_of(machine(), dataclasses.replace(host, records={})) == "overlay"
    assert storage_of(machine("db", storage="reflink"), empty_host(storage={"reflink": "reflink"})) == "reflink"
    assert storage_of(machine("db"), empty_host()) == "copy"


@pytest.mark.parametrize("driver", ["btrfs", "reflink", "copy", "raw", ""])
def test_ids_are_fixed_for_layers_only(driver: str) -> None:
    host = empty_host(records={"web": Record("web", uid=FIRST)})
    assert uid_of(machine(), host, driver) is None
    assert uid_of(machine(), host, "overlay") == FIRST


def test_ids_come_in_whole_ranges_and_the_same_name_gets_the_same() -> None:
    uid = choose_uid("web", [])
    assert FIRST <= uid <= LAST
    assert uid % SIZE == 0
    assert choose_uid("web", []) == uid
    after = choose_uid("web", [uid])
    assert after != uid
    assert after % SIZE == 0
    # What comes after the last one is the first.
    assert choose_uid("web", range(uid, LAST + SIZE, SIZE)) == FIRST


def test_no_ids_left() -> None:
    every = range(FIRST, LAST + SIZE, SIZE)
    with pytest.raises(Conflict, match="no range of ids is left"):
        choose_uid("web", every)
    assert choose_uid("web", [uid for uid in every if uid != LAST]) == LAST


WITHOUT_INIT = BASE._replace(payload=PAYLOAD)


def test_payload_of_the_base_runs_and_has_its_address_from_outside() -> None:
    declared = machine(publish=(Publish(8080, 80),))
    plan = plan_machine(declared, on("btrfs"), base=WITHOUT_INIT)
    record = claimed(plan)
    assert record.payload == PAYLOAD
    settings = written(plan)[paths.settings_file("web")].splitlines()
    assert {"Boot=no", "ProcessTwo=yes", "NotifyReady=no", "User=www", "WorkingDirectory=/srv"} <= set(settings)
    assert 'Parameters="/bin/server" "--name" "the "\'"\'"best"\'"\'" one"' in settings
    assert [line for line in settings if line.startswith("Environment=")] == [
        'Environment="PATH=/bin"', 'Environment="MOTTO=a b"',
    ]  # fmt: skip
    address = record.addresses["br0"]
    (line,) = [
        line
        for line in written(plan)[paths.dropin_file("web")].splitlines()
        if line.startswith("ExecStartPost=/bin/sh")
    ]
    assert f"ip addr replace {address}/24 dev host0" in line
    assert f"ip route replace default via {address.rsplit('.', 1)[0]}.1" in line
    assert "nameserver 192.0.2.53" in written(plan)[paths.guest_resolv_conf("web")]
    assert f"BindReadOnly={paths.guest_resolv_conf('web')}:{paths.GUEST_RESOLV_CONF}" in settings


def test_payload_stays_with_the_tree() -> None:
    host = host_with(machine(), payload=PAYLOAD)
    assert plan_machine(machine(), host) == []
    plan = plan_machine(machine(memory=2**28), host)
    assert "Boot=no" in host.files[paths.settings_file("web")]
    assert paths.settings_file("web") not in written(plan)


def test_tree_that_is_made_anew_runs_what_its_new_base_does() -> None:
    host = dataclasses.replace(host_with(machine(), payload=PAYLOAD), trees={})
    assert place(machine(), host).payload is None
    plan = plan_machine(machine(), host, base=BASE)
    assert claimed(plan).payload is None
    assert "Boot=yes" in written(plan)[paths.settings_file("web")]


@pytest.mark.parametrize(
    ("driver", "line"), [("btrfs", "Ephemeral=yes"), ("overlay", "Volatile=overlay"), ("copy", "Volatile=overlay")]
)
def test_ephemeral(driver: str, line: str) -> None:
    settings = written(plan_machine(machine(ephemeral=True), on(driver), base=BASE))[paths.settings_file("web")]
    assert line in settings.splitlines()
    host = host_with(machine(), driver=driver)
    step, *rest = plan_machine(machine(ephemeral=True), host)
    # Of a layer in memory nspawn leaves / to the host's root, where the tree's owners are fixed.
    written_too = [other.text for other in rest if isinstance(other, steps.WriteFile)]
    assert any(" chown " in text for text in written_too) == (driver == "overlay")
    assert f"+{line}" in step.detail.splitlines()


@pytest.mark.parametrize(
    ("have", "wanted", "said"),
    [
        (None, 2**30, "its disk is limited"),
        (2**30, 2**31, "its disk has another limit"),
        (2**30, None, "its disk has another limit"),
        (2**30, 2**30, None),
        (None, None, None),
    ],
)
def test_disk(have: int | None, wanted: int | None, said: str | None) -> None:
    declared = machine(disk=wanted)
    host = host_with(machine(disk=have), driver="btrfs")
    plan = [step for step in plan_machine(declared, host) if isinstance(step, steps.SetDisk)]
    assert [(step.reason, step.size) for step in plan] == ([(said, wanted)] if said else [])


def test_disk_of_a_new_tree_is_limited_once_it_is_placed() -> None:
    plan = plan_machine(machine(disk=2**30), on("btrfs"), base=BASE)
    assert kinds(plan).index(steps.PlaceTree) < kinds(plan).index(steps.SetDisk)
    assert claimed(plan).disk == 2**30


def test_limit_that_somebody_took_away_is_put_back() -> None:
    host = host_with(machine(disk=2**30), driver="btrfs", disks={})
    assert shown(plan_machine(machine(disk=2**30), host)) == ["let web have 1073741824 bytes of disk"]


@pytest.mark.parametrize(
    ("now", "note"),
    [
        (machine(storage="btrfs"), "storage"),
        (machine(source=parse_source("arch")), "source"),
        (machine(keyring="/k.gpg"), "keyring"),
        (machine(checksum="sha256:" + "0" * 64), "checksum"),
        (machine(ephemeral=True), ""),
        (machine(disk=2**30), ""),
    ],
)
def test_what_counts_for_a_new_tree_only(now: Machine, note: str) -> None:
    made = Record("web", made={"source": str(TRIXIE)})
    host = dataclasses.replace(host_with(machine()), records={"web": made})
    assert tree_note(now, host) == (f"{note} changed since its tree was made, which stays as it is" if note else "")


def test_intent_is_recorded_and_only_that_of_a_throwaway_outlives_a_plan() -> None:
    plan = plan_machine(machine(), on("btrfs"), base=BASE, intent="throwaway")
    assert claimed(plan).intent == "throwaway"
    assert "record that machine web is to go when its command ends" in shown(plan)
    host = host_with(machine())
    throwaway = dataclasses.replace(host.records["web"], intent="throwaway")
    assert plan_machine(machine(), dataclasses.replace(host, records={"web": throwaway})) == []
    half_gone = dataclasses.replace(host.records["web"], intent="remove")
    assert claimed(plan_machine(machine(), dataclasses.replace(host, records={"web": half_gone}))).intent == ""


def test_declaration_says_how_the_tree_is_to_be_kept() -> None:
    text = write_machine(machine(storage="overlay", disk=10 * 2**30, ephemeral=True))
    assert {'storage = "overlay"', 'disk = "10G"', "ephemeral = true"} <= set(text.splitlines())


def test_what_nobody_could_make_again_is_declared_once_it_is_there() -> None:
    plan = plan_machine(machine(), on("btrfs"), declaration="x", base=BASE, intent="new")
    kinds = [type(step).__name__ for step in plan]
    declared = next(index for index, step in enumerate(plan) if getattr(step, "text", "") == "x")
    assert kinds.index("PlaceTree") < declared < kinds.index("Keep")
    assert claimed(plan).intent == "new"
    kept = plan[kinds.index("Keep")]
    assert isinstance(kept, steps.Keep)
    assert kept.record == dataclasses.replace(claimed(plan), intent="")
