# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of machines, kept as the records have it at the moment: several machctls may be making machines at once."""

from __future__ import annotations

import contextlib
from collections.abc import Set
from typing import TYPE_CHECKING

from machines.errors import MachctlError
from machines.operations.observe import RESOLVED
from machines.operations.records import read_networks, read_records
from machines.plan.names import host_lines, lines_of_guests, with_block
from machines.render import paths
from machines.render.networks import render_resolver

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.network import Network
    from machines.model.observed import Record

_LOCK = "names"
_DNS = 53


async def keep_names(host: Host) -> None:
    """Write the names of machines into the host's /etc/hosts, and into the trees of those who ask nobody for them."""
    async with host.files.wait_lock(_LOCK):
        records, networks, hostname = read_records(host), read_networks(host), host.hostname()
        text = host.hosts.read_hosts()
        wanted = with_block(text, host_lines(records, networks, hostname))
        if wanted != text:
            host.hosts.write_hosts(wanted)
        if not runs_resolved(host):
            _keep_in_trees(records, networks, hostname, host)


async def keep_resolver(host: Host) -> None:
    """Have resolved answer at the gateways of networks, those there are; it is restarted where these changed."""
    async with host.files.wait_lock(_LOCK):
        networks = read_networks(host)
        running = runs_resolved(host)
        text = render_resolver(networks.values()) if running else ""
        have = host.files.read_text(paths.RESOLVER_FILE) or ""
        pending = host.files.read_text(paths.RESOLVER_PENDING) is not None
        if text == have and not pending:
            return
        # Whoever finds this, as we were killed before the restart, makes up for it.
        host.files.write_file(paths.RESOLVER_PENDING, "")
        if text:
            host.files.write_file(paths.RESOLVER_FILE, text)
        else:
            host.files.remove_file(paths.RESOLVER_FILE)
        if text and (pending or not have):
            # From now on it is asked: what a file says comes first, and nobody would correct that any more.
            _keep_in_trees(read_records(host), {}, "", host)
        if running:
            # Several networks in a row are no crash loop: systemd starts nothing six times in ten seconds by itself.
            host.units.reset_failed(RESOLVED)
            gateways = {gateway for network in networks.values() if network.dns for gateway in network.gateways}
            await _reread(gateways, host)
        host.files.remove_file(paths.RESOLVER_PENDING)


async def _reread(gateways: Set[str], host: Host) -> None:
    """Have resolved read its files again, and answer at ``gateways``: where it can it goes on answering meanwhile."""
    # systemd would make a start that is under way a reload, and that fails (unit_reload() in its src/core/unit.c).
    if host.units.states([RESOLVED]).get(RESOLVED) == "active":
        with contextlib.suppress(MachctlError):
            await host.jobs.reload(RESOLVED)
            # With 257.6 nobody listens any more after that (systemd#37843).
            if gateways <= {found.address for found in host.facts.listeners() if found.port == _DNS}:
                return
    await host.jobs.restart(RESOLVED)


def runs_resolved(host: Host) -> bool:
    """Tell whether the host's resolved runs."""
    return host.units.states([RESOLVED]).get(RESOLVED) in {"active", "activating", "reloading"}


def _keep_in_trees(records: dict[str, Record], networks: dict[str, Network], hostname: str, host: Host) -> None:
    trees = host.pool.trees()
    lines = lines_of_guests(records, networks, hostname)
    for name, record in records.items():
        tree = trees.get(name)
        if tree is None or tree.kind in {"raw", "lost"} or not record.addresses:
            continue
        try:
            if tree.kind == "overlay":
                host.storage.mount(name)
            text = host.guests.read_whole_file(tree.path, paths.HOSTS_FILE)
            wanted = with_block(text, lines(name)) if text is not None else None
            if wanted is not None and wanted != text:
                host.guests.write_file(tree.path, paths.HOSTS_FILE, wanted)
        except (MachctlError, OSError):
            # A machine that keeps its own /etc/hosts from being read, or is gone by now; the others have their names.
            continue
