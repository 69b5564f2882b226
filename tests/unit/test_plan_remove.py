# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is taken away with a machine, and what stays as others need it."""

from __future__ import annotations

import dataclasses

import pytest

from machines.declare.write import write_machine
from machines.errors import Conflict
from machines.model.machine import Publish
from machines.model.observed import Link
from machines.model.tree import Tree
from machines.plan import steps
from machines.plan.gc import half_made, plan_gc
from machines.plan.machine import plan_machine
from machines.plan.remove import plan_remove
from machines.plan.rename import plan_rename
from machines.render import paths
from samples import BASE, PAYLOAD, edited, empty_host, host_with, kinds, machine, running, shown

WEB = machine(publish=(Publish(8080, 80),))
DB = machine("db")
NOBODY: frozenset[str] = frozenset()


def removed(plan: list[steps.Step]) -> set[str]:
    return {step.path for step in plan if isinstance(step, steps.RemoveFile)}


def test_last_machine_takes_everything_along() -> None:
    host = host_with(WEB)
    plan = plan_remove("web", host, {"web": WEB})
    assert set(host.files) - {paths.HOSTS_FILE} <= removed(plan)
    assert shown(plan) == [
        "record that machine web is being removed",
        "stop machctl-port-web_8080.socket machctl-port-web_8080.service",
        "remove /etc/systemd/system/machctl-port-web_8080.socket",
        "remove /etc/systemd/system/machctl-port-web_8080.service",
        "remove /var/lib/machctl/nat/machine-web.nft",
        "remove /var/lib/machctl/guests/web/05-machctl-host0.network",
        "remove /etc/systemd/nspawn/web.nspawn",
        "remove /etc/systemd/system/systemd-nspawn@web.service.d/50-machctl.conf",
        "remove /etc/machctl/fleet.d/web.toml",
        "remove the tree /var/lib/machines/web",
        "reload systemd",
        "remove /var/lib/machctl/machines/web.json",
        "stop machctl-bridge@br0.service",
        "remove /var/lib/machctl/nat/bridge-br0.nft",
        "remove /etc/systemd/network/70-machctl-br0.netdev",
        "remove /etc/systemd/network/70-machctl-br0.network",
        "reload systemd-networkd",
        "remove link br0",
        "remove /var/lib/machctl/networks/br0.json",
        "drop the nft table inet machctl",
        "stop machctl-nat.service",
        "remove /var/lib/machctl/nat.nft",
        "keep the names of machines in /etc/hosts",
    ]


def test_bridge_stays_while_another_machine_is_on_it() -> None:
    host = host_with(WEB, DB)
    plan = plan_remove("web", host, {"web": WEB, "db": DB})
    assert not [path for path in removed(plan) if "br0" in path or "db" in path]
    assert steps.RemoveLink not in kinds(plan)
    assert paths.NAT_FILE not in removed(plan)
    assert shown(plan)[-2] == "load the nft table inet machctl"
    assert shown(plan)[-1] == "keep the names of machines in /etc/hosts and in the trees of db"


@pytest.mark.parametrize(("ports", "stays"), [
    ((), False),
    (("vb-web",), False),
    (("vb-web", "eth1"), True),
    (("vb-webfront",), True),
    (("tap0",), True),
])  # fmt: skip
def test_bridge_stays_while_a_link_of_others_is_on_it(ports: tuple[str, ...], *, stays: bool) -> None:
    host = running(host_with(WEB, links={"br0": Link("br0", "bridge", ports)}), "web")
    plan = plan_remove("web", host, {"web": WEB})
    assert (steps.RemoveLink not in kinds(plan)) is stays
    assert paths.machine_record("web") in removed(plan)
    assert (paths.network_record("br0") not in removed(plan)) is stays


def test_bridge_that_networkd_may_make_again_is_removed_though_it_is_away() -> None:
    assert steps.RemoveLink in kinds(plan_remove("web", host_with(WEB, links={}), {"web": WEB}))
    without = dataclasses.replace(host_with(WEB, links={}), networkd=False)
    files = {path: text for path, text in without.files.items() if not path.startswith(paths.NETWORK_DIRECTORY)}
    assert steps.RemoveLink not in kinds(plan_remove("web", dataclasses.replace(without, files=files), {"web": WEB}))


