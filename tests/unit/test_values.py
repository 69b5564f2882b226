# SPDX-License-Identifier: LGPL-2.1-or-later
"""One value each: what is taken, what is refused, and that what is written is read as the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.declare import values
from machines.errors import InvalidValue
from machines.model.machine import Bind, Publish

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDp"

GOOD = [
    (values.parse_memory, "16M", 16 * 2**20),
    (values.parse_memory, "512M", 512 * 2**20),
    (values.parse_memory, "2G", 2 * 2**30),
    (values.parse_memory, "1.5g", 3 * 2**29),
    (values.parse_memory, "2GiB", 2 * 2**30),
    (values.parse_memory, "536870912", 512 * 2**20),
    (values.parse_cpus, "0.5", 0.5),
    (values.parse_cpus, "2", 2.0),
    (values.parse_publish, "8080:80", Publish(8080, 80)),
    (values.parse_publish, "8080:80/tcp", Publish(8080, 80)),
    (values.parse_publish, "127.0.0.1:8080:80", Publish(8080, 80, "127.0.0.1")),
    (values.parse_publish, "[::1]:8080:80", Publish(8080, 80, "::1")),
    (values.parse_publish, "[0:0::1]:1:65535", Publish(1, 65535, "::1")),
    (values.parse_publish, "0.0.0.0:8080:80", Publish(8080, 80)),
    (values.parse_publish, "[::]:8080:80", Publish(8080, 80)),
    (values.parse_bind, "/srv:/srv", Bind("/srv", "/srv")),
    (values.parse_bind, "/srv/www/:/var//www:ro", Bind("/srv/www", "/var/www", read_only=True)),
    (values.parse_bind, "/srv:/srv:rw", Bind("/srv", "/srv")),
    (values.parse_bind, "/a b:/%n \"x\" 'y'", Bind("/a b", "/%n \"x\" 'y'")),
    (values.parse_package, "nginx-light", "nginx-light"),
    (values.parse_package, "g++-12:arm64=12.2.0-14~x", "g++-12:arm64=12.2.0-14~x"),
    (values.parse_package, "NetworkManager-libnm", "NetworkManager-libnm"),
    (values.parse_variant, "standard", "standard"),
    (values.parse_bootstrapper, "mmdebstrap", "mmdebstrap"),
    (values.parse_bootstrapper, "pacstrap", "pacstrap"),
    (values.parse_bootstrapper, "dnf", "dnf"),
    *((values.parse_storage, driver, driver) for driver in ("auto", "btrfs", "overlay", "reflink", "copy")),
    (values.parse_disk, "256M", 2**28),
    (values.parse_disk, "10G", 10 * 2**30),
    (values.parse_disk, "1.5t", 3 * 2**39),
    (values.parse_checksum, "0a" * 32, f"sha256:{'0a' * 32}"),
    (values.parse_checksum, f"sha256:{'0A' * 32}\n", f"sha256:{'0a' * 32}"),
    (values.parse_checksum, "SHA512:" + "0a" * 64, f"sha512:{'0a' * 64}"),
    (values.parse_checksum, "0a" * 64, f"sha512:{'0a' * 64}"),
    (values.parse_keyring, "/usr/share/keyrings/a b.gpg", "/usr/share/keyrings/a b.gpg"),
    (values.parse_mirror, "http://deb.example/debian", "http://deb.example/debian"),
    (values.parse_mirror, "file:///srv/mirror", "file:///srv/mirror"),
    (values.parse_hostname, "web.example.org", "web.example.org"),
    (values.parse_ssh_key, f"{KEY}\n", KEY),
    (values.parse_ssh_key, f"{KEY} me@home now", f"{KEY} me@home now"),
]

BAD = [
    (values.parse_memory, ["", "10", "-1", "huge", "0", "15M", "1 G", "G", "1e9", "nan", "512M\nx", "9" * 400, "²G"]),
    (values.parse_cpus, ["", "0", "-1", "nan", "inf", "many", "1,5", "9999"]),
    (
        values.parse_publish,
        [
            "", "80/sctp", "10-9", "1-2:1-3", ":80", "80:", "0:80", "65536:80", "80:0", "80:80:80", "a:b", "8080:80/",
            "8080:80/tcp/x", "1.2.3:8080:80", "::1:8080:80", "[::1:8080:80", "-1:80", "8080:80\n",
            "\uff18\uff10:80", "[fe80::1%x\n]:1:1",
        ],
    ),
    (
        values.parse_bind,
        [
            "", "/srv", "srv:/srv", "/srv:srv", "/srv:/srv:rx", "/srv:/:ro", "/srv://",
            "/srv:/./", "/a/../b:/c", "/a:/b/..",
            "/a\n:/b", "/a:/b\n", " /a:/b", "/a:/b ", "/a:/b:c:ro", "/a\0:/b", "/a:/\x1b", "/a:/b\u2028c",
        ],
    ),
    (values.parse_package, ["", "-o", "_x", "nginx light", "nginx;id", "../x", "nginx\n", "?essential"]),
    (values.parse_variant, ["", "small", "minbase\n"]),
    (values.parse_bootstrapper, ["", "yum", "auto "]),
    (values.parse_storage, ["", "zfs", "Btrfs", "raw", "copy\n"]),
    (values.parse_disk, ["", "10", "255M", "-1G", "huge", "10 G", "1e9", "9" * 400, "10G\nx"]),
    (
        values.parse_checksum,
        [
            "", "sha256:", "0" * 63, "0" * 65, "g" * 64, f"md5:{'0' * 32}", f"sha512:{'0' * 64}", f"sha256:{'0' * 128}",
            f"sha1:{'0' * 64}", f"{'0' * 32}\n{'0' * 32}", f":{'0' * 64} x", "\u0660" * 64,
        ],
    ),
    (values.parse_keyring, ["", "keys.gpg", "./keys.gpg", "~/keys.gpg", "/a\n", "/a\0b", "/\u2028"]),
    (values.parse_mirror, ["", "deb.example", "ftp://x", "http://x y", "http://x\n", "http://x]", "-http://x", "https://"]),
    (values.parse_hostname, ["", "-x", "a b", "x" * 65, "a\n"]),
    (
        values.parse_ssh_key,
        [
            "", "\n", "ssh-rsa", "-----BEGIN OPENSSH PRIVATE KEY-----", f"{KEY}\nssh-rsa AAAA", f'command="x" {KEY}',
            f"{KEY} a\x00b",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_good_value(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in BAD for text in texts])
def test_bad_value(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_too_little_memory_says_what_was_understood() -> None:
    with pytest.raises(InvalidValue) as caught:
        values.parse_memory("10")
    assert caught.value.message == "memory '10' is 10 bytes; a machine needs at least 16M"
    assert caught.value.hint == "write the unit too: 512M, 2G"


@given(st.integers(values.MEMORY_MIN, 2**53))
def test_memory_is_written_as_it_is_read(size: int) -> None:
    assert values.parse_memory(values.format_memory(size)) == size


@given(st.integers(values.DISK_MIN, 2**53))
def test_disk_is_written_as_it_is_read(size: int) -> None:
    assert values.parse_disk(values.format_memory(size)) == size


@given(st.floats(0.01, 8192))
def test_processors_are_written_as_they_are_read(cpus: float) -> None:
    declared = values.parse_cpus(repr(cpus))
    assert values.parse_cpus(values.format_cpus(declared)) == declared


@given(
    host=st.integers(1, 65535),
    guest=st.integers(1, 65535),
    address=st.none() | st.ip_addresses().filter(lambda address: not address.is_unspecified).map(str),
)
def test_published_port_is_written_as_it_is_read(host: int, guest: int, address: str | None) -> None:
    port = Publish(host, guest, address)
    assert values.parse_publish(str(port)) == port


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("8080:80", "8080:81", True),
        ("8080:80", "8081:80", False),
        ("127.0.0.1:8080:80", "8080:80", True),
        ("127.0.0.1:8080:80", "192.0.2.1:8080:80", False),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:81", True),
    ],
)
def test_ports_collide(one: str, other: str, *, collide: bool) -> None:
    assert values.parse_publish(one).collides(values.parse_publish(other)) is collide
    assert values.parse_publish(other).collides(values.parse_publish(one)) is collide
