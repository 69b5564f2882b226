# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines and the host use, from the kernel's files; nothing is forked (operations.usage.Meters)."""

from __future__ import annotations

import time

from machines.host.meters import cgroup, network
from machines.host.meters.whole import read_host as read_host
from machines.model.usage import Usage


def read(leader: int, unit: str) -> Usage:
    """Give the counters of the machine that process ``leader`` leads and that runs in ``unit``.

    What the host does not tell is None, and so is all of a machine that has just ended.
    """
    at = time.monotonic()
    net = network.traffic(leader)
    group = cgroup.group_of(leader, unit)
    values = cgroup.read_group(group) if group else {}
    return Usage(at=at, net_in=net[0] if net else None, net_out=net[1] if net else None, **values)
