# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in machines, without a machine."""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from machines.errors import TimedOut
from machines.host.bus import guest


def test_a_command_whose_time_is_over_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sent = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    command: Any = SimpleNamespace(argv=["sleep", "60"], machine="web", forward=sent.append)
    given = guest._Given(command, 2.0, began=100.0)
    assert given.left() == 2.0
    given.check()
    now[0] = 102.0
    assert given.left() == guest.ENDING_SECONDS
    assert sent == [signal.SIGTERM]
    now[0] += guest.ENDING_SECONDS
    assert given.left() is None
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    with pytest.raises(TimedOut, match=r"^sleep in machine web took longer than 2 seconds and was ended$") as caught:
        given.check()
    assert caught.value.exit_code == 124


def test_a_command_may_have_all_the_time() -> None:
    command: Any = SimpleNamespace()
    given = guest._Given(command, None, began=0.0)
    assert given.left() is None
    given.check()
