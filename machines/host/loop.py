# SPDX-License-Identifier: LGPL-2.1-or-later
"""asyncio's loop only once something has to be waited for: importing it takes longer than copying a tree does."""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine


@coroutine
def looped() -> Generator[None, None, None]:
    """Go on inside of asyncio's loop; to be awaited before anything of asyncio is used.

    What was begun outside of it hands itself over here (machines.cli.running.run); inside, others get their turn.
    """
    yield
