# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether anything can be changed on this host at all, asked before all else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.errors import raise_all
from machines.model.observed import Host as Observed
from machines.plan.check_host import check_host

if TYPE_CHECKING:
    from machines.host.interfaces import Host


def check_ready(host: Host, *, verb: str) -> None:
    """Raise NotPermitted without root, Unsupported without systemd or machined."""
    observed = Observed(euid=os.geteuid(), booted=host.booted(), machined=host.facts.machined_state())
    raise_all(check_host(observed, verb=verb))
