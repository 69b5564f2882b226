# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that are read without click are read as click reads them; the rest is left to it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
import pytest

from machines.cli import app, quick, table
from machines.cli.options import hoist
from machines.cli.quick import _read, verb_of
from machines.cli.words import bare

# Old versions of typer use what old versions of click are about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PLAIN = [
    "create debian",
    "create debian web2",
    "create debian web2 --memory 1G --cpus=1.5 -p 80:80 -p 81:81 --publish=82:82 --start",
    "create -v /a:/b:ro --package a,b --package c debian:trixie web",
    "create debian --hostname= --bridge -x",
    "create debian -",
    "clone web web2 --identity keep",
    "restore web before --no-undo",
    "rename a b",
    "diff web",
    "rm web",
    "rm -f web db 'x*'",
    "set web memory=1G cpus=",
    "set web --env A=1 -e B=2 --unset-env C --secret token=file:/t",
    "start web db --wait ip",
]
LEFT = [
    "create",
    "create debian web2 more",
    "create debian --no-such",
    "create debian --memory",
    "create debian --start=yes",
    "create debian -pv",
    "create debian --mem 1G",
    "create --help",
    "rm",
    "clone web -- web2",
    "clone web",
    "stop --all",
    "snapshot",
    "snapshot nothing web",
    "no-such-verb",
    "",
    "--no-such rm web",
    "--timeout soon rm web",
    "--quiet",
]


def read(line: str) -> tuple[Any, list[str]]:
    """The function of a verb, and its words."""
    verb, *words = (word.strip("'") for word in line.split())
    return getattr(import_module(f"machines.cli.verbs.{table.VERBS[verb][0]}"), table.function_name(verb)), words


@pytest.mark.parametrize("line", PLAIN)
def test_as_click_does(line: str) -> None:
    function, words = read(line)
    mine = _read(function, words)
    context = app._command("verb", function).make_context("verb", list(words))
    theirs = {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}
    assert {name: value or None for name, value in mine.items()} == {
        name: value or None for name, value in theirs.items()
    }


@pytest.mark.parametrize("line", [line for line in PLAIN if line.split()[0] in {"create", "rm", "clone", "restore"}])
def test_what_has_to_be_quick_is(line: str) -> None:
    _read(*read(line))


@pytest.mark.parametrize("line", LEFT)
def test_what_is_left_to_click(line: str) -> None:
    assert verb_of(line.split()) is None


def test_global_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("machines.cli.verbs.snapshot.copies.drop", lambda *words, **named: seen.append(named))
    monkeypatch.setattr("machines.cli.verbs.snapshot.run", lambda work, **named: seen.append(named))
    call = verb_of(["--dry-run", "--timeout=5", "-o", "json", "snapshot", "rm", "web", "one"])
    assert call is not None
    monkeypatch.setattr("machines.cli.verbs.snapshot.show_plan", lambda plans, options: seen.append(options))
    call()
    assert seen[0]["dry_run"] is True
    assert seen[1]["timeout"] == 5
    assert seen[2].output == "json"


@pytest.mark.parametrize(
    "line", ["rm", "rm --no-such web", "no-such-verb", "run debian --no-such -- sh", "exec web --usr bob -- id"]
)
def test_click_has_the_word_on_mistakes(line: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["machctl", *line.split()])
    assert quick.run() == 2
    assert "machctl" in capsys.readouterr().err


def test_every_verb_is_one_that_typer_takes() -> None:
    group = app.LazyGroup(name="machctl")
    context = click.Context(group)
    for verb in table.VERBS:
        assert isinstance(group.get_command(context, verb), click.Command)


@pytest.mark.parametrize("line", ["run debian --name tmp -p 80:80 -q -- sh -c x", "exec web -u bob -e A=1 -- ls -l"])
def test_options_behind_the_machine_are_read_as_before_it(line: str) -> None:
    words = hoist(line.split(), table.VERBS, quick.options_of)
    verb = next(word for word in words if word in table.VERBS)
    function, _ = read(verb)
    theirs = app._command(verb, function).make_context("verb", words[words.index(verb) + 1 :]).params
    assert (theirs.get("source"), theirs.get("name")) in {("debian", "tmp"), (None, "web")}
    assert theirs["user"] in {None, "bob"}
    assert bare(theirs["command"]) == line.partition(" -- ")[2].split()
