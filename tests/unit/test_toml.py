# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read without tomllib means what tomllib says it means, and all else is left to that."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.declare import toml

PLAIN = (
    "",
    "# a comment\n",
    '[machines.web]\nsource = "debian:trixie"\npublish = ["8080:80", "[::1]:53:53"]\nmemory = 1.5\nautostart = true\n',
    '[machines.web]\n\n[machines.web.more]\na = 1\n[machines.db]\nssh-keys = ["ssh-ed25519 AAAI"]\n',
    'a = [[1, 2], []]\nb = "ü # no comment"\n[c]\n',
    'a = { b = 1 }\n[c]\nd = { e = "x, f = 1 }", g-h = [1, ["{y}"]], i = true }\n',
    'a = ["80{index}:80"]\nb = "{"\n',
)
OTHER = (
    'a = "tab\\t"\n',
    "a = 1 # said after it\n",
    "a = 'literal'\n",
    "a = 1\na = 2\n",
    "[a]\n[a]\n",
    "[a]\nb = 1\n[a.b]\n",
    "[a.b]\n[a]\nb = 1\n",
    "a = {}\n",
    "a = { }\n",
    "a = { b = 1, }\n",
    "a = { b = 1, b = 2 }\n",
    "a = { b = 1  }\n",
    "a = { b = 01 }\n",
    "a = { b = 1979-05-27 }\n",
    "a = { b.c = 1 }\n",
    "a = { b = { c = 1 } }\n",
    "a = { b = 1 } # said after it\n",
    "a = { b = 1 }\n[a.c]\nd = 1\n",
    "a = { b = 1 }\n[a]\n",
    'a = { b = "c }\n',
    "a = [{ b = 1 }]\n",
    'a = [1, [{"b": 1}]]\n',
    'a = {"b": 1}\n',
    "a = null\n",
    "a = NaN\n",
    "a = [NaN]\n",
    "a = Infinity\n",
    "a = 01\n",
    "a = -1\n",
    "a = 1_000\n",
    "a = 1979-05-27\n",
    "a=1\n",
    "a.b = 1\n",
    '"a" = 1\n',
    "[[a]]\n",
    "[ a ]\n",
    "[a.]\n",
    "a = 1\r\n",
    "# \x01\n",
    'a = """\nb\n"""\n',
    "a = [\n1,\n]\n",
    "nothing\n",
)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_files_need_no_tomllib(text: str) -> None:
    assert toml._plain(text) == tomllib.loads(text)


def outcome(text: str) -> object:
    try:
        return toml.parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)


def expected(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)


@pytest.mark.parametrize("text", OTHER)
def test_all_else_is_tomllibs(text: str) -> None:
    assert outcome(text) == expected(text)


LINES = st.sampled_from([line for text in (*PLAIN, *OTHER) for line in text.splitlines()])


@given(st.lists(LINES, max_size=6).map("\n".join))
def test_both_agree_on_any_lines(text: str) -> None:
    assert outcome(text) == expected(text)


@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z-]{1,5}\Z") | st.text(),
        st.text() | st.integers() | st.booleans() | st.lists(st.text()),
    )
)
def test_what_is_written_is_read(values: dict[str, object]) -> None:
    text = "".join(f"{toml.quote_key(key)} = {toml.format_toml(value)}\n" for key, value in values.items())
    assert outcome(text) == expected(text) == values
