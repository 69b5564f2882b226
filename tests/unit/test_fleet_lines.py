# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines of keys in TOML of every form, and files of any content: a mistake is said, and nothing else happens."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from machines.declare.fleet import parse_fleet
from machines.declare.keys import IMAGE_KEYS, KEYS, NETWORK_KEYS, function
from machines.declare.layers import escape, fill
from machines.declare.lines import key_lines, line_of
from machines.operations.checking import check_files

TEXT = '''\
# [machines.no]
top = """
[machines.no]
x = 1 \\"""
""" # behind
'a.b' . c = 'it is'
[ machines . "web one" ]   # a comment with = and [
source = "debian" # x = 2
publish = [ "80", # one
  # nothing
  [ "81" ], """
82""",
  { port = 83, more = { deep = true } } ]
environment = { A = "}", "B" = 'c]' }
"é" = 1979-05-27T07:32:00Z

[machines."web one".health]
interval="1s"
[[list]]
x = 1
[[list]]
y = [
]
'''


def test_lines_of_keys() -> None:
    assert tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    web = "machines.web one"
    wanted = {
        "top": 2, "a.b.c": 6, "machines": 7, web: 7, f"{web}.source": 8, f"{web}.publish": 9, f"{web}.publish[0]": 9,
        f"{web}.publish[1]": 11, f"{web}.publish[1][0]": 11, f"{web}.publish[2]": 11, f"{web}.publish[3].port": 13,
        f"{web}.publish[3].more.deep": 13, f"{web}.environment.A": 14, f"{web}.environment.B": 14, f"{web}.é": 15,
        f"{web}.health": 17, f"{web}.health.interval": 18, "list": 19, "list.x": 20, "list.y": 22,
    }  # fmt: skip
    assert {path: lines.get(path) for path in wanted} == wanted
    assert "machines.no" not in lines
    assert line_of(f"{web}.health.timeout", lines) == 17
    assert line_of(f"{web}.publish[9]", lines) == 9
    assert line_of("nothing.there", lines) is None


@given(st.text(alphabet="[]{}'\"\\#=.,\n a1"))
def test_any_text_has_lines(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())


inner = [key.name for outer in KEYS if outer.inner for key in function(outer.inner)]
names = st.sampled_from(
    [key.name for key in (*KEYS, *NETWORK_KEYS, *IMAGE_KEYS)]
    + ["machines", "profiles", "defaults", "networks", "images", "web", "a", "B", *inner]
)
texts = st.sampled_from(["", "a", "debian", "80:80", "{index}", "{", "x}", "1", "-1", "no", "a\nb", "/x:/y", "file:/a"])
scalars = texts | st.text(max_size=5) | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=True)
values = st.recursive(
    scalars, lambda more: st.lists(more, max_size=3) | st.dictionaries(names, more, max_size=4), max_leaves=12
)
tables = st.dictionaries(st.sampled_from(["web", "a", "b-1"]), st.dictionaries(names, values, max_size=6), max_size=3)
fleets = st.fixed_dictionaries(
    {},
    optional={
        "machines": tables | values,
        "profiles": tables | values,
        "defaults": st.dictionaries(names, values, max_size=4) | values,
        "networks": tables | values,
        "images": values,
    },
)


@settings(max_examples=50, deadline=None)
@given(fleets, fleets)
def test_any_content_is_read_or_refused(first: Any, second: Any) -> None:
    try:
        files = {"/a": tomlkit.dumps(first), "/b": tomlkit.dumps(second)}
        for text in files.values():
            tomlkit.parse(text)
    except (ValueError, TypeError):
        return
    machines, errors = parse_fleet(files)
    assert all(error.exit_code == 8 and "\n" not in error.message for error in errors)
    assert all(machine.name == name for name, machine in machines.items())
    check_files(files).report()


@given(st.text(alphabet="{}ab") | st.text() | st.lists(st.sampled_from(["{name}", "{index}", "{", "}"])).map("".join))
def test_braces_are_kept(text: str) -> None:
    assert fill(escape(text), {"name": "web"}) == text
