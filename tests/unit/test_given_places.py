# SPDX-License-Identifier: LGPL-2.1-or-later
"""Environment of a machine that nothing can be written to: the place where it is shown it is there before it starts."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.declare.fleet import parse_fleet
from machines.operations import fleet
from machines.render import paths


@pytest.mark.parametrize("held", [{"read_only": True}, {"volatile": "yes"}, {}])
def test_tree_from_before_gets_the_place(held: dict[str, object]) -> None:
    host = FakeHost()
    create(host, web())
    place = f"{paths.tree('web')}{paths.GUEST_MANAGER_FILE}"
    # Of a base that was made before there was such a thing.
    for path in [path for path in host.guests.texts if path.endswith(paths.GUEST_MANAGER_FILE)]:
        del host.guests.texts[path]

    def edit(**values: object) -> None:
        change = fleet.change("web", lambda was: dataclasses.replace(was, **values), host, REPORTER, dry_run=False)
        asyncio.run(change)

    edit(environment=(("A", "b"),))
    assert place not in host.guests.texts, "nspawn makes it where it can write"
    edit(**held)
    assert (place in host.guests.texts) is bool(held)


def test_machine_of_a_base_from_before_gets_the_place() -> None:
    host = FakeHost()
    create(host, web())
    for path in [path for path in host.guests.texts if path.endswith(paths.GUEST_MANAGER_FILE)]:
        del host.guests.texts[path]
    create(host, dataclasses.replace(web("db", publish=()), environment=(("A", "b"),), read_only=True))
    assert f"{paths.tree('db')}{paths.GUEST_MANAGER_FILE}" in host.guests.texts


@pytest.mark.parametrize("held", ["read-only = true", "volatile = 'yes'"])
def test_image_that_nobody_looked_into_is_refused(held: str) -> None:
    text = f"[machines.web]\nsource = 'raw:/web.raw'\n{held}\nenvironment = {{ A = 'b' }}\n"
    machines, errors = parse_fleet({"/f": text})
    assert machines == {}
    assert "web has an image that is not looked into" in errors[0].message
