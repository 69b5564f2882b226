# SPDX-License-Identifier: LGPL-2.1-or-later
"""SOURCE of machctl create."""

from __future__ import annotations

import pytest

from machines.errors import InvalidValue
from machines.model.source import PLANNED, Source, parse_source


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


@pytest.mark.parametrize("kind", PLANNED)
def test_planned_source_is_told_from_an_unknown_one(kind: str) -> None:
    for text in (kind, f"{kind}:x"):
        with pytest.raises(InvalidValue, match="is not supported yet"):
            parse_source(text)


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