def test_nat_of_a_bridge_that_stays_is_kept() -> None:
    host = host_with(WEB, links={"br0": Link("br0", "bridge", ("tap0",))})
    plan = plan_remove("web", host, {"web": WEB})
    assert paths.NAT_FILE not in removed(plan)
    assert "drop the nft table inet machctl" not in shown(plan)
    assert "stop machctl-nat.service" not in shown(plan)


def test_machine_with_a_long_name_is_alone_on_its_bridge() -> None:
    long = machine("frontend-of-the-shop")
    host = running(host_with(long, links={"br0": Link("br0", "bridge", ("vb-frontendAbCd",))}), long.name)
    assert steps.RemoveLink in kinds(plan_remove(long.name, host, {long.name: long}))


def test_bridge_stays_while_it_is_not_plain_whose_a_cut_link_is() -> None:
    # nspawn cuts both names to the same eleven characters and adds a hash.
    long, alike = machine("frontend-of-the-shop"), "frontend-of-others"
    link = Link("br0", "bridge", ("vb-frontendAbCd",))
    host = running(host_with(long, links={"br0": link}), long.name, alike)
    assert steps.RemoveLink not in kinds(plan_remove(long.name, host, {long.name: long}))


def test_foreign_bridge_is_never_removed() -> None:
    declared = machine(bridges=("lan0",))
    host = empty_host(links={"lan0": Link("lan0", "bridge")}, trees={"web": Tree("web", "/var/lib/machines/web")})
    plan = plan_remove("web", host, {"web": declared})
    assert steps.RemoveLink not in kinds(plan)
    assert not [step for step in plan if "lan0" in str(step)]


def test_running_machine_is_ended_first() -> None:
    plan = plan_remove("web", running(host_with(WEB), "web"), {"web": WEB})
    # Before anything else is done it is known what is being done, and the name is out of use once nothing is left.
    first, _, third = shown(plan)[:3]
    assert (first, third) == ("record that machine web is being removed", "terminate web")


def test_remove_that_is_finished_claims_nothing_again() -> None:
    host = host_with(WEB)
    records = {"web": dataclasses.replace(host.records["web"], intent="remove")}
    plan = plan_remove("web", dataclasses.replace(host, records=records), {"web": WEB})
    assert steps.Claim not in kinds(plan)
    assert removed(plan) >= set(host.files) - {paths.HOSTS_FILE}


def test_claim_of_a_remove_changes_nothing_but_the_intent() -> None:
    host = host_with(machine(disk=2**30), driver="overlay", payload=PAYLOAD)
    claim = plan_remove("web", host, {})[0]
    assert isinstance(claim, steps.Claim)
    assert claim.record == dataclasses.replace(host.records["web"], intent="remove")


def test_units_that_systemd_has_not_loaded_are_not_read_again() -> None:
    assert "reload systemd" not in shown(plan_remove("web", host_with(WEB, loaded=frozenset()), {"web": WEB}))


@pytest.mark.parametrize("trees", ["there", "gone"])
def test_layer_goes_with_its_tree_and_its_units(trees: str) -> None:
    host = host_with(WEB, driver="overlay")
    host = dataclasses.replace(host, trees=host.trees if trees == "there" else {})
    plan = plan_remove("web", host, {"web": WEB})
    (tree,) = [step for step in plan if isinstance(step, steps.RemoveTree)]
    assert tree.layer == "web"
    units = {f"{paths.UNIT_DIRECTORY}/{unit}" for unit in paths.mount_units("web")}
    assert units <= set(host.files)
    assert units <= removed(plan)
    # systemd unmounts them in order as long as it knows them, and a run that is killed is finished by the record.
    assert kinds(plan).index(steps.RemoveTree) < shown(plan).index("reload systemd")
    assert shown(plan).index(f"remove {paths.machine_record('web')}") > kinds(plan).index(steps.RemoveTree)


@pytest.mark.parametrize("driver", ["copy", "btrfs", "reflink"])
def test_tree_that_is_no_layer_has_none(driver: str) -> None:
    (tree,) = [
        s for s in plan_remove("web", host_with(WEB, driver=driver), {"web": WEB}) if isinstance(s, steps.RemoveTree)
    ]
    assert (tree.path, tree.layer) == ("/var/lib/machines/web", "")


def test_raw_image_is_removed_where_it_is() -> None:
    raw = {"web": Tree("web", "/var/lib/machines/web.raw", "raw")}
    assert "remove the tree /var/lib/machines/web.raw" in shown(
        plan_remove("web", host_with(WEB, trees=raw), {"web": WEB})
    )


