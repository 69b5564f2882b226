# SPDX-License-Identifier: LGPL-2.1-or-later
"""Doing the safe remedies of findings, as steps like any other."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from machines.operations.doctor.finding import Finding
from machines.operations.execute import execute
from machines.operations.reporter import Reporter
from machines.plan.steps import Plan, Step

if TYPE_CHECKING:
    from machines.host.interfaces import Host

# A machine whose link comes up gets its addresses from its own networkd, within moments.
SETTLE_SECONDS = 5.0
_SETTLING = {"link", "bridge", "address", "route", "neighbour"}


def mending(findings: Sequence[Finding]) -> Plan:
    """Give the steps that mend what was found, as far as that can do no harm."""
    return [step for finding in findings for step in finding.fix]


async def mend(look: Callable[[], list[Finding]], name: str, host: Host, reporter: Reporter) -> list[Finding]:
    """Do what ``look`` finds to do and look again, until there is nothing left that was not done; give the last look.

    Behind a hop that is mended the next broken one may come to light. Raises what a step raises.
    """
    done: list[Step] = []
    findings = look()
    while plan := [step for step in mending(findings) if step not in done]:
        with _changes(name, host) as settled:
            await execute(plan, host, reporter=reporter)
            done += plan
            findings = look()
            while _settles(findings) and await settled():
                findings = look()
    return findings


def _settles(findings: Sequence[Finding]) -> bool:
    return any(finding.level == "bad" and finding.check in _SETTLING and not finding.fix for finding in findings)


@contextlib.contextmanager
def _changes(name: str, host: Host) -> Iterator[Callable[[], Awaitable[bool]]]:
    """Listen to the machine's links and addresses; what it gives waits for a change, False when none comes in time."""
    import asyncio

    entry = host.registered().get(name) if name else None
    if entry is None:

        async def never() -> bool:
            return False

        yield never
        return
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLE_SECONDS
    with host.links.notifications(f"/proc/{entry.leader}/ns/net") as notifications:
        notifications.settimeout(0)

        async def changed() -> bool:
            try:
                async with asyncio.timeout_at(end):
                    # ENOBUFS: some were lost, which is a change as well (netlink(7)).
                    with contextlib.suppress(OSError):
                        await loop.sock_recv(notifications, 65536)
            except TimeoutError:
                return False
            return True

        yield changed
