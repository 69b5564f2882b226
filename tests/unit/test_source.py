# SPDX-License-Identifier: LGPL-2.1-or-later
"""SOURCE of machctl create."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.errors import InvalidValue
from machines.model.names import HOST_NAME_MAX, is_machine_name
from machines.model.source import Source, parse_source


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("debian", "trixie"),
        ("debian:stable", "trixie"),
        ("debian:oldstable", "bookworm"),
        ("debian:bookworm", "bookworm"),
        ("debian:forky", "forky"),
        ("debian:unstable", "sid"),
    ],
)
def test_debian(text: str, suite: str) -> None:
    assert parse_source(text) == Source("debian", suite)


@pytest.mark.parametrize(
    ("text", "kind", "reference", "name"),
    [
        ("ubuntu", "ubuntu", "noble", "ubuntu"),
        ("ubuntu:jammy", "ubuntu", "jammy", "ubuntu"),
        ("arch", "arch", "", "arch"),
        ("fedora:42", "fedora", "42", "fedora"),
        ("fedora:rawhide", "fedora", "rawhide", "fedora"),
        ("tar:/srv/Web_1.tar.zst", "tar", "/srv/Web_1.tar.zst", "web-1"),
        ("tar:/srv/web.tgz", "tar", "/srv/web.tgz", "web"),
        ("tar:https://example.org/a/rootfs.tar.xz", "tar", "https://example.org/a/rootfs.tar.xz", "rootfs"),
        ("tar:/srv/...", "tar", "/srv/...", None),
        ("raw:/srv/disk.raw", "raw", "/srv/disk.raw", "disk"),
        ("raw:http://example.org/disk.img.xz", "raw", "http://example.org/disk.img.xz", "disk"),
        ("dir:/srv/trees/web/", "dir", "/srv/trees/web", "web"),
        ("dir:/srv/a b:c", "dir", "/srv/a b:c", "a-b-c"),
        ("dir:/", "dir", "/", None),
        ("oci:/srv/images/web.oci", "oci", "/srv/images/web.oci", "web"),
        ("oci:registry.example/nginx:1.27", "oci", "registry.example/nginx:1.27", "nginx"),
        ("oci:localhost:5000/x/web", "oci", "localhost:5000/x/web", "web"),
        ("oci:registry.example/x/web@sha256:0123", "oci", "registry.example/x/web@sha256:0123", "web"),
        ("image:golden", "image", "golden", None),
        ("image:0123456789ab-1", "image", "0123456789ab-1", None),
        ("machine:web.example.org", "machine", "web.example.org", None),
    ],
)
def test_every_other_kind(text: str, kind: str, reference: str, name: str | None) -> None:
    source = parse_source(text)
    assert source == Source(kind, reference)
    assert source.machine_name() == name
    assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        "arch:", "arch:2026", "fedora", "fedora:", "fedora:4", "fedora:x", "fedora:42\n", "fedora:-1", "fedora:٤٢",
        "ubuntu:", "ubuntu:trixie", "ubuntu:x y", "ubuntu:../x",
        "tar", "tar:", "tar:web.tar", "tar:./web.tar", "tar:~/web.tar",
        "tar:/srv/../etc/shadow", "tar:/a\nb", "tar:/a\0",
        "tar:ftp://example.org/x", "tar:file:///x", "tar:https://",
        "tar:https://x y", "tar:https://x\ny", "tar:http://x\"",
        "raw:", "raw:disk.raw", "raw:https://", "dir:", "dir:.", "dir:..", "dir:/a/..", "dir:https://example.org/",
        "oci", "oci:", "oci:-x", "oci:--help", "oci:a b", "oci:a\nb",
        "oci:../x", "oci:/a/../b", "oci:$(id)", "oci:docker://x y",
        "image", "image:", "image:-x", "image:a/b", "image:..", "image:a\n", f"image:{'a' * 129}",
        "machine", "machine:", "machine:-x", "machine:../web", "machine:a b",
    ],
)  # fmt: skip
def test_reference_that_a_kind_does_not_take(text: str) -> None:
    for any_suite in (False, True):
        if text == "ubuntu:trixie" and any_suite:
            continue
        with pytest.raises(InvalidValue) as caught:
            parse_source(text, any_suite=any_suite)
        assert caught.value.hint
        assert "\n" not in caught.value.message
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "bootstrapped", "path", "remote"),
    [
        ("debian", True, None, False),
        ("fedora:42", True, None, False),
        ("tar:/srv/web.tar", False, "/srv/web.tar", False),
        ("tar:https://example.org/x.tar", False, None, True),
        ("raw:http://example.org/x.raw", False, None, True),
        ("oci:/srv/web", False, "/srv/web", False),
        ("oci:registry.example/nginx", False, None, False),
        ("dir:/srv", False, "/srv", False),
        ("image:golden", False, None, False),
        ("machine:web", False, None, False),
    ],
)
def test_what_a_source_is(text: str, path: str | None, *, bootstrapped: bool, remote: bool) -> None:
    source = parse_source(text)
    assert (source.bootstrapped, source.path, source.remote) == (bootstrapped, path, remote)


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.sampled_from(["tar", "raw", "dir", "oci"]))
def test_name_that_comes_to_mind_is_one(reference: str, kind: str) -> None:
    name = Source(kind, f"/{reference}").machine_name()
    assert name is None or is_machine_name(name) or len(name) > HOST_NAME_MAX or ".." in name


@pytest.mark.parametrize("text", ["", "debin", "Debian", "trixie", ":trixie", "debian\n", "-x"])
def test_unknown_source(text: str) -> None:
    with pytest.raises(InvalidValue, match="is not a source") as caught:
        parse_source(text)
    assert "debian:trixie" in caught.value.hint


@pytest.mark.parametrize("suite", ["", "trixi", "TRIXIE", "trixie:x", "../x", "noble"])
def test_unknown_suite_names_those_there_are(suite: str) -> None:
    with pytest.raises(InvalidValue, match="Debian has no suite") as caught:
        parse_source(f"debian:{suite}")
    assert "bookworm" in caught.value.hint
    assert "--mirror" in caught.value.hint


def test_mirror_may_have_other_suites() -> None:
    assert parse_source("debian:daedalus", any_suite=True) == Source("debian", "daedalus")


@pytest.mark.parametrize("suite", ["", "../x", "-x", "a b", "a/b", "a:b", "x\n"])
def test_no_mirror_has_a_suite_that_is_no_word(suite: str) -> None:
    with pytest.raises(InvalidValue):
        parse_source(f"debian:{suite}", any_suite=True)


@pytest.mark.parametrize("text", ["debian:trixie", "debian:sid"])
def test_source_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_source(text)) == text