def test_autostart_is_taken_back() -> None:
    host = host_with(WEB, enabled={"web": True})
    assert "disable systemd-nspawn@web.service" in shown(plan_remove("web", host, {"web": WEB}))


def test_link_to_its_journal_goes() -> None:
    host = host_with(WEB, journals={"web": "/var/log/journal/0123", "db": "/var/log/journal/4567"})
    gone = removed(plan_remove("web", host, {"web": WEB}))
    assert "/var/log/journal/0123" in gone
    assert "/var/log/journal/4567" not in gone


@pytest.mark.parametrize("origin", ["/etc/machctl/fleet.toml", "/etc/machctl/fleet.d/shop.toml"])
def test_file_that_declares_others_is_for_people_to_edit(origin: str) -> None:
    web, db = dataclasses.replace(WEB, origin=origin), dataclasses.replace(DB, origin=origin)
    with pytest.raises(Conflict, match="together with others") as caught:
        plan_remove("web", host_with(web, db), {"web": web, "db": db})
    assert "[machines.web]" in caught.value.hint
    assert origin in caught.value.message


@pytest.mark.parametrize("more", ["[networks.lab]", "[machines.wrong]\nsource = 1", "[images]\nstale-after = 9", "["])
def test_file_that_says_anything_else_is_not_removed_with_a_machine(more: str) -> None:
    host = host_with(WEB)
    host = edited(host, WEB.origin, f"{host.files[WEB.origin]}\n{more}\n")
    with pytest.raises(Conflict, match="together with others"):
        plan_remove("web", host, {"web": WEB})
    with pytest.raises(Conflict, match="together with others"):
        plan_rename("web", "site", host, {"web": WEB})


def test_machine_that_machctl_did_not_make() -> None:
    tree = {"old": Tree("old", "/var/lib/machines/old")}
    host = edited(empty_host(trees=tree), paths.settings_file("old"), "[Exec]\nBoot=yes\n")
    assert shown(plan_remove("old", host, {})) == [
        "remove /etc/systemd/nspawn/old.nspawn",
        "remove the tree /var/lib/machines/old",
    ]


def test_settings_that_were_copied_from_a_machine_go_with_the_copy_alone() -> None:
    host = host_with(WEB)
    copied = paths.settings_file("copy")
    trees = {**host.trees, "copy": Tree("copy", "/var/lib/machines/copy")}
    host = dataclasses.replace(edited(host, copied, host.files[paths.settings_file("web")]), trees=trees)
    assert copied not in removed(plan_remove("web", host, {"web": WEB}))
    assert removed(plan_remove("copy", host, {"web": WEB})) == {copied}


def test_foreign_settings_of_a_declared_machine_stay() -> None:
    host = edited(host_with(WEB), paths.settings_file("web"), "[Exec]\n")
    assert paths.settings_file("web") not in removed(plan_remove("web", host, {"web": WEB}))


def test_removing_what_is_half_made() -> None:
    host = host_with(WEB, trees={})
    plan = plan_remove("web", edited(host, WEB.origin, None), {})
    assert steps.RemoveTree not in kinds(plan)
    assert paths.machine_record("web") in removed(plan)


@pytest.mark.parametrize("driver", ["copy", "btrfs", "overlay"])
def test_what_create_made_is_what_rm_removes(driver: str) -> None:
    host = empty_host(storage={"auto": driver})
    plan = plan_machine(WEB, host, declaration=write_machine(WEB), base=BASE)
    written = {step.path for step in plan if isinstance(step, steps.WriteFile)}
    assert written <= removed(plan_remove("web", host_with(WEB, driver=driver), {"web": WEB}))


def test_gc_does_nothing_on_a_tidy_host() -> None:
    assert plan_gc(host_with(WEB, DB), {"web": WEB, "db": DB}, {}, busy=NOBODY) == []


def test_gc_removes_what_a_killed_create_left() -> None:
    host = edited(host_with(WEB, trees={}), WEB.origin, None)
    left = {"/var/lib/machines/.#machctl-new-web": "web"}
    assert half_made(host, {}) == ["web"]
    plan = plan_gc(host, {}, left, busy=NOBODY, temporary=["/etc/.x"], store=["/store/layers/.db.new"])
    assert shown(plan)[1:3] == ["remove /etc/.x", "remove /store/layers/.db.new"]
    assert shown(plan)[0] == "remove the tree /var/lib/machines/.#machctl-new-web"
    assert removed(plan) >= set(host.files) - {paths.HOSTS_FILE}
    assert shown(plan).count("remove link br0") == 1


