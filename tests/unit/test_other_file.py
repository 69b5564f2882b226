# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines of a fleet file of their own (apply --file): seen by their ports, and changed where they are declared."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import pytest

from acting import REPORTER
from fakes import FakeHost
from machines.cli import editing
from machines.cli.options import Options
from machines.errors import Conflict, InvalidFile, NotFound
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.operations import applying
from machines.operations.declared import declared_machines, edited, other_file
from machines.operations.down import plan_down
from machines.operations.fleetplan import fleet_plan
from machines.operations.ports import list_ports
from machines.operations.records import read_networks, read_records
from machines.operations.rollout import choose, members
from machines.render import paths

pytestmark = pytest.mark.usefixtures("as_root")

FILE = "/srv/lab.toml"
TEXT = """\
# Mine.
[machines.web]
source = "debian"
bridges = ["br0"]
publish = ["8080:80", "53:53/udp"]
"""


@pytest.fixture
def host() -> Any:
    made: Any = FakeHost()
    usual = made.declarations
    made.files.texts[FILE] = TEXT
    made.declarations = (FILE,)
    assert asyncio.run(applying.apply([], made, REPORTER))[1] == {}
    made.declarations = usual
    return made


def test_ports_of_it_are_listed(host: Any) -> None:
    host.running = lambda: {"web": "systemd-nspawn@web.service"}
    host.active.add("machctl-port-web_8080.socket")
    host.declarations = (FILE,)
    wanted = {row["port"]: row for row in list_ports(host)}
    host.declarations = FakeHost().declarations
    assert list(wanted) == ["8080", "53/udp"]
    for name in (None, "web"):
        assert {row["port"]: row for row in list_ports(host, name)} == wanted
    with pytest.raises(NotFound):
        list_ports(host, "db")


