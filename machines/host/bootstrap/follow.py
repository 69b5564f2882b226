# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a bootstrap tool and follow what it prints: for the progress, and to find the cause of a failure in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from machines.host.bootstrap.progress import Stage
from machines.host.interfaces import BootstrapRequest, Progress
from machines.host.streaming import stream

TAIL = 400
"""Lines of output kept to find the cause of a failure in."""


class Parser(Protocol):
    """What makes stages of a tool's lines."""

    def feed(self, line: str) -> Stage | None:
        """Take one line and give where it says the tool is, or None if it says nothing about that."""
        ...


async def follow(
    argv: Sequence[str],
    parser: Parser | None,
    request: BootstrapRequest,
    progress: Progress,
    *,
    env: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run ``argv`` contained, its lines to the log of ``request`` and through ``parser`` to ``progress``.

    Gives its exit status and its last lines; see stream() for what is raised and what cancellation does.
    """
    tail: deque[str] = deque(maxlen=TAIL)

    def on_line(line: str) -> None:
        tail.append(line)
        if parser and (stage := parser.feed(line)):
            progress(*stage)

    status = await stream(argv, on_line=on_line, log=request.log, env=env)
    return status, list(tail)
