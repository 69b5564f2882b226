# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others describe, beside what is declared already: names, what only one can have, and braces as they are."""

from __future__ import annotations

import asyncio
import json

import pytest

from acting import REPORTER, declare
from fakes import POOL, FakeHost
from machines.declare.fleet import own_file
from machines.errors import Conflict, InvalidFile
from machines.model.tree import Tree
from machines.operations.adopt import Adoption, adopt, adopt_from
from machines.operations.declared import declared_machines

pytestmark = pytest.mark.usefixtures("as_root")


def adopted_from(host: FakeHost, path: str, text: str) -> list[Adoption]:
    host.files.texts[path] = text
    return asyncio.run(adopt_from([], path, host, REPORTER, dry_run=False))


def service(**said: object) -> str:
    return json.dumps({"services": {"web": {"image": "nginx", **said}}})


def test_a_port_that_replicas_cannot_share_is_left_out(host: FakeHost) -> None:
    text = service(deploy={"replicas": 2}, ports=["9999:80"], networks={"lab": {"ipv4_address": "10.1.0.5"}})
    (done,) = adopted_from(host, "/srv/compose.json", text)
    left = {each.what: each.why for each in done.unmapped}
    assert left["publish = 9999:80"] == "port 9999:80 cannot be that of all replicas"
    assert left["bridges = lab,ip=10.1.0.5"] == "address 10.1.0.5 cannot be that of all replicas"
    assert "publish" not in done.values
    assert sorted(declared_machines(host)) == ["web-1", "web-2"]


@pytest.mark.parametrize(
    ("other", "lines", "taken"),
    [("web", ["replicas = 2"], "machine web is"), ("web-2", [], "machine web-2 is"), ("web", [], "machine web is")],
)
def test_a_name_that_is_declared_is_refused(host: FakeHost, other: str, lines: list[str], taken: str) -> None:
    host.files.texts["/etc/machctl/fleet.toml"] = "\n".join([f"[machines.{other}]", 'source = "debian"', *lines])
    before = dict(host.files.texts)
    with pytest.raises(Conflict, match=f"{taken} declared already"):
        adopted_from(host, "/srv/compose.json", service(deploy={"replicas": 3}))
    assert host.files.texts.keys() - {"/srv/compose.json"} == before.keys()


def test_what_is_declared_already_is_looked_at_before_anything_is_written(host: FakeHost) -> None:
    declare(host, "other", 'publish = ["9999:80"]')
    with pytest.raises(Conflict, match=r"machines\.web\.publish\[0\]: port 9999:81 of web is one of other") as caught:
        adopted_from(host, "/srv/compose.json", service(ports=["9999:81"]))
    assert "/srv/compose.json" in caught.value.hint
    assert own_file("web") not in host.files.texts


@pytest.mark.parametrize("replicas", [1, 2])
def test_braces_of_others_arrive_as_they_are(host: FakeHost, replicas: int) -> None:
    said = {"A": "{name}", "B": "{{x}}", "C": "{index}", "D": "{{name}} {x}", "E": "}{"}
    test = ["CMD", "echo", "{name}", "{{.State}}"]
    text = service(environment=said, healthcheck={"test": test}, deploy={"replicas": replicas})
    (done,) = adopted_from(host, "/srv/compose.json", text)
    assert done.unmapped == ()
    for machine in declared_machines(host).values():
        assert dict(machine.environment) == said
        assert machine.health is not None
        assert machine.health.target == ("echo", "{name}", "{{.State}}")


def test_braces_of_lxc_and_of_settings_arrive_as_they_are(host: FakeHost) -> None:
    adopted_from(host, "/srv/box/config", "lxc.include = /usr/share/lxc\nlxc.environment = A={name}-{index}\n")
    assert dict(declared_machines(host)["box"].environment) == {"A": "{name}-{index}"}
    host.placed["hand"] = Tree("hand", f"{POOL}/hand", "directory")
    host.files.texts["/etc/systemd/nspawn/hand.nspawn"] = "[Exec]\nEnvironment=A={name}\n"
    asyncio.run(adopt("hand", host, REPORTER, dry_run=False))
    assert dict(declared_machines(host)["hand"].environment) == {"A": "{name}"}


def test_none_of_a_service_is_no_machine_that_is_declared(host: FakeHost) -> None:
    (done,) = adopted_from(host, "/srv/compose.json", service(deploy={"replicas": 0}))
    assert [each.what for each in done.unmapped] == ["services.web.deploy.replicas 0"]
    assert list(declared_machines(host)) == ["web"]


def test_name_of_replicas_is_no_machines_to_adopt(host: FakeHost) -> None:
    host.placed["hand"] = Tree("hand", f"{POOL}/hand", "directory")
    host.files.texts["/etc/machctl/fleet.toml"] = '[machines.hand]\nsource = "debian"\nreplicas = 2\n'
    with pytest.raises(Conflict, match="hand is what replicas are declared as"):
        asyncio.run(adopt("hand", host, REPORTER, dry_run=False))


def test_json_that_is_none_says_where(host: FakeHost) -> None:
    with pytest.raises(InvalidFile, match=r"^/srv/compose\.json:2: expecting value$") as caught:
        adopted_from(host, "/srv/compose.json", '{"a":\n ')
    assert caught.value.hint == "the file has to be JSON"
