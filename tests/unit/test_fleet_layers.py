# SPDX-License-Identifier: LGPL-2.1-or-later
"""Defaults, profiles and replicas: what a machine is made of, and what is said of mistakes in any layer."""

from __future__ import annotations

import textwrap

import pytest

from fakes import FakeHost
from machines.declare.fleet import own_file, parse_fleet, read_fleet
from machines.model.link import Attachment
from machines.model.machine import Machine, Publish
from machines.model.secret import Secret
from machines.operations.inspect import expand

FILE = "/etc/machctl/fleet.toml"


def read(text: str, **others: str) -> tuple[dict[str, Machine], list[str]]:
    files = {FILE: textwrap.dedent(text)} | {own_file(name): textwrap.dedent(more) for name, more in others.items()}
    machines, errors = parse_fleet(files)
    assert all(error.exit_code == 8 for error in errors)
    return machines, [error.message.removeprefix(FILE) for error in errors]


def one(text: str) -> Machine:
    machines, errors = read(text)
    assert errors == []
    (machine,) = machines.values()
    return machine


FLEET = """
    [defaults]
    source = "debian:trixie"
    memory = "256M"
    packages = ["less"]
    [defaults.environment]
    LANG = "C.UTF-8"
    TZ = "UTC"

    [profiles.base]
    memory = "512M"
    packages = ["curl"]

    [profiles.web]
    profiles = ["base"]
    packages = ["nginx", "less"]
    autostart = true
    cpus = 1
    [profiles.web.environment]
    TZ = "Europe/Vienna"

    [profiles.small]
    cpus = 0.5
"""


def test_layers_are_merged_in_order() -> None:
    machine = one(f"""{FLEET}
    [machines.web]
    profiles = ["web", "small"]
    packages = ["vim", "curl"]
    [machines.web.environment]
    MODE = "live"
    """)
    assert str(machine.source) == "debian:trixie"
    assert (machine.memory, machine.cpus, machine.autostart) == (512 * 2**20, 0.5, True)
    assert machine.packages == ("less", "curl", "nginx", "vim")
    assert machine.environment == (("LANG", "C.UTF-8"), ("TZ", "Europe/Vienna"), ("MODE", "live"))


def test_defaults_are_those_of_machines_in_other_files() -> None:
    machines, errors = read(FLEET, db="[machines.db]\nmemory = '1G'")
    assert errors == []
    assert (machines["db"].memory, machines["db"].packages) == (2**30, ("less",))
    assert machines["db"].origin == own_file("db")


def test_profile_inherited_twice_is_taken_once() -> None:
    machine = one("""
    [profiles.base]
    memory = "256M"
    [profiles.a]
    profiles = ["base"]
    memory = "512M"
    [profiles.b]
    profiles = ["base"]
    cpus = 2
    [machines.web]
    source = "debian"
    profiles = ["a", "b"]
    """)
    assert (machine.memory, machine.cpus) == (512 * 2**20, 2)


def test_replicas() -> None:
    machines, errors = read("""
    [machines.web]
    source = "debian"
    replicas = 3
    hostname = "{name}.example"
    bridges = ["lab,ip=10.1.0.{index}"]
    publish = ["808{index}:80"]
    [machines.web.environment]
    NUMBER = "{index} of {{web}}"
    """)
    assert errors == []
    assert list(machines) == ["web-1", "web-2", "web-3"]
    second = machines["web-2"]
    assert (second.group, second.hostname, second.publish) == ("web", "web-2.example", (Publish(8082, 80),))
    assert second.links == (Attachment("bridge", "lab", addresses=("10.1.0.2",)),)
    assert second.environment == (("NUMBER", "2 of {web}"),)


@pytest.mark.parametrize(("count", "names"), [(0, []), (1, ["web-1"])])
def test_number_of_replicas(count: int, names: list[str]) -> None:
    machines, errors = read(f"[machines.web]\nsource = 'debian'\nreplicas = {count}")
    assert (list(machines), errors) == (names, [])


