# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compiled templates say what jinja2 says of them, and are not used once they are stale."""

from __future__ import annotations

import sys
import types

import pytest

from machines.errors import InvalidValue
from machines.model.base import Payload
from machines.model.machine import Bind, Publish
from machines.render import compiling, environment
from machines.render.machine import render_machine
from machines.render.networks import render_bridge
from machines.render.placement import Placement
from samples import NETWORK, PAYLOAD, machine, placed

MACHINES = [
    machine(),
    machine(hostname="w", memory=1 << 20, cpus=1.5, bridges=("br0", "lan0"), autostart=True),
    machine(publish=(Publish(8080, 80), Publish(53, 53, "192.0.2.1")), binds=(Bind("/a:b", "/c", read_only=True),)),
    machine(ephemeral=True, disk=1 << 30),
]
PLACEMENTS = [
    placed(),
    placed(payload=PAYLOAD, uid=1 << 20, storage="overlay"),
    placed(payload=Payload(("/x",)), storage="btrfs", ipv6_loopback=False),
    Placement(networkd=False),
]


def everything() -> list[dict[str, str]]:
    """Every template with what it can be given."""
    rendered = [render_machine(one, place) for one in MACHINES for place in PLACEMENTS]
    mount = environment.render("pool.mount", header="#", description="d", what="w", where="/x", type="t", options="o")
    bridges = [render_bridge(NETWORK, networkd=True, dns=dns) for dns in ((), ("192.0.2.53",))]
    return [*rendered, *bridges, {"pool.mount": mount}]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Templates compiled as the installer does, for this test."""
    module = types.ModuleType("machines.render.compiled")
    exec(compiling.source(), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_compiled_templates_say_the_same(monkeypatch: pytest.MonkeyPatch, compiled: types.ModuleType) -> None:
    assert {name.removesuffix(".j2") for name in compiled.TEMPLATES} >= {"machine.nspawn", "tree.mount", "pool.mount"}
    monkeypatch.setattr(environment, "environment", lambda: pytest.fail("jinja2 is used"))
    fast = everything()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, compiled.__name__, None)
    assert fast == everything()


def test_values_stay_values(compiled: types.ModuleType) -> None:
    with pytest.raises(InvalidValue):
        environment.render("resolv.conf", header="# x", dns=["192.0.2.53\nnameserver 192.0.2.66"])
    with pytest.raises(NameError):
        environment.render("resolv.conf", header="# x")


def test_stale_ones_are_left(compiled: types.ModuleType) -> None:
    compiled.TEMPLATES["resolv.conf.j2"] = 1, lambda values: "stale"
    assert environment.render("resolv.conf", header="# x", dns=[], domain="") == "# x\n"
