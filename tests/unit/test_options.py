# SPDX-License-Identifier: LGPL-2.1-or-later
"""Global flags may stand before the verb and after it, but not in what belongs to the guest."""

from __future__ import annotations

from typing import Any

import pytest

from machines.cli.app import ALIASES, VERBS
from machines.cli.options import Options, hoist
from machines.cli.quick import options_of
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


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        # Behind the machine, where a "--" says where the command begins.
        ("run debian --name tmp --keep -- sh -c x", "run --name tmp --keep debian -- sh -c x"),
        ("run debian --name=tmp -p 80:80 -- sh", "run --name=tmp -p 80:80 debian -- sh"),
        ("run debian -vsrc:/dst -q -- sh", "-q run -vsrc:/dst debian -- sh"),
        ("run --keep debian --name tmp -- sh", "run --keep --name tmp debian -- sh"),
        ("exec web -u bob -- id", "exec -u bob web -- id"),
        ("exec web -tu bob -- id -- x", "exec -tu bob web -- id -- x"),
        ("--json exec web -u bob --timeout 5 -- id -q", "--json --timeout 5 exec -u bob web -- id -q"),
        ("-o json exec -u a -q web -e A=1 -- id", "-o json -q exec -u a -e A=1 web -- id"),
        ("shell web -E A=1 -- /bin/sh", "shell -E A=1 web -- /bin/sh"),
        ("run debian --no-such -- sh", "run --no-such debian -- sh"),
        ("run debian --nmae tmp -- sh", "run --nmae tmp debian -- sh"),
        ("exec web --no-tty -- id", "exec --no-tty web -- id"),
        # A command that has begun.
        ("exec web -u bob id", "exec web -u bob id"),
        ("exec web git log -- file", "exec web git log -- file"),
        ("exec web -- git log -q -- file", "exec web -- git log -q -- file"),
        ("exec -- web -u -- x", "exec -- web -u -- x"),
        ("exec -u -- web ls", "exec -u -- web ls"),
        ("exec", "exec"),
        ("exec --", "exec --"),
        ("clone web -x -- web2", "clone web -x -- web2"),
    ],
)
def test_options_of_a_verb_that_passes_words_on(line: str, wanted: str) -> None:
    assert hoist(line.split(), KNOWN, options_of) == wanted.split()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run debian --name a b -- sh", "'b' is no option of run"),
        ("exec web -u bob id -- x", "'id' is no option of exec"),
        ("run debian --name -- arch", "--name wants a value"),
        ("exec web -tu -- id", "-tu wants a value"),
    ],
)
def test_what_cannot_stand_before_the_command(line: str, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        hoist(line.split(), KNOWN, options_of)
    assert message in caught.value.message


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