def test_placeholders_of_a_profile_are_the_machines() -> None:
    machine = one("[profiles.a]\nhostname = '{name}.lan'\n[machines.db]\nsource = 'debian'\nprofiles = ['a']")
    assert machine.hostname == "db.lan"
    assert machine.group == ""


def test_secrets_and_environment() -> None:
    machine = one("""
    [machines.web]
    source = "debian"
    environment = { A = "b c", QUOTED = "it's \\"this\\"" }
    [machines.web.secrets]
    token = "file:/root/token"
    "db.password" = "credential:db"
    """)
    assert machine.environment == (("A", "b c"), ("QUOTED", 'it\'s "this"'))
    assert machine.secrets == (Secret("token", "file", "/root/token"), Secret("db.password", "credential", "db"))


def test_braces_of_a_fleet_from_before_mean_themselves() -> None:
    machines, errors = read("""
    [machines.web]
    source = "debian"
    ssh-keys = ["ssh-ed25519 AAAA me {name} {x}"]
    binds = ["/srv/{a}:/a{{b}}", "/srv/{b:/b"]
    [machines.web.environment]
    JSON = '{"a": {}}'
    BOTH = '{"{name}": {x}, {{name}} }}'
    """)
    assert errors == []
    web = machines["web"]
    assert web.ssh_keys == ("ssh-ed25519 AAAA me {name} {x}",)
    assert list(map(str, web.binds)) == ["/srv/{a}:/a{{b}}", "/srv/{b:/b"]
    assert web.environment == (("JSON", '{"a": {}}'), ("BOTH", '{"web": {x}, {name} }'))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("WEBprofiles = ['wbe']\n[profiles.web]", ":3: machines.web.profiles[0]: there is no profile 'wbe'"),
        ("WEBprofiles = ['web']", ":3: machines.web.profiles[0]: there is no profile 'web'"),
        ("[profiles.a]\nprofiles = ['b']", ":2: profiles.a.profiles[0]: there is no profile 'b'"),
        ("[profiles.a]\nprofiles = ['a']", ":2: profiles.a.profiles: goes in a circle: a -> a"),
        ("[profiles.a]\nreplicas = 3", ":2: profiles.a.replicas: is not for all machines"),
        ("[defaults]\nprofiles = []", ":2: defaults.profiles: is not for all machines"),
        ("[profiles.a]\nmemroy = '1G'", ":2: profiles.a.memroy: is not a key of this table"),
        ("[profiles.a]\nmemory = '1'", ":2: profiles.a.memory: memory '1' is 1 bytes; a machine needs at least 16M"),
        ("[defaults]\npublish = ['80', 'x:{index}:2:3']", ":2: defaults.publish[1]: 'x:1:2:3' is not a published port"),
        ("defaults = 3", ":1: defaults: must be a table, is a number"),
        ("[profiles]\na = 3", ":2: profiles.a: must be a table, is a number"),
        ("WEBreplicas = 'two'", ":3: machines.web.replicas: 'two' is not a number of replicas"),
        ("WEBreplicas = 2\npublish = ['x']", ":4: machines.web.publish[0]: published port 'x': 'x' is not a port"),
        ("WEBhostname = '{index}'", ":3: machines.web.hostname: {index}: only machines with replicas have one"),
        ("[machine.web]\nsource = 'debian'", ":1: machine: is not a key of this table"),
        ("WEBenvironment = { A = 1 }", ":3: machines.web.environment.A: must be a string, is a number"),
        ("WEBenvironment = { 'A-B' = '' }", ":3: machines.web.environment.A-B: 'A-B' is not the name of a variable"),
        (
            "WEB[machines.web.secrets]\nkey = 'hunter2'",
            ":4: WEB.secrets.key: secret key does not say where it is kept, and never stands here itself",
        ),
        ("WEBsecrets = { a = 'file:x' }", ":3: machines.web.secrets.a: secret a: its file is not an absolute path"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_they_are(text: str, wrong: str) -> None:
    _, errors = read(text.replace("WEB", "[machines.web]\nsource = 'debian'\n"))
    assert errors == [wrong.replace("WEB", "machines.web")]


def test_mistake_in_a_profile_is_said_once_and_at_its_place() -> None:
    fleet = read_fleet(
        {
            FILE: "[profiles.a]\ncpus = 1\nmemory = 'much'",
            own_file("x"): "[machines.x]\nsource = 'debian'\nprofiles = ['a']\nreplicas = 2",
            own_file("y"): "[machines.y]\nsource = 'debian'\nprofiles = ['a']",
            own_file("z"): "[machines.z]\nsource = 'debian'",
        }
    )
    assert [error.message for error in fleet.errors] == [
        f"{FILE}:3: profiles.a.memory: 'much' is not an amount of memory"
    ]
    assert (list(fleet.machines), sorted(fleet.broken)) == (["z"], ["x-1", "x-2", "y"])
    assert fleet.wrong_with("y")[0].message == fleet.errors[0].message


def test_hints_name_what_was_meant() -> None:
    _, errors = parse_fleet(
        {FILE: "[machins.web]\n[profiles.web]\nmemory_high = 1\n[machines.a]\nsource = 'debian'\nprofiles=['wbe']"}
    )
    assert [error.hint for error in errors] == [
        "did you mean memory-high?", "did you mean web?", "did you mean machines?",
    ]  # fmt: skip


def test_all_errors_of_all_files_at_once() -> None:
    _, errors = read("[machines.a]\nmemory = 1", b="[machines.b]\nsource = 'x'", c="[machines\n")
    assert len(errors) == 4
    assert errors[0].startswith(f"{own_file('c')}:1: ")


def test_replica_that_is_another_machine() -> None:
    _, errors = read("[machines.web-1]\nsource = 'debian'\n[machines.web]\nsource = 'debian'\nreplicas = 2")
    assert errors == [f":3: machines.web: is declared in {FILE} as well"]


def test_defaults_that_a_machine_cannot_have_are_not_meant_for_it() -> None:
    machines, errors = read("""
    [defaults]
    source = "debian"
    packages = ["less"]
    bridges = ["lab"]
    cpus = 2
    [machines.copied]
    source = "tar:/srv/x.tar"
    [machines.alone]
    network = "none"
    """)
    assert errors == []
    assert (machines["copied"].packages, machines["copied"].bridges) == ((), ("lab",))
    assert (machines["alone"].packages, machines["alone"].links) == (("less",), ())
    assert (machines["copied"].cpus, machines["alone"].cpus) == (2, 2)


def test_profile_that_a_machine_cannot_have_is_a_mistake() -> None:
    text = "[profiles.a]\npackages = ['less']\n[machines.x]\nsource = 'tar:/x.tar'\nprofiles = ['a']"
    assert read(text)[1] == [":3: machines.x: tar:/x.tar takes no packages: it is copied as it is"]


def test_replicas_are_meant_by_the_name_they_share() -> None:
    host = FakeHost()
    host.files.texts[FILE] = "[machines.x-web]\nsource = 'debian'\nreplicas = 2\n[machines.x-db]\nsource = 'debian'\n"
    assert expand(["x-web", "x-db", "x-web-2", "x-none"], host) == ["x-web-1", "x-web-2", "x-db", "x-none"]


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        ("['b']", f"{FILE}:3: machines.a.after: machines wait for each other: a after b, b after a"),
        (
            "['c:healthy']",
            f"{FILE}:3: machines.a.after: machine a waits for c-1 to be healthy, and nothing says how to tell",
        ),
    ],
)
def test_waiting_that_cannot_be(after: str, wrong: str) -> None:
    text = f"[machines.a]\nsource = 'debian'\nafter = {after}\n[machines.b]\nsource = 'debian'\nafter = ['a']\n"
    _, errors = parse_fleet({FILE: f"{text}[machines.c]\nsource = 'debian'\nreplicas = 1\n"})
    assert [error.message for error in errors] == [wrong]
