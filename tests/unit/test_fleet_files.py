# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declaration files: what they say, and what is said about them when they are wrong."""

from __future__ import annotations

import re
import textwrap

import pytest

from machines.declare.fleet import own_file, parse_fleet, parse_stale_after
from machines.model.link import DEFAULT_LINKS, Attachment
from machines.model.machine import Bind, Machine, Publish
from machines.model.source import Source

FILE = "/etc/machctl/fleet.toml"


def read(text: str, **others: str) -> tuple[dict[str, Machine], list[str]]:
    """The machines of a fleet file and of others, and every error as its message."""
    files = {FILE: textwrap.dedent(text)} | {own_file(name): textwrap.dedent(more) for name, more in others.items()}
    machines, errors = parse_fleet(files)
    assert all(error.exit_code == 8 for error in errors)
    return machines, [without_line(error.message).removeprefix(f"{FILE}: ") for error in errors]


def without_line(message: str) -> str:
    return re.sub(r"^([^:]*):[0-9]+: ", r"\1: ", message)


def test_machine_with_everything() -> None:
    machines, errors = read("""
        [machines.web]
        source = "debian:bookworm"
        mirror = "http://deb.example/debian"
        variant = "important"
        bootstrapper = "debootstrap"
        packages = ["nginx-light"]
        hostname = "www.example.org"
        bridges = ["br0", "br1"]
        publish = ["127.0.0.1:8080:80", "443:443"]
        binds = ["/srv/www:/var/www:ro"]
        memory = "512M"
        cpus = 1.5
        ssh-keys = ["ssh-ed25519 AAAA me"]
        autostart = true
    """)
    assert errors == []
    assert machines["web"] == Machine(
        name="web",
        source=Source("debian", "bookworm"),
        origin=FILE,
        links=(Attachment("bridge", "br0"), Attachment("bridge", "br1")),
        publish=(Publish(8080, 80, "127.0.0.1"), Publish(443, 443)),
        binds=(Bind("/srv/www", "/var/www", read_only=True),),
        packages=("nginx-light",),
        mirror="http://deb.example/debian",
        variant="important",
        bootstrapper="debootstrap",
        memory=512 * 2**20,
        cpus=1.5,
        hostname="www.example.org",
        ssh_keys=("ssh-ed25519 AAAA me",),
        autostart=True,
    )


def test_machine_with_a_tree_of_its_own_kind() -> None:
    digits = "0a" * 32
    machines, errors = read(f"""
        [machines.web]
        source = "tar:https://example.org/web.tar.zst"
        checksum = "{digits}"
        storage = "btrfs"
        disk = "10G"
        ephemeral = true
        [machines.db]
        source = "raw:http://example.org/db.img"
        insecure = true
        [machines.arch]
        source = "arch"
        keyring = "/usr/share/keyrings/mine.gpg"
        bootstrapper = "pacstrap"
        disk = 1073741824
    """)
    assert errors == []
    assert machines["web"] == Machine(
        name="web",
        source=Source("tar", "https://example.org/web.tar.zst"),
        origin=FILE,
        checksum=f"sha256:{digits}",
        storage="btrfs",
        disk=10 * 2**30,
        ephemeral=True,
    )
    assert machines["db"].insecure
    assert (machines["arch"].keyring, machines["arch"].disk) == ("/usr/share/keyrings/mine.gpg", 2**30)


SUM = f'checksum = "{"0" * 64}"'


