# SPDX-License-Identifier: LGPL-2.1-or-later
"""Edits of machines that have something of defaults and profiles: what is written, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import textwrap
from typing import Any

import pytest

from acting import REPORTER, create, web
from fakes import FakeHost
from machines.declare.fleet import own_file, parse_fleet
from machines.declare.inherit import edited, moved, settled
from machines.declare.write import write_machine
from machines.errors import Conflict
from machines.model.machine import Machine, Publish
from machines.model.secret import Secret
from machines.model.settings import Device
from machines.model.source import Source
from machines.operations import declared, fleet
from machines.operations.fleetplan import fleet_plan
from machines.render import paths
from samples import machine

FILE = "/etc/machctl/fleet.toml"
FLEET = textwrap.dedent("""\
    # The fleet.
    [defaults]
    memory = "1G"   # enough for all
    packages = ["less"]
    [defaults.environment]
    LANG = "C.UTF-8"

    [profiles.web]
    autostart = true
    publish = [
      "8080:80",
      "8443:443",
    ]

    [machines.web]
    source = "debian" # the newest
    profiles = ["web"]
    packages = ["curl"]

    [machines.many]
    source = "debian"
    replicas = 2
    """)


def change(name: str, text: str = FLEET, **values: Any) -> tuple[Machine, str]:
    """The machine after an edit, as it is read again, and the file."""
    files = {FILE: text}
    machines, errors = parse_fleet(files)
    assert errors == []
    wanted = dataclasses.replace(machines[name], **values)
    said, made = edited(wanted, machines[name], files)
    assert said == wanted
    again, errors = parse_fleet({FILE: made})
    assert errors == []
    assert again[name] == wanted
    return wanted, made


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"memory": 2**29}, 'memory = "512M"'),
        ({"cpus": 2.0}, "cpus = 2"),
        ({"autostart": False}, "autostart = false"),
        ({"hostname": "w"}, 'hostname = "w"'),
        ({"packages": ("less", "curl", "vim")}, 'packages = ["curl", "vim"]'),
        ({"publish": (Publish(8080, 80), Publish(8443, 443), Publish(53, 53))}, 'publish = ["53:53"]'),
        ({"environment": (("LANG", "de"),)}, 'LANG = "de"'),
        ({"secrets": (Secret("a", "file", "/b"),)}, 'a = "file:/b"'),
    ],
)
def test_own_table_says_what_differs(values: dict[str, Any], line: str) -> None:
    _, text = change("web", **values)
    assert line in text.replace("{", "\n").replace("}", "\n") or line in text
    for kept in ("# The fleet.", "# enough for all", "# the newest", '  "8080:80",\n'):
        assert kept in text


def test_what_is_inherited_again_is_not_said() -> None:
    text = FLEET.replace('packages = ["curl"]', 'packages = ["curl"]\nmemory = "2G"')
    _, made = change("web", text, memory=2**30)
    assert made == FLEET


@pytest.mark.parametrize(
    ("values", "wrong", "line"),
    [
        ({"memory": None}, "memory 1G of web is what defaults says", 3),
        ({"publish": (Publish(8080, 80),)}, "publish 8443:443 of web is what profiles.web says", 12),
        ({"environment": ()}, "environment C.UTF-8 of web is what defaults.environment says", 6),
    ],
)
def test_what_is_inherited_cannot_be_taken_back(values: dict[str, Any], wrong: str, line: int) -> None:
    machines, _ = parse_fleet({FILE: FLEET})
    with pytest.raises(Conflict) as caught:
        edited(dataclasses.replace(machines["web"], **values), machines["web"], {FILE: FLEET})
    assert caught.value.message == wrong
    assert f"{FILE}:{line}, " in caught.value.hint


def test_a_replica_is_not_edited() -> None:
    machines, _ = parse_fleet({FILE: FLEET})
    one = machines["many-1"]
    with pytest.raises(Conflict) as caught:
        edited(dataclasses.replace(one, memory=2**30), one, {FILE: FLEET})
    assert "one of the replicas of many" in caught.value.message
    assert f"edit [machines.many] in {FILE}:20" in caught.value.hint


def test_new_machine_has_the_defaults() -> None:
    new = machine("db", origin=own_file("db"), packages=("vim",))
    made, text = settled(new, {FILE: FLEET})
    assert (made.memory, made.packages, made.environment) == (2**30, ("less", "vim"), (("LANG", "C.UTF-8"),))
    assert 'packages = ["vim"]' in text
    assert "memory" not in text
    assert parse_fleet({FILE: FLEET, own_file("db"): text})[0]["db"] == made


def test_new_machine_without_defaults_is_written_as_ever() -> None:
    new = machine("db", origin=own_file("db"))
    assert settled(new, {FILE: '[machines.a]\nsource = "debian"\n'}) == (new, write_machine(new))


@pytest.mark.parametrize("name", ["db", "a.b"])
def test_renamed_machine_keeps_what_was_written(name: str) -> None:
    text = '# mine\n[machines.web]\nprofiles = ["web"] # two ports\nsource = "debian"\n'
    text += '[machines.web.environment]\nA = "b"\n'
    files = {FILE: FLEET.replace("[machines.web]", "[machines.other]"), own_file("web"): text}
    before = parse_fleet(files)[0]["web"]
    after, made = moved(before, name, files)
    assert after == dataclasses.replace(before, name=name, origin=own_file(name))
    header = 'machines."a.b"' if name == "a.b" else "machines.db"
    assert made == text.replace("machines.web", header)


def test_renamed_machine_that_is_written_otherwise() -> None:
    text = '[machines]\nweb = { source = "debian", cpus = 2 }\n'
    before = parse_fleet({own_file("web"): text})[0]["web"]
    after, made = moved(before, "db", {own_file("web"): text})
    assert parse_fleet({own_file("db"): made})[0] == {"db": after}
    assert after.cpus == 2


def test_tables_of_a_new_file() -> None:
    new = machine("db", origin="", environment=(("A", "x {y}"), ("B", "")), secrets=(Secret("t.k", "credential", "t"),))
    text = write_machine(new)
    assert text.endswith(
        '\n[machines.db.environment]\nA = "x {y}"\nB = ""\n\n[machines.db.secrets]\n"t.k" = "credential:t"\n'
    )
    assert parse_fleet({"": text})[0] == {"db": new}


def test_new_machine_that_cannot_have_all_defaults() -> None:
    new = machine("db", origin=own_file("db"), source=Source("tar", "/x.tar"))
    made, text = settled(new, {FILE: FLEET})
    assert (made.packages, made.memory) == ((), 2**30)
    changed = dataclasses.replace(made, memory=2**29)
    files = {FILE: FLEET, own_file("db"): text}
    assert edited(changed, made, files)[1] == text.replace("[machines.db.", 'memory = "512M"\n[machines.db.') + (
        'memory = "512M"\n' if "[machines.db." not in text else ""
    )


def test_value_that_is_taken_back_is_inherited_again() -> None:
    text = FLEET.replace('packages = ["curl"]', 'packages = ["curl"]\nmemory = "2G"')
    before = parse_fleet({FILE: text})[0]["web"]
    assert edited(dataclasses.replace(before, memory=None), before, {FILE: text}) == (
        dataclasses.replace(before, memory=2**30), FLEET,
    )  # fmt: skip


def test_tables_keep_what_was_written_in_them() -> None:
    text = "[machines.web]\nsource = 'debian'\n[machines.web.environment]\n# mine\nA = 'b' # old\nC = 'd'\n"
    before = parse_fleet({FILE: text})[0]["web"]
    _, made = edited(dataclasses.replace(before, environment=(("A", "b"), ("E", "f"))), before, {FILE: text})
    assert made == text.replace("C = 'd'", 'E = "f"')


def test_defaults_of_a_key_can_be_said() -> None:
    text = FLEET.replace("autostart = true", 'autostart = true\nvariant = "buildd"\nrestart = "always"')
    text = text.replace("[machines.web]", "[machines.other]").replace(
        "[machines.many]", "[machines.web]\nprofiles=['web']"
    )
    before = parse_fleet({FILE: text.replace("replicas = 2", "")})[0]["web"]
    files = {FILE: text.replace("replicas = 2", "")}
    changed = dataclasses.replace(before, variant="minbase", restart="no", autostart=False)
    said, made = edited(changed, before, files)
    assert said == changed
    assert 'variant = "minbase"\nrestart = "no"\nautostart = false\n' in made


def test_a_copy_says_what_its_defaults_are_and_a_new_machine_does_not() -> None:
    files = {FILE: "[defaults]\nautostart = true\nvariant = 'buildd'\n"}
    new = machine("db", origin=own_file("db"))
    made, text = settled(new, files)
    assert (made.autostart, made.variant) == (True, "buildd")
    assert "autostart" not in text
    assert settled(new, files, whole=True)[0] == new


def test_machine_that_is_made_has_the_defaults_and_is_as_declared() -> None:
    host = FakeHost()
    host.files.texts[FILE] = '[defaults]\nmemory = "1G"\n[defaults.environment]\nA = "b"\n'
    create(host, web())
    assert "MemoryMax=1073741824" in host.files.texts[paths.dropin_file("web")]
    assert 'DefaultEnvironment="A=b"' in host.files.texts[paths.guest_manager_file("web")]
    assert "memory" not in host.files.texts[own_file("web")]
    assert fleet_plan([], host, verb="plan").plans == {"web": [], "": []}
    # There before anything is mounted there, for trees that nothing can be written to.
    assert any(path.endswith(paths.GUEST_MANAGER_FILE) for path in host.guests.texts)


def test_edit_of_a_machine_on_the_host() -> None:
    host = FakeHost()
    create(host, web())
    host.files.texts[FILE] = '[defaults]\nmemory = "1G"\n'

    def limited(memory: int | None) -> str:
        edit = fleet.change("web", lambda was: dataclasses.replace(was, memory=memory), host, REPORTER, dry_run=False)
        asyncio.run(edit)
        return host.files.texts[paths.dropin_file("web")]

    assert "MemoryMax=536870912" in limited(2**29)
    assert 'memory = "512M"' in host.files.texts[own_file("web")]
    assert "MemoryMax=1073741824" in limited(None)
    with pytest.raises(Conflict, match="memory 1G of web is what defaults says"):
        limited(None)


LISTS = """\
[machines.web]
source = "debian"
devices = [
  # for the cards
  "/dev/dri/card0", # one
  "/dev/fuse",
]
"""


@pytest.mark.parametrize(
    ("devices", "old", "new"),
    [
        (("/dev/dri/card0", "/dev/fuse", "/dev/kvm"), '"/dev/fuse",', '"/dev/fuse",\n  "/dev/kvm",'),
        (("/dev/dri/card0",), '  "/dev/fuse",\n', ""),
    ],
)
def test_list_keeps_what_was_written_in_it(devices: tuple[str, ...], old: str, new: str) -> None:
    _, made = change("web", LISTS, devices=tuple(map(Device, devices)))
    assert made == LISTS.replace(old, new)


def test_list_with_a_comment_that_tomlkit_takes_for_its_end() -> None:
    text = LISTS.replace('"/dev/fuse",\n', '"/dev/fuse"\n  # all\n')
    change("web", text, devices=tuple(map(Device, ("/dev/dri/card0", "/dev/fuse", "/dev/kvm"))))


def test_table_whose_keys_have_no_order_keeps_its_comments() -> None:
    text = "[machines.web]\nsource = 'debian'\n[machines.web.health]\ntimeout = '9s' # slow\ntcp = 80 # mine\n"
    health = parse_fleet({FILE: text})[0]["web"].health
    assert health is not None
    _, made = change("web", text, health=dataclasses.replace(health, retries=7))
    assert made == f"{text}retries = 7\n"


def test_probe_in_place_of_one_that_is_inherited() -> None:
    text = "[defaults.health]\nhttp = '80/health'\n[machines.web]\nsource = 'debian'\n"
    wanted = parse_fleet({FILE: text.replace("http = '80/health'", "tcp = 80")})[0]["web"]
    assert wanted.health is not None
    _, made = change("web", text, health=wanted.health)
    assert "tcp" in made


BEHIND = """\
[machines.web.environment]
A = "b"

[images]
stale-after = 3

[machines.web]
source = "debian"
"""


def test_new_keys_stand_where_the_header_is() -> None:
    _, made = change("web", BEHIND, memory=2**30, packages=("less",))
    assert made == f'{BEHIND}packages = ["less"]\nmemory = "1G"\n'


@pytest.mark.parametrize("head", ["", "[defaults]\nautostart = true\n"])
@pytest.mark.parametrize("wrong", ["[machines.web]\n{}", "{}[machines.db]\nsource='debian'", "{}"])
def test_text_that_is_not_what_was_asked_for_is_not_written(
    head: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    host.files.texts[FILE] = text = f"{head}{BEHIND}"
    before = parse_fleet({FILE: text})[0]["web"]
    # As tomlkit 0.11 does it.
    monkeypatch.setattr("tomlkit.dumps", lambda _: wrong.format(text))
    with pytest.raises(Conflict) as caught:
        declared.edited(dataclasses.replace(before, memory=2**30), before, host)
    assert caught.value.message == f"{FILE} is written in a way that web cannot be changed in"
    assert caught.value.hint == f"edit {FILE} by hand, then run: machctl apply"
