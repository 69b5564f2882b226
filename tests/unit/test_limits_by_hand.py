# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits that somebody set by hand (systemctl set-property): taken back where they are declared, else left."""

from __future__ import annotations

import dataclasses
import os

import pytest

from machines.host.bus.systemd1 import SystemdManager
from machines.model.limits import Limits
from machines.plan import steps
from machines.plan.machine import plan_machine
from samples import edited, host_with, machine, running

TASKS = "/run/systemd/system.control/systemd-nspawn@web.service.d/50-TasksMax.conf"
MEMORY = "/etc/systemd/system.control/systemd-nspawn@web.service.d/50-MemoryMax.conf"
SET = '# This is a drop-in unit file extension, created via "systemctl set-property"\n[Service]\n{}\n'


def test_limits_that_were_set_by_hand_are_taken_back() -> None:
    """Also where the kernel says nothing of them, and where they would be there after a restart."""
    web = machine(tasks=400, memory=2**28)
    host = edited(edited(host_with(web), TASKS, SET.format("TasksMax=77")), MEMORY, SET.format("MemoryMax=128974848"))
    plan = plan_machine(web, running(host, "web"))
    assert [str(step) for step in plan[:-1]] == [f"remove {MEMORY}", f"remove {TASKS}"]
    (limits,) = [step for step in plan if isinstance(step, steps.SetLimits)]
    assert limits.reason == "changed by hand, memory: 128974848 -> 268435456, tasks: 77 -> 400"
    assert (limits.limits, limits.left) == (Limits.of(web), ())
    stopped = plan_machine(web, host)
    assert [str(step) for step in stopped] == [f"remove {MEMORY}", f"remove {TASKS}", "reload systemd"]
    same = edited(edited(host, TASKS, SET.format("TasksMax=400")), MEMORY, SET.format("MemoryMax=256M"))
    assert plan_machine(web, running(same, "web")) == []


def test_limits_that_nobody_declared_are_left_to_whoever_set_them() -> None:
    host = edited(host_with(machine()), TASKS, SET.format("TasksMax=77"))
    host = dataclasses.replace(running(host, "web"), limits={"web": {"tasks": 77, "memory": None}})
    assert plan_machine(machine(), host) == []
    (step,) = [step for step in plan_machine(machine(memory=2**28), host) if isinstance(step, steps.SetLimits)]
    assert step.reason == "the kernel has others, memory: none -> 268435456"
    assert step.left == ("tasks",)


def test_what_else_stands_in_a_file_of_set_property_stays() -> None:
    web = machine(tasks=400)
    host = edited(host_with(web), TASKS, SET.format("TasksMax=infinity\nCPUWeight=50"))
    (write, *_) = plan_machine(web, running(host, "web"))
    assert isinstance(write, steps.WriteFile)
    assert write.over
    assert write.text == SET.format("CPUWeight=50")


def test_limits_that_are_left_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    manager, said, gone = SystemdManager(), list[str](), list[str]()
    monkeypatch.setattr(manager, "set_properties", lambda unit, values, runtime: said.extend(values))
    monkeypatch.setattr(manager, "reload", lambda: None)
    monkeypatch.setattr(os, "unlink", gone.append)
    manager.set_limits("u.service", Limits(memory=2**28), ("tasks", "cpus"))
    assert sorted(said) == ["CPUWeight", "IOWeight", "MemoryHigh", "MemoryMax", "MemorySwapMax"]
    assert not [path for path in gone if "TasksMax" in path or "CPUQuota" in path]
    assert "/run/systemd/system.control/u.service.d/50-MemoryMax.conf" in gone


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("memory", "256M", False), ("memory", "268435456", False), ("memory", "1G", True), ("memory", "50%", True),
        ("memory", "infinity", True), ("cpus", "150%", False), ("cpus", "50%", True), ("swap", "0", False),
        ("tasks", "16384", True), ("tasks", "400", False), ("tasks", "", True),
    ],
)  # fmt: skip
def test_a_file_says_another_limit(name: str, text: str, *, wanted: bool) -> None:
    assert Limits(memory=2**28, cpus=1.5, swap=0, tasks=400).contradicted(name, text) is wanted
