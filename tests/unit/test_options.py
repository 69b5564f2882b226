# SPDX-License-Identifier: LGPL-2.1-or-later
"""Global flags may stand before the verb and after it, but not in what belongs to the guest."""

from __future__ import annotations

from typing import Any

import pytest

from machines.cli.app import ALIASES, VERBS
from machines.cli.options import Options, hoist
from machines.errors import InvalidValue

KNOWN = VERBS.keys() | ALIASES.keys()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", ""),
        ("list", "list"),
        ("--json list", "--json list"),
        ("list --json", "--json list"),
        ("list -o json web", "-o json list web"),
        ("list --output=json", "--output=json list"),
        ("rm web -y --dry-run", "-y --dry-run rm web"),
        ("--timeout 5 stop web", "--timeout 5 stop web"),
        ("create debian web --memory 1G -q", "-q create debian web --memory 1G"),
        ("exec --json web ls", "--json exec web ls"),
        ("exec web ls --json", "exec web ls --json"),
        ("exec web -- ls -q", "exec web -- ls -q"),
        ("exec -u root web id -q", "exec -u root web id -q"),
        ("exec -q -u root web id -q", "-q exec -u root web id -q"),
        ("shell web ls -y", "shell web ls -y"),
        ("shell root@web", "shell root@web"),
        ("-o", "-o"),
        ("list -o", "list -o"),
        ("-- list --json", "-- list --json"),
    ],
)
def test_hoisting(line: str, wanted: str) -> None:
    assert hoist(line.split(), KNOWN) == wanted.split()


@pytest.mark.parametrize("value", ["create", "list", "-q"])
def test_value_of_a_flag_is_no_verb_and_no_flag(value: str) -> None:
    words = ["-o", value, "list"]
    assert hoist(words, KNOWN) == words


def test_machine_may_be_called_like_a_verb() -> None:
    assert hoist(["start", "list", "--json"], KNOWN) == ["--json", "start", "list"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "xml"}, "'xml' is not an output format"),
        ({"color": "sometimes"}, "'sometimes' is no colour mode"),
        ({"timeout": 0.0}, "0 is no time to wait for"),
        ({"timeout": -1.0}, "-1 is no time to wait for"),
        ({"timeout": float("nan")}, "nan is no time to wait for"),
    ],
)
def test_options_that_there_are_none_of(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Options.checked(**values)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