@pytest.mark.parametrize(
    ("source", "lines", "wrong"),
    [
        ("tar:https://example.org/x.tar", "", "nothing says what tar:https://example.org/x.tar has to be"),
        ("raw:http://example.org/x.raw", "", "nothing says what raw:http://example.org/x.raw has to be"),
        ("tar:https://example.org/x.tar", SUM, ""),
        ("tar:https://example.org/x.tar", "insecure = true", ""),
        (
            "tar:https://example.org/x.tar",
            "insecure = false",
            "nothing says what tar:https://example.org/x.tar has to be",
        ),
        ("tar:/srv/x.tar", "", ""),
        ("tar:/srv/x.tar", SUM, ""),
        ("raw:/srv/x.raw", SUM, ""),
        ("debian:trixie", SUM, "debian:trixie has no checksum"),
        ("dir:/srv/x", SUM, "dir:/srv/x has no checksum"),
        ("oci:registry.example/nginx", SUM, "oci:registry.example/nginx has no checksum"),
        ("oci:registry.example/nginx", "", ""),
        ("tar:/srv/x.tar", 'packages = ["less"]', "tar:/srv/x.tar takes no packages: it is copied as it is"),
        ("image:golden", 'packages = ["less"]', "image:golden takes no packages: it is copied as it is"),
        ("dir:/srv/x", 'mirror = "http://m.example/"', "dir:/srv/x takes no mirror: it is copied as it is"),
        ("oci:/srv/x", 'keyring = "/k.gpg"', "oci:/srv/x takes no keyring: it is copied as it is"),
        ("fedora:42", 'packages = ["less"]\nmirror = "http://m.example/"\nkeyring = "/k.gpg"', ""),
        ("tar:/srv/x.tar", 'ssh-keys = ["ssh-ed25519 AAAA"]', ""),
    ],
)
def test_what_a_source_is_asked_for(source: str, lines: str, wrong: str) -> None:
    machines, errors = parse_fleet({FILE: f'[machines.web]\nsource = "{source}"\n{lines}\n'})
    assert [without_line(error.message) for error in errors] == ([f"{FILE}: machines.web: {wrong}"] if wrong else [])
    assert list(machines) == ([] if wrong else ["web"])
    assert all(error.hint for error in errors)


def test_all_that_a_source_does_not_take_is_said_at_once() -> None:
    text = f'source = "image:x"\n{SUM}\npackages = ["a"]\nmirror = "http://m.example/"\nkeyring = "/k.gpg"\n'
    assert len(parse_fleet({FILE: f"[machines.web]\n{text}"})[1]) == 4


def test_machine_with_nothing_but_its_source() -> None:
    machines, errors = read('[machines.web]\nsource = "debian"')
    assert errors == []
    assert machines == {"web": Machine("web", Source("debian", "trixie"), FILE, links=DEFAULT_LINKS)}


def test_files_add_up() -> None:
    machines, errors = read('[machines.a]\nsource = "debian"', b='[machines.b]\nsource = "debian"')
    assert errors == []
    assert {name: machine.origin for name, machine in machines.items()} == {"a": FILE, "b": own_file("b")}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[machines]\n"])
def test_empty_fleet(text: str) -> None:
    assert read(text) == ({}, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('memory = "huge"', "machines.web.memory: 'huge' is not an amount of memory"),
        ("memory = 10", "machines.web.memory: memory '10' is 10 bytes; a machine needs at least 16M"),
        ("memory = true", "machines.web.memory: must be a number, is a boolean"),
        ('cpus = "many"', "machines.web.cpus: 'many' is not a number of processors"),
        ("bridges = 'br0'", "machines.web.bridges: must be a list of strings, is a string"),
        ("bridges = ['br0', 1]", "machines.web.bridges[1]: must be a string, is a number"),
        ("bridges = ['br0', 'br 1']", "machines.web.bridges[1]: 'br 1' is not a bridge name"),
        ("bridges = ['br0', 'br0']", "machines.web: bridge br0 of web is given twice"),
        ("bridges = []", "machines.web: web is on no bridge"),
        ("publish = ['x']", "machines.web.publish[0]: published port 'x': 'x' is not a port"),
        ("publish = ['1:80', '1:81']", "machines.web: ports 1:80 and 1:81 of web are the same on the host"),
        ("binds = ['/a:/x', '/b:/x']", "machines.web.binds[1]: /x of web is given twice, by binds"),
        ("autostart = 'yes'", "machines.web.autostart: must be true or false, is a string"),
        ("hostname = 1", "machines.web.hostname: must be a string, is a number"),
        ("hostname = 2026-01-01", "machines.web.hostname: must be a string, is a date"),
        ("disk = '10'", "machines.web.disk: disk '10' is 10 bytes; a tree needs at least 256M"),
        ("storage = 'zfs'", "machines.web.storage: 'zfs' is not a storage driver"),
        ("keyring = 'keys.gpg'", "machines.web.keyring: keyring 'keys.gpg' is not an absolute path"),
        ("checksum = '00'", "machines.web.checksum: '00' is not a checksum"),
        ("ephemeral = 1", "machines.web.ephemeral: must be true or false, is a number"),
        ("insecure = 'no'", "machines.web.insecure: must be true or false, is a string"),
        ("memroy = '1G'", "machines.web.memroy: is not a key of this table"),
    ],
)
def test_error_says_file_key_and_value(line: str, message: str) -> None:
    machines, errors = parse_fleet({FILE: f'[machines.web]\nsource = "debian"\n{line}\n'})
    assert machines == {}
    assert [without_line(error.message) for error in errors] == [f"{FILE}: {message}"]


