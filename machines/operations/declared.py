# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is declared on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.declare.fleet import FLEET_DIRECTORY, FLEET_FILE, own_file, parse_fleet, parse_stale_after
from machines.errors import MachctlError, raise_all
from machines.model.machine import Machine

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.network import DeclaredNetwork


def declared_machines(host: Host) -> dict[str, Machine]:
    """Give everything that is declared on this host. Raises InvalidFile for all that is wrong in the files."""
    machines, errors = _read(host)
    raise_all(errors)
    return machines


def declared_networks(host: Host) -> dict[str, DeclaredNetwork]:
    """Give the networks that are declared on this host. Raises InvalidFile for all that is wrong with them."""
    from machines.declare.networks import parse_networks

    networks, errors = parse_networks(host.files.read_files([FLEET_FILE, f"{FLEET_DIRECTORY}/*.toml"]))
    raise_all(errors)
    return networks


def readable_machines(host: Host, *, name: str = "") -> dict[str, Machine]:
    """Give what is declared as far as it can be read: a mistake in one file is no reason to leave other machines alone.

    Raises InvalidFile if ``name`` is not among it and its own file is one with a mistake.
    """
    machines, errors = _read(host)
    if name and name not in machines:
        raise_all([error for error in errors if error.message.startswith(f"{own_file(name)}:")])
    return machines


def stale_after(host: Host) -> float:
    """Give how many days old an image may be before it is stale."""
    return parse_stale_after(host.files.read_files([FLEET_FILE, f"{FLEET_DIRECTORY}/*.toml"]))


def _read(host: Host) -> tuple[dict[str, Machine], list[MachctlError]]:
    return parse_fleet(host.files.read_files([FLEET_FILE, f"{FLEET_DIRECTORY}/*.toml"]))
