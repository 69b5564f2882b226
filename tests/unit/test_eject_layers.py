# SPDX-License-Identifier: LGPL-2.1-or-later
"""An ejected machine whose tree is a layer goes on needing what is below it."""

from __future__ import annotations

import dataclasses

import pytest

from machines.model.base import IMPORTED
from machines.model.observed import Host, Record
from machines.plan import steps
from machines.plan.eject import plan_eject
from machines.plan.gc import half_made
from machines.plan.remove import plan_remove
from machines.plan.storage import choose_uid, uid_of
from samples import BASE, host_with, kinds, machine

A, B = machine("a"), machine("b")
ALONE = BASE._replace(source=f"{IMPORTED}a")


def overlaid() -> Host:
    host = host_with(A, B, driver="overlay", bases={ALONE.id: ALONE})
    trees = {name: tree._replace(base=ALONE.id, uid=host.records[name].uid) for name, tree in host.trees.items()}
    return dataclasses.replace(host, trees=trees)


def ejected(host: Host, name: str) -> Record:
    host = dataclasses.replace(host, networks={})
    plan, _ = plan_eject(name, host, {"a": A, "b": B})
    (kept,) = [step.record for step in plan if isinstance(step, steps.Keep)]
    return kept


def test_what_it_is_over_stays_recorded_without_an_address() -> None:
    host = overlaid()
    record = host.records["a"]
    own = dataclasses.replace(record, addresses={}, networks=())
    kept = ejected(dataclasses.replace(host, records={**host.records, "a": own}), "a")
    assert (kept.intent, kept.storage, kept.base, kept.uid) == ("ejected", "overlay", record.base, record.uid)


@pytest.mark.parametrize("recorded", [True, False])
def test_the_base_of_an_ejected_machine_does_not_go_with_another(recorded: bool) -> None:
    host = overlaid()
    records = {"b": host.records["b"]}
    if recorded:
        records["a"] = Record("a", storage="overlay", base=ALONE.id, intent="ejected")
    plan = plan_remove("b", dataclasses.replace(host, records=records), {"b": B})
    assert steps.RemoveBase not in kinds(plan)
    gone = dataclasses.replace(host, records={"b": host.records["b"]}, trees={"b": host.trees["b"]})
    assert steps.RemoveBase in kinds(plan_remove("b", gone, {"b": B}))


def test_its_ids_are_nobody_elses() -> None:
    host = overlaid()
    uid = choose_uid("web", [])
    trees = {**host.trees, "a": host.trees["a"]._replace(uid=uid)}
    assert uid_of(machine(), dataclasses.replace(host, records={}, trees=trees), "overlay") != uid


def test_it_is_no_killed_run_where_its_tree_cannot_be_seen() -> None:
    host = overlaid()
    record = Record("a", storage="overlay", base=ALONE.id, intent="ejected")
    assert half_made(dataclasses.replace(host, records={"a": record}, trees={}), {}) == []
