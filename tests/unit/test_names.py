# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of machines and bridges, and those that machctl makes of them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.errors import InvalidValue
from machines.model import names

GOOD = ["a", "web", "web-1", "db.example.org", "1", "a" * 63, f"{'a' * 60}.{'b' * 3}", "x--y"]
BAD = [
    "", "_", "a" * 65, "../x", "-x", "x-", ".x", "x.", "a..b", "a b", "a\n", "\na", "a/b", "a%b", "a:b", "a@b", "ä",
    "x\0", ".host", "web\u2028", "\u2160", "x_y",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_machine_name(name: str) -> None:
    assert names.check_new_name(name) == name
    assert names.check_known_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad_machine_name(name: str) -> None:
    for check in (names.check_new_name, names.check_declared_name, names.check_known_name):
        with pytest.raises(InvalidValue) as caught:
            check(name)
        assert caught.value.exit_code == 2
        assert caught.value.hint
        assert "\n" not in caught.value.message


def test_new_machine_has_no_upper_case_and_others_may() -> None:
    with pytest.raises(InvalidValue, match="upper case") as caught:
        names.check_new_name("Web")
    assert caught.value.hint == "call it web"
    assert names.check_known_name("Web") == "Web"


def test_a_new_name_can_be_looked_up() -> None:
    name = "a" * 64
    with pytest.raises(InvalidValue, match="64 characters without a dot; DNS takes 63") as caught:
        names.check_new_name(name)
    assert caught.value.hint.endswith(" " + "a" * 63)
    assert names.check_declared_name(name) == name
    assert names.check_known_name(name) == name


@pytest.mark.parametrize("name", ["", "_a", "a b", "-x", "a/b", "x" * 65, "x" * 200])
def test_names_of_what_is_kept(name: str) -> None:
    assert names.check_kept_name("x" * 64, what="a snapshot")
    with pytest.raises(InvalidValue, match="name of a snapshot") as caught:
        names.check_kept_name(name, what="a snapshot")
    assert "64" in caught.value.message + caught.value.hint
    assert len(caught.value.message) < 150


def test_empty_name_is_called_so() -> None:
    with pytest.raises(InvalidValue, match=r"^the empty name is not a machine name$"):
        names.check_new_name("")


def test_endless_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidValue) as caught:
        names.check_new_name("x" * 100_000)
    assert len(caught.value.message) < 150


@given(st.text())
def test_accepted_name_is_safe_in_a_path_and_a_unit(name: str) -> None:
    if names.is_machine_name(name):
        assert set(name) <= set(string.ascii_letters + string.digits + "-.")
        assert name[0] not in "-."
        assert len(name) <= 64


@pytest.mark.parametrize("name", ["br0", "machctl0", "br-lan", "br_0", "a" * 15, "br0.100", ".x"])
def test_good_bridge_name(name: str) -> None:
    assert names.check_link_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a" * 16, "br 0", "br/0", "br:0", "br%i", "-br", "all", "default", "0", "br0\n", "ä"]
)
def test_bad_bridge_name(name: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        names.check_link_name(name)
    assert caught.value.hint


def test_long_bridge_name_is_shortened_in_the_hint() -> None:
    with pytest.raises(InvalidValue, match="has 16 characters; the kernel takes 15") as caught:
        names.check_link_name("bridge-for-tests")
    assert caught.value.hint == "shorten it, for example to bridge-for-test"


@given(name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True), index=st.integers(0, 9999))
def test_extra_link_is_a_link_name(name: str, index: int) -> None:
    assert names.check_link_name(names.extra_link(name, index))


def test_extra_links_of_long_names_differ() -> None:
    assert names.extra_link("web-frontend-1", 1) != names.extra_link("web-frontend-2", 1)
