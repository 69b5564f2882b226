# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names that DNS has no room for: no new machine gets one, and those that have one keep it."""

from __future__ import annotations

import pytest

from acting import declare
from keeping import PLAIN, applied, made, planned
from machines.errors import InvalidValue

pytestmark = pytest.mark.usefixtures("as_root")
LONG = "a" * 64


def test_one_that_is_there_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    host = made(LONG)
    monkeypatch.setattr("os.path.lexists", lambda path: path.startswith("/var/lib/machines/"))
    assert set(planned(host).declared) == {LONG}
    declare(host, LONG, 'memory = "1G"')
    assert applied(host, PLAIN) == {}


def test_none_is_made_of_a_declaration() -> None:
    host = made("web")
    declare(host, LONG)
    with pytest.raises(InvalidValue, match="DNS takes 63"):
        planned(host)
