# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports on 127.0.0.1 that no proxy passes on: the kernel routes that over a bridge for as long as somebody needs it."""

from __future__ import annotations

import asyncio

import pytest

from acting import REPORTER, apply, create, web
from fakes import FakeHost
from keeping import PRUNE, Keeping, applied, forget
from machines.declare.fleet import own_file
from machines.model.machine import Publish
from machines.operations import fleet
from machines.operations.garbage import collect_garbage
from machines.operations.ports import unpublished
from machines.operations.remove import remove, remove_all

pytestmark = pytest.mark.usefixtures("as_root")

KEY = "net/ipv4/conf/br0/route_localnet"


def host_of(*names: str) -> FakeHost:
    """A host with machines on one bridge, of which each has a port of UDP; and another on it without."""
    host = Keeping()
    create(host, web("plain", publish=()))
    for number, name in enumerate(names):
        create(host, web(name, publish=(Publish(5300 + number, 53, None, "udp"),)))
    assert host.sysctls == {KEY: 1}
    return host


def unpublish(host: FakeHost, name: str, port: str) -> None:
    asyncio.run(fleet.change(name, unpublished([port]), host, REPORTER, dry_run=False))


def drop(host: FakeHost, *names: str) -> None:
    if len(names) == 1:
        asyncio.run(remove(names[0], host, REPORTER, force=False, dry_run=False))
    else:
        assert asyncio.run(remove_all(names, host, REPORTER, force=False, done=lambda name: None)) == {}


def test_it_ends_with_the_last_port_that_needs_it() -> None:
    host = host_of("a", "b")
    unpublish(host, "a", "5300/udp")
    assert host.sysctls == {KEY: 1}
    unpublish(host, "b", "5301/udp")
    assert host.sysctls == {KEY: 0}


@pytest.mark.parametrize("many", [True, False])
def test_it_ends_with_the_last_machine_that_needs_it(*, many: bool) -> None:
    host = host_of("a", "b", "c")
    drop(host, "a")
    assert host.sysctls == {KEY: 1}
    for names in (("b", "c"),) if many else (("b",), ("c",)):
        drop(host, *names)
    assert host.sysctls == {KEY: 0}
    assert "br0" in host.bridges


def test_it_ends_with_what_apply_takes_away() -> None:
    host = host_of("a", "b")
    forget(host, "a")
    forget(host, "b")
    assert applied(host, PRUNE) == {}
    assert host.sysctls == {KEY: 0}


def test_it_goes_on_for_a_port_that_moves() -> None:
    host = host_of("b")
    text = host.files.texts[own_file("b")]
    host.files.texts[own_file("plain")] = text.replace("[machines.b]", "[machines.plain]")
    host.files.texts[own_file("b")] = "".join(line for line in text.splitlines(True) if "publish" not in line)
    apply(host)
    assert host.sysctls == {KEY: 1}
    host.files.texts[own_file("plain")] = host.files.texts[own_file("b")].replace("machines.b", "machines.plain")
    apply(host)
    assert host.sysctls == {KEY: 0}


def test_it_ends_with_machines_that_were_half_made() -> None:
    host = host_of("a", "b")
    for name in ("a", "b"):
        forget(host, name)
        del host.placed[name]
    asyncio.run(collect_garbage(host, REPORTER, dry_run=False))
    assert host.sysctls == {KEY: 0}
