# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine to its declaration file and back, with whatever people wrote beside it."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machines.declare.environment import parse_secret
from machines.declare.fleet import FLEET_FILE, own_file, parse_fleet
from machines.declare.inherit import edited
from machines.declare.links import check_links
from machines.declare.ports import check_ports
from machines.declare.values import DISK_MIN, MEMORY_MIN
from machines.declare.write import write_machine
from machines.errors import MachctlError
from machines.model.link import DEFAULT_LINKS, Attachment
from machines.model.machine import Bind, Machine, Publish
from machines.model.publish import Egress
from machines.model.source import DEBIAN_SUITES, Source
from samples import machine
from schemas import against

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,5})?", fullmatch=True)
bridges = st.from_regex(r"[a-z][a-z0-9_.-]{0,14}", fullmatch=True).filter(lambda name: name not in {"all", "default"})
links = (
    st.builds(Attachment, st.just("bridge"), bridges, vlan=st.none() | st.integers(1, 4094))
    | st.builds(Attachment, st.sampled_from(["macvlan", "ipvlan", "interface"]), bridges)
    | st.builds(Attachment, st.just("zone"), bridges.filter(lambda name: len(name) <= 12))
    | st.just(Attachment("veth", addresses=("192.0.2.5", "fd00::5/64"), mac="02:00:00:00:00:05", name="up0"))
)
# What stands in a path of the host: anything printable but the colon that separates the two.
parts = st.text(
    st.one_of(
        st.sampled_from(" %'\"\\#=[]{}$"), st.characters(categories=["L", "N", "P", "S"], exclude_characters=":/")
    ),
    min_size=1,
    max_size=12,
).filter(lambda part: part.strip() == part and part not in {".", ".."} and part.isprintable())
paths = st.lists(parts, min_size=1, max_size=3).map(lambda found: "/" + "/".join(found))
publishes = st.builds(
    Publish,
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.none() | st.ip_addresses().filter(lambda address: not address.is_unspecified).map(str),
)
egress = st.builds(
    lambda first, count, protocol: Egress(first, min(first + count, 65535), protocol),
    st.integers(1, 65535),
    st.integers(0, 9),
    st.sampled_from(["tcp", "udp"]),
)
keys = st.from_regex(r"ssh-[a-z0-9]{1,10} [A-Za-z0-9+/]{4,20}={0,2}( [ -~]{0,20}[!-~])?", fullmatch=True)
variables = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,4}", fullmatch=True)
secrets = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,5}", fullmatch=True)
plain = st.builds(
    Machine,
    name=names,
    source=st.builds(Source, st.just("debian"), st.sampled_from(sorted(set(DEBIAN_SUITES.values())))),
    origin=st.just(""),
    links=st.just(DEFAULT_LINKS)
    | st.lists(links, min_size=1, max_size=3, unique_by=lambda link: (link.kind == "veth", link.target)).map(tuple),
    publish=st.lists(publishes, max_size=3, unique_by=lambda port: port.host).map(tuple),
    egress=st.none() | st.lists(egress, max_size=2).map(tuple),
    binds=st.lists(
        st.builds(Bind, paths, paths, st.booleans()), max_size=3, unique_by=lambda bind: bind.destination
    ).map(tuple),
    packages=st.lists(st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,10}", fullmatch=True), max_size=3).map(tuple),
    mirror=st.none() | st.just("https://deb.example/debian"),
    variant=st.sampled_from(["minbase", "buildd", "important", "standard"]),
    bootstrapper=st.sampled_from(["auto", "debootstrap", "mmdebstrap"]),
    memory=st.none() | st.integers(MEMORY_MIN, 2**50),
    cpus=st.none() | st.integers(1, 819200).map(lambda hundredths: hundredths / 100),
    hostname=st.none() | names,
    ssh_keys=st.lists(keys, max_size=2).map(tuple),
    autostart=st.booleans(),
    keyring=st.none() | paths,
    storage=st.sampled_from(["auto", "btrfs", "overlay", "reflink", "copy"]),
    disk=st.none() | st.integers(DISK_MIN, 2**50),
    ephemeral=st.booleans(),
    environment=st.dictionaries(variables, parts, max_size=3).map(lambda found: tuple(found.items())),
    secrets=st.dictionaries(secrets, st.sampled_from(["file:/root/a%h:b", "credential:a.b"]), max_size=3).map(
        lambda found: tuple(parse_secret(name, text) for name, text in found.items())
    ),
).filter(lambda declared: not [*check_links(declared), *check_ports(declared)])
digests = st.from_regex(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", fullmatch=True)
files = st.sampled_from(["tar", "raw"])
sources = (
    st.builds(Source, files | st.sampled_from(["dir", "oci"]), paths)
    | st.builds(Source, st.just("image"), names)
    | st.just(Source("oci", "registry.example/nginx:1.27"))
)


def of(source: Source, declared: Machine) -> Machine:
    """The machine with a source that is copied as it is, and what only a bootstrap takes left out."""
    keys = () if source.kind == "raw" else declared.ssh_keys
    return dataclasses.replace(declared, source=source, mirror=None, keyring=None, packages=(), ssh_keys=keys)


machines = (
    plain
    | st.builds(of, sources, plain)
    | st.builds(
        lambda kind, digest, declared: dataclasses.replace(
            of(Source(kind, "https://example.org/a%20b.x?y=1"), declared), checksum=digest, insecure=digest is None
        ),
        files,
        st.none() | digests,
        plain,
    )
)


@settings(max_examples=40)
@given(machines)
def test_machine_is_read_as_it_was_written(declared: Machine) -> None:
    text = write_machine(declared)
    found, errors = parse_fleet({"": text})
    assert errors == []
    assert found == {declared.name: declared}


@settings(max_examples=40)
@given(machines)
def test_writing_twice_changes_nothing(declared: Machine) -> None:
    text = write_machine(declared)
    assert write_machine(declared, text) == text


@settings(max_examples=40)
@given(before=machines, after=machines)
def test_an_edit_leaves_nothing_of_before(before: Machine, after: Machine) -> None:
    after = dataclasses.replace(after, name=before.name)
    found, errors = parse_fleet({"": write_machine(after, write_machine(before))})
    assert errors == []
    assert found == {after.name: after}


def test_new_file_is_short_and_says_how_to_go_on() -> None:
    assert write_machine(machine(memory=2**29, cpus=2.0)).splitlines() == [
        "# Written by machctl create. Edit it as you like, then run: machctl apply",
        "",
        "[machines.web]",
        'source = "debian:trixie"',
        'bridges = ["br0"]',
        'memory = "512M"',
        "cpus = 2",
    ]


def test_comments_order_and_other_machines_are_kept() -> None:
    text = (
        "# our fleet\n\n[machines.db]\nsource = 'debian'  # stable\n\n"
        '[machines.web]\nautostart = true # always\nbridges = [\n  "br0", # the office\n]\nsource = "debian:trixie"\n'
    )
    found, _ = parse_fleet({own_file("web"): text})
    assert write_machine(found["web"], text) == text
    limited = write_machine(machine(autostart=True, memory=2**30), text)
    assert limited == text + 'memory = "1G"\n'


@pytest.mark.parametrize("name", ["db.example.org", "1", "a-b"])
def test_name_that_needs_quotes_in_toml(name: str) -> None:
    assert list(tomllib.loads(write_machine(machine(name)))["machines"]) == [name]


def test_only_what_has_changed_is_written() -> None:
    text = (
        '[machines.web]\nsource = "debian"  # the stable one\nbridges = ["br0"]\nmemory = "1024M"\n'
        'publish = ["8080:80/tcp"]\nautostart = false\ncpus = 2\n'
    )
    found, _ = parse_fleet({own_file("web"): text})
    before = found["web"]
    assert write_machine(before, text, before=before) == text
    after = dataclasses.replace(before, cpus=1.5)
    assert write_machine(after, text, before=before) == text.replace("cpus = 2", "cpus = 1.5")
    without = dataclasses.replace(before, memory=None)
    assert write_machine(without, text, before=before) == text.replace('memory = "1024M"\n', "")


@settings(max_examples=40)
@given(before=machines, after=machines)
def test_an_edit_of_what_changed_gives_what_is_wanted(before: Machine, after: Machine) -> None:
    after = dataclasses.replace(after, name=before.name)
    found, errors = parse_fleet({"": write_machine(after, write_machine(before), before=before)})
    assert errors == []
    assert found == {after.name: after}


def test_all_about_the_network_is_written() -> None:
    declared = machine(
        links=(Attachment("bridge", "br0"), Attachment("zone", "lab"), Attachment("bridge", "br1", name="x")),
        publish=(Publish(8000, 9000, "::1"), Publish(53, 53, protocol="udp", count=3)),
        isolated=True, egress=(), on_demand=True, idle_stop=600,
    )  # fmt: skip
    text = write_machine(declared)
    assert 'links = ["bridge:br0", "zone:lab", "bridge:br1,name=x"]\n' in text
    assert 'publish = ["[::1]:8000:9000", "53-55:53-55/udp"]\n' in text
    assert "isolated = true\negress = []\n" in text
    assert 'idle-stop = "10m"\n' in text
    assert parse_fleet({declared.origin: text}) == ({"web": declared}, [])


def test_network_of_the_host_is_written() -> None:
    declared = machine(network="host", links=())
    assert 'network = "host"\n' in write_machine(declared)
    assert parse_fleet({declared.origin: write_machine(declared)}) == ({"web": declared}, [])


@settings(max_examples=40)
@given(machines)
def test_what_machctl_writes_is_right_by_the_schema(declared: Machine) -> None:
    assert against(write_machine(declared)) == []


LAYERS = """
[defaults]
memory = "1G"
packages = ["less"]
bridges = ["lab"]
ephemeral = true
variant = "important"
[profiles.a]
cpus = 2
binds = ["/srv/{{x}}:/srv"]
[profiles.a.environment]
A = "b"
"""


@settings(max_examples=40, deadline=None)
@given(before=machines, after=machines, profile=st.booleans())
def test_an_edit_over_layers_is_what_was_wanted_or_is_refused(before: Machine, after: Machine, profile: bool) -> None:
    origin = own_file(before.name)
    before = dataclasses.replace(before, origin=origin)
    own = write_machine(before).replace("source =", 'profiles = ["a"]\nsource =' if profile else "source =", 1)
    files = {FLEET_FILE: LAYERS, origin: own}
    found, _ = parse_fleet(files)
    if before.name not in found:
        return
    after = dataclasses.replace(after, name=before.name, origin=origin)
    try:
        said, text = edited(after, found[before.name], files)
    except MachctlError:
        return
    assert parse_fleet({**files, origin: text})[0][before.name] == said
    for field in ("memory", "cpus", "ephemeral", "variant", "hostname", "disk", "storage", "autostart"):
        wanted = getattr(after, field)
        assert getattr(said, field) == wanted or (wanted is None and field in {"memory", "cpus"}), field
    assert set(after.packages) <= set(said.packages)
    assert set(after.publish) == set(said.publish)