def test_it_is_changed_in_its_file(
    host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(editing, "RealHost", lambda: host)

    def edit(machine: Machine) -> Machine:
        return replace(machine, memory=2**30)

    def change() -> None:
        editing.edit_machine("web", edit, Options(), verb="set", done="set it", nothing="nothing")

    change()
    assert host.files.texts[FILE] == TEXT + 'memory = "1G"\n'
    assert "MemoryMax" in host.files.texts[paths.dropin_file("web")]
    assert f"{FILE} says so now" in capsys.readouterr().err
    host.declarations = FakeHost().declarations
    assert other_file("web", host) == FILE
    assert other_file("db", host) == ""
    del host.files.texts[FILE]
    with pytest.raises(NotFound, match=f"was made of {FILE}, which is not there"):
        change()


def test_one_that_its_file_no_longer_declares_is_not_changed(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files.texts[FILE] = TEXT.replace("web", "db")
    monkeypatch.setattr(editing, "RealHost", lambda: host)
    with pytest.raises(NotFound, match=f"web is not declared in {FILE}"):
        editing.edit_machine("web", lambda machine: machine, Options(), verb="set", done="", nothing="")


def test_one_that_is_declared_on_the_host_is_none_of_a_file(host: Any) -> None:
    host.files.texts["/etc/machctl/fleet.d/web.toml"] = TEXT
    assert other_file("web", host) == ""


OWN = "/etc/machctl/fleet.toml"


@pytest.mark.parametrize("names", [[], ["web"]])
def test_one_that_the_host_declares_otherwise_is_not_taken_over(host: Any, names: list[str]) -> None:
    host.files.texts[OWN] = TEXT + "memory = '1G'\n"
    host.declarations = (FILE,)
    for ask in (
        lambda: fleet_plan(names, host, verb="plan"),
        lambda: asyncio.run(applying.apply(names, host, REPORTER)),
        lambda: plan_down(names, host),
        lambda: choose("web", host, force=False),
    ):
        with pytest.raises(Conflict) as raised:
            ask()
        assert raised.value.message == f"machine web is declared in {OWN} and in {FILE}, and not the same"
        assert raised.value.hint == "take it out of one of the two"
    # Nobody knows what is said there.
    host.files.texts[OWN] = TEXT + "memory = 1\n"
    with pytest.raises(InvalidFile, match=rf"{OWN}:\d+: machines.web.memory"):
        fleet_plan(names, host, verb="plan")
    # What others are, and where both say the same, is no matter.
    for text in (TEXT, TEXT.replace("web", "db") + "memory = 1\n"):
        host.files.texts[OWN] = text
        assert "web" in fleet_plan(names, host, verb="plan").plans


def test_one_that_a_file_made_is_the_host_s_once_that_declares_it(host: Any) -> None:
    host.files.texts[OWN] = TEXT + "memory = '1G'\n"
    given(host)
    assert paths.declared_in(host.files.texts[paths.settings_file("web")]) == OWN
    # A file of the host's own may be the one that counts.
    given(host, OWN)


PRIVATE = "[networks.priv]\nsubnet = '10.61.0.0/24'\nmode = 'isolated'\nmtu = 1400\n"


@pytest.mark.parametrize("text", ["", '[machines.db]\nsource = "debian"\n'])
def test_who_asks_for_it_without_its_file_is_told_which(host: Any, text: str) -> None:
    host.files.texts["/etc/machctl/fleet.d/db.toml"] = text
    for verb, ask in {
        "plan": lambda: fleet_plan(["web"], host, verb="plan"),
        "down": lambda: plan_down(["web"], host),
        "rollout": lambda: members("web", host),
        "rollout undo": lambda: members("web", host, verb="rollout undo"),
    }.items():
        with pytest.raises(NotFound, match=f"declared in {FILE}, not in a file of this host") as caught:
            ask()
        assert caught.value.hint == f"machctl {verb} -f {FILE} web"


def test_a_file_that_no_longer_declares_it_is_not_the_way(host: Any) -> None:
    for file in (FILE, "/etc/machctl/fleet.d/x.toml"):
        host.files.texts[FILE] = '[machines.other]\nsource = "debian"\n'
        with pytest.raises(NotFound, match=r"web is not declared$"):
            members("web", host)
        host.declarations = (file,)
    host.declarations = FakeHost().declarations
    host.files.texts[FILE] = TEXT.replace("[machines.web]", "[machines.web-1]")
    with pytest.raises(NotFound, match=r"web is not declared$"):
        members("web", host)


def test_replicas_of_it_are_told_of_too() -> None:
    host: Any = FakeHost()
    usual = host.declarations
    host.files.texts[FILE] = '[machines.app]\nsource = "debian"\nreplicas = 2\n'
    host.declarations = (FILE,)
    assert asyncio.run(applying.apply([], host, REPORTER))[1] == {}
    host.declarations = usual
    with pytest.raises(NotFound) as caught:
        members("app", host)
    assert caught.value.hint == f"machctl rollout -f {FILE} app"
    with pytest.raises(NotFound) as caught:
        members("ap", host)
    assert "fleet.d/ap.toml" in caught.value.hint
    host.declarations = (FILE,)
    replica = declared_machines(host)["app-1"]
    with pytest.raises(Conflict) as refused:
        edited(replica, replica, host)
    assert refused.value.hint.endswith(f"then run: machctl apply -f {FILE}")


def given(host: Any, *names: str) -> None:
    """Apply all that one file declares, or all that the host's own do."""
    usual = host.declarations
    host.declarations = names or usual
    assert asyncio.run(applying.apply([], host, REPORTER))[1] == {}
    host.declarations = usual


def test_networks_of_others_stay_what_those_say() -> None:
    host: Any = FakeHost()
    host.files.texts["/etc/machctl/fleet.toml"] = PRIVATE
    given(host)
    before = read_networks(host)["priv"]
    assert (before.mode, before.mtu, before.origin) == ("isolated", 1400, "/etc/machctl/fleet.toml")
    # One file has a machine on it, the other none; and each has a network of its own.
    host.files.texts["/srv/on.toml"] = "[machines.web]\nsource = 'debian'\nbridges = ['priv', 'one']\n[networks.one]\n"
    host.files.texts["/srv/off.toml"] = "[machines.db]\nsource = 'debian'\nbridges = ['two']\n[networks.two]\n"
    for files in (("/srv/on.toml",), ("/srv/off.toml",), ()):
        given(host, *files)
        networks = read_networks(host)
        assert networks["priv"] == before
        assert networks["one"].origin == "/srv/on.toml"
        given(host, *files)
        assert read_networks(host) == networks
    assert networks["two"].origin == "/srv/off.toml"
    # What a file itself no longer declares goes.
    host.files.texts["/srv/on.toml"] = "[machines.web]\nsource = 'debian'\nbridges = ['priv', 'one']\n"
    given(host, "/srv/on.toml")
    assert [read_networks(host)[name].origin for name in ("one", "two")] == ["", "/srv/off.toml"]


def test_a_network_that_is_not_there_yet_becomes_what_the_host_says() -> None:
    host: Any = FakeHost()
    host.files.texts["/etc/machctl/fleet.toml"] = PRIVATE
    host.files.texts["/srv/on.toml"] = "[machines.web]\nsource = 'debian'\nbridges = ['priv']\n"
    given(host, "/srv/on.toml")
    assert read_networks(host)["priv"].mode == "isolated"


def test_what_two_files_say_of_a_network_is_the_same() -> None:
    host: Any = FakeHost()
    usual = host.declarations
    host.files.texts["/etc/machctl/fleet.toml"] = PRIVATE
    on = "[machines.web]\nsource = 'debian'\nbridges = ['priv']\n"
    host.files.texts["/srv/on.toml"] = on + PRIVATE
    given(host, "/srv/on.toml")
    assert read_networks(host)["priv"].origin == "/srv/on.toml"
    given(host)
    before = read_networks(host)["priv"]
    host.files.texts["/srv/on.toml"] = on + PRIVATE.replace("0.0/24", "9.0/24")
    with pytest.raises(Conflict) as raised:
        given(host, "/srv/on.toml")
    assert "priv is declared in /etc/machctl/fleet.toml and in /srv/on.toml, and not the same" in raised.value.message
    host.declarations = usual
    # Whoever has nothing of it is none the worse, and one of the two is enough.
    host.files.texts["/srv/off.toml"] = "[machines.db]\nsource = 'debian'\nbridges = ['two']\n[networks.two]\n"
    given(host, "/srv/off.toml")
    assert read_networks(host)["priv"] == before
    host.files.texts["/srv/on.toml"] = on
    given(host, "/srv/on.toml")
    assert read_networks(host)["priv"] == before


def left(host: Any, *names: str) -> tuple[str, ...]:
    """Say whom a plan of all leaves behind."""
    usual = host.declarations
    host.declarations = names or usual
    planned = fleet_plan([], host, verb="plan")
    host.declarations = usual
    return planned.left


@pytest.mark.parametrize("owner", ["/etc/machctl/fleet.toml", "/srv/own.toml"])
def test_another_subnet_leaves_nobody_behind_without_a_word(owner: str) -> None:
    host: Any = FakeHost()
    usual = host.declarations
    one = "[machines.{}]\nsource = 'debian'\nbridges = ['priv']\n"
    files = {"/etc/machctl/fleet.toml": "e", "/srv/own.toml": "o", "/srv/a b.toml": "m"}
    for file, name in files.items():
        host.files.texts[file] = one.format(name) + (PRIVATE if file == owner else "")
    first = () if owner.startswith("/etc") else (owner,)
    for file in sorted(files, key=lambda file: file != owner):
        given(host, *(() if file.startswith("/etc") else (file,)))
    assert left(host, *first) == ()
    host.files.texts[owner] = host.files.texts[owner].replace("10.61.0.0", "10.61.7.0")
    command = "machctl apply" if not first else "machctl apply -f /srv/own.toml"
    if not first:
        with pytest.raises(Conflict) as raised:
            given(host, "/srv/a b.toml")
        host.declarations = usual
    else:
        # Of its own machines one alone is not moved either.
        host.declarations = first
        with pytest.raises(Conflict) as raised:
            asyncio.run(applying.apply(["o"], host, REPORTER))
        host.declarations = usual
    assert raised.value.hint == f"move all of them along: {command}"
    others = {name: file for file, name in files.items() if file != owner}
    for _ in range(2):
        # Before, and as long as it is so.
        said = left(host, *first)
        assert [text.partition(":")[0] for text in said] == sorted(others)
        assert all(": its address is outside of network priv, which is 10.61.7.0/24 and " in text for text in said)
        ways = [text.partition("along: ")[2] for text in said]
        assert ways == [
            "machctl apply e" if name == "e" else f"machctl apply -f {shlex.quote(others[name])}"
            for name in sorted(others)
        ]
        given(host, *first)
    for name in sorted(others):
        given(host, *(() if name == "e" else (others[name],)))
    assert left(host, *first) == ()
    records = read_records(host)
    assert {records[name].addresses["priv"].rpartition(".")[0] for name in files.values()} == {"10.61.7"}


def test_who_is_declared_no_more_is_left_behind_with_another_way_out() -> None:
    host: Any = FakeHost()
    host.files.texts["/etc/machctl/fleet.toml"] = PRIVATE + "[machines.e]\nsource = 'debian'\nbridges = ['priv']\n"
    given(host)
    host.files.texts["/etc/machctl/fleet.toml"] = PRIVATE.replace("10.61.0.0", "10.61.7.0")
    (text,) = left(host)
    assert text.startswith("e: its address is outside of network priv, which is 10.61.7.0/24 and ")
    assert text.endswith("\n  declare it anew, or: machctl rm e")


@pytest.mark.parametrize(
    ("broken", "refused"),
    [
        ("[networks.lab]\nmode = \n[machines.old]\nbridges = ['priv', 'br0']\n", ""),
        ("[networks.lab]\nmtu = 1\n", ""),
        ("[networks.priv]\nmode = \n", "x.toml:2: "),
        ("networks = { 'priv' = { mtu = }}\n", "x.toml:1: "),
        ("[networks]\npriv.mtu =\n", "x.toml:2: "),
        ("[networks.priv]\nmtu = 1\n", "x.toml:2: networks.priv.mtu: "),
        ("networks = 1\n", "x.toml:1: networks: "),
    ],
)
def test_a_mistake_in_a_file_of_others_counts_where_it_hides_a_network(
    host: Any, monkeypatch: pytest.MonkeyPatch, broken: str, refused: str
) -> None:
    monkeypatch.setattr(editing, "RealHost", lambda: host)
    host.files.texts[FILE] = TEXT.replace("br0", "priv")
    host.files.texts["/etc/machctl/fleet.d/x.toml"] = broken

    def both() -> None:
        given(host, FILE)
        host.declarations = FakeHost().declarations
        editing.edit_machine(
            "web", lambda each: replace(each, memory=2**30), Options(), verb="set", done="", nothing=""
        )

    usual = host.declarations
    if refused:
        for attempt in (lambda: given(host, FILE), both):
            with pytest.raises(InvalidFile, match=refused):
                attempt()
            host.declarations = usual
        # It is known what it says itself.
        host.files.texts[FILE] += PRIVATE
    both()
    assert 'memory = "1G"' in host.files.texts[FILE]
    # To the host's own it counts.
    host.declarations = usual
    with pytest.raises(InvalidFile):
        given(host)


def test_ports_are_what_answers_and_not_what_a_file_says_by_now() -> None:
    host: Any = FakeHost()
    host.running = lambda: {"web": "systemd-nspawn@web.service"}
    own = "/etc/machctl/fleet.d/web.toml"
    host.files.texts[own] = "[machines.web]\nsource = 'debian'\nbridges = ['br0']\npublish = ['1800:80']\n"
    given(host)
    host.active.add("machctl-port-web_1800.socket")
    host.files.texts[own] = host.files.texts[own].replace("1800:80", "1900:80")
    new, old = list_ports(host)
    assert (new["port"], new["state"], new["kernel"]) == ("1900", "closed", [])
    assert new["not"] == ["all: it is not open yet (machctl apply web)"]
    assert (old["port"], old["state"]) == ("1800", "open")
    assert old["not"] == ["it is no longer declared (machctl apply web closes it)"]
    host.files.texts[own] = host.files.texts[own].replace("publish = ['1900:80']\n", "")
    assert [row["port"] for row in list_ports(host, "web")] == ["1800"]