def test_unknown_key_is_answered_with_the_nearest() -> None:
    _, (error,) = parse_fleet({FILE: '[machines.web]\nsource = "debian"\nssh_keys = []\n'})
    assert error.hint == "did you mean ssh-keys?"


def test_everything_wrong_is_said_at_once() -> None:
    machines, errors = read(
        """
        colour = "red"
        [machines.web]
        memory = "10"
        [machines.Db]
        source = "debian"
        [machines.good]
        source = "debian"
        """,
        broken="[machines",
    )
    assert list(machines) == ["good"]
    assert errors[0].startswith(f"{own_file('broken')}: ")
    assert errors[1:] == [
        "machines.web.source: is missing",
        "machines.web.memory: memory '10' is 10 bytes; a machine needs at least 16M",
        "machines.Db: 'Db' is not a machine name: host names know no upper case",
        "colour: is not a key of this table",
    ]


@pytest.mark.parametrize("name", ["_", "../x", "-x", "a b", ""])
def test_bad_name_in_a_file(name: str) -> None:
    machines, (error,) = read(f'[machines."{name}"]\nsource = "debian"')
    assert machines == {}
    assert "is not a machine name" in error


def test_machine_declared_twice_names_both_files() -> None:
    machines, (error,) = read('[machines.a]\nsource = "debian"', a='[machines.a]\nsource = "debian"')
    assert len(machines) == 1
    assert FILE in error or own_file("a") in error
    assert f"is declared in {machines['a'].origin} as well" in error


def test_suite_of_a_mirror_of_ones_own() -> None:
    machines, errors = read('[machines.a]\nsource = "debian:daedalus"\nmirror = "http://m.example/"')
    assert errors == []
    assert machines["a"].source == Source("debian", "daedalus")


@pytest.mark.parametrize("text", ["machines = 1", "[[machines]]", "machines.web = 'debian'", "machines.web = []"])
def test_machines_that_are_no_tables(text: str) -> None:
    machines, (error,) = read(text)
    assert machines == {}
    assert "must be a table" in error


def test_binary_file_is_an_error_and_no_traceback() -> None:
    machines, (error,) = parse_fleet({FILE: "\x00\x01�"})
    assert machines == {}
    assert error.message.startswith(f"{FILE}:1: ")


@pytest.mark.parametrize(
    ("text", "days"),
    [("", 30), ("[images]\nstale-after = 14", 14), ('[images]\nstale-after = "0.5d"', 0.5), ("[images", 30)],
)
def test_age_of_images(text: str, days: float) -> None:
    assert parse_stale_after({FILE: text}) == days


@pytest.mark.parametrize("line", ["stale-after = -1", 'stale-after = "soon"', "stale-afte = 3"])
def test_age_of_images_that_is_none(line: str) -> None:
    machines, errors = parse_fleet({FILE: f"[images]\n{line}"})
    assert not machines
    assert "images.stale-afte" in errors[0].message