def test_gc_leaves_what_is_being_made() -> None:
    host = edited(host_with(WEB, trees={}), WEB.origin, None)
    left = {"/var/lib/machines/.#machctl-new-web": "web"}
    assert plan_gc(host, {}, left, busy=frozenset({"web"})) == []


def test_gc_leaves_a_machine_whose_tree_was_deleted_by_hand() -> None:
    host = host_with(WEB, trees={})
    assert plan_gc(host, {"web": WEB}, {}, busy=NOBODY) == []


def test_gc_leaves_a_tree_whose_declaration_was_deleted() -> None:
    host = edited(host_with(WEB), WEB.origin, None)
    assert plan_gc(host, {}, {}, busy=NOBODY) == []


@pytest.mark.parametrize(
    ("intent", "declared", "tree", "half"),
    [
        ("", True, True, False),
        ("", True, False, False),
        ("", False, True, False),
        ("", False, False, True),
        ("remove", True, True, False),
        ("remove", True, False, False),
        ("remove", False, True, True),
        ("remove", False, False, True),
        ("throwaway 17.42", True, True, True),
        ("throwaway 17.42", True, False, True),
        ("throwaway 17.42", False, True, True),
        ("throwaway 17.42", False, False, True),
    ],
)
def test_what_is_half_made(intent: str, *, declared: bool, tree: bool, half: bool) -> None:
    host = host_with(WEB)
    host = dataclasses.replace(host, trees=host.trees if tree else {})
    host = dataclasses.replace(host, records={"web": dataclasses.replace(host.records["web"], intent=intent)})
    names = {"web": WEB} if declared else {}
    assert half_made(host, names) == (["web"] if half else [])
    assert half_made(host, names, busy=frozenset({"web"})) == []
    plan = plan_gc(host, names, {}, busy=NOBODY)
    assert (paths.machine_record("web") in removed(plan)) is half
    assert (steps.RemoveTree in kinds(plan)) is (half and tree)


def test_gc_finishes_the_remove_of_a_layer_whose_tree_is_gone() -> None:
    host = edited(host_with(WEB, driver="overlay", trees={}), WEB.origin, None)
    (tree,) = [step for step in plan_gc(host, {}, {}, busy=NOBODY) if isinstance(step, steps.RemoveTree)]
    assert tree.layer == "web"


@pytest.mark.parametrize(("ports", "goes"), [((), True), (("tap0",), False)])
def test_gc_removes_a_bridge_that_nobody_is_on_any_more(ports: tuple[str, ...], *, goes: bool) -> None:
    host = host_with(WEB)
    bridge_files = {path: text for path, text in host.files.items() if paths.owner(path, text) != ("machine", "web")}
    del bridge_files[WEB.origin]
    host = dataclasses.replace(
        host, files=bridge_files, trees={}, records={}, links={"br0": Link("br0", "bridge", ports)}
    )
    plan = plan_gc(host, {}, {}, busy=NOBODY)
    assert ("remove link br0" in shown(plan)) is goes
    assert (paths.network_record("br0") in removed(plan)) is goes


def test_gc_drops_the_nat_table_with_the_last_bridge() -> None:
    host = host_with(WEB)
    nat_files = {path: text for path, text in host.files.items() if paths.owner(path, text) != ("machine", "web")}
    del nat_files[WEB.origin]
    plan = plan_gc(dataclasses.replace(host, files=nat_files, trees={}, records={}), {}, {}, busy=NOBODY)
    assert paths.NAT_FILE in removed(plan)
    assert "drop the nft table inet machctl" in shown(plan)


def test_gc_drops_the_nat_table_that_a_killed_run_left() -> None:
    host = dataclasses.replace(host_with(), files={paths.NAT_FILE: "# machctl: fleet"}, networks={})
    assert shown(plan_gc(host, {}, {}, busy=NOBODY)) == [
        "drop the nft table inet machctl",
        "stop machctl-nat.service",
        "remove /var/lib/machctl/nat.nft",
    ]


def test_gc_of_two_half_made_machines_removes_their_bridge_once() -> None:
    host = host_with(WEB, DB, trees={})
    host = edited(edited(host, WEB.origin, None), DB.origin, None)
    plan = plan_gc(host, {}, {}, busy=NOBODY)
    assert shown(plan).count("remove link br0") == 1
    assert {paths.machine_record("web"), paths.machine_record("db")} <= removed(plan)
