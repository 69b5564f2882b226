# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declaration files, /etc/machctl/fleet.toml and fleet.d/*.toml, to machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from machines.declare.keys import IMAGE_KEYS
from machines.declare.links import check_links
from machines.declare.machine import read_keys, read_machine
from machines.declare.ports import check_ports
from machines.declare.reader import Table, located, not_toml
from machines.declare.toml import parse_toml
from machines.errors import InvalidValue, MachctlError
from machines.model.base import STALE_AFTER_DAYS
from machines.model.frozen import NamedTuple
from machines.model.machine import Machine
from machines.model.names import check_declared_name

if TYPE_CHECKING:
    from machines.declare.profiles import Below
    from machines.model.network import DeclaredNetwork

FLEET_FILE = "/etc/machctl/fleet.toml"
FLEET_DIRECTORY = "/etc/machctl/fleet.d"
DECLARATIONS = (FLEET_FILE, f"{FLEET_DIRECTORY}/*.toml")

TABLES = ("machines", "defaults", "profiles", "networks", "images")


def is_layered(files: Mapping[str, str]) -> bool:
    """Tell whether declaration files can have anything that machines inherit."""
    return any("defaults" in text or "profiles" in text for text in files.values())


def own_file(name: str) -> str:
    """Give the declaration file that ``machctl create`` writes for a machine."""
    return f"{FLEET_DIRECTORY}/{name}.toml"


def parse_fleet(files: Mapping[str, str]) -> tuple[dict[str, Machine], list[MachctlError]]:
    """Read declaration files, path to text, into machines by name, and everything that is wrong with them.

    A machine with an error in it is left out of the first and named in the second.
    """
    fleet = read_fleet(files)
    return fleet.machines, [*fleet.errors, *fleet.clashes]


class Fleet(NamedTuple):
    """Declaration files, read: machines by name, all that is wrong, and of that what each machine left out has.

    ``clashes`` is what is wrong beside that: each machine and network is right by itself, and not all can be had.
    """

    machines: dict[str, Machine]
    errors: list[MachctlError]
    broken: dict[str, list[MachctlError]]
    clashes: list[MachctlError]

    def wrong_with(self, name: str) -> list[MachctlError]:
        """Give why a machine is not among the machines; nothing if it is just not declared."""
        own = f"{own_file(name)}:"
        return self.broken.get(name) or [error for error in self.errors if error.message.startswith(own)]


def read_fleet(files: Mapping[str, str]) -> Fleet:
    """Read declaration files, path to text."""
    errors: list[MachctlError] = []
    tops = _tops(files, errors)
    below = None
    if any("defaults" in top.values or "profiles" in top.values for top in tops):
        from machines.declare.profiles import Below

        below = Below()
        for top in tops:
            below.add(top)
        below.check(errors)
    networks: dict[str, DeclaredNetwork] = {}
    clashes: list[MachctlError] = []
    reading = _Reading(below, braces=any("{" in text or "}" in text for text in files.values()))
    for top in tops:
        if "images" in top.values:
            _stale_after(top)
        if "networks" in top.values:
            from machines.declare.networks import add_networks

            add_networks(networks, top)
        for name, table in top.tables("machines"):
            reading.take(name, table)
        top.finish(TABLES)
    machines = reading.machines
    if any(machine.after for machine in machines.values()):
        from machines.declare.after import check_order, with_groups

        machines = with_groups(machines)
        errors += check_order(machines)
    if networks or any(has_shared(machine) for machine in machines.values()):
        from machines.declare.together import check_together

        own = len(errors)
        check_together(machines, networks, reading.tables, errors)
        clashes, errors[own:] = errors[own:], []
    if not (errors or clashes):
        return Fleet(machines, [], {}, [])
    broken = {name: located(wrong, files) for name, wrong in reading.broken.items()}
    return Fleet(machines, located(errors, files), broken, located(clashes, files))


def has_shared(machine: Machine) -> bool:
    """Tell whether a machine chose anything that no other may have: ports of the host, addresses."""
    return bool(machine.publish) or any(link.addresses or link.mac for link in machine.links)


def _tops(files: Mapping[str, str], errors: list[MachctlError]) -> list[Table]:
    found = []
    for file in sorted(files):
        try:
            found.append(Table(parse_toml(files[file]), file=file, path="", errors=errors))
        except ValueError as error:
            errors.append(not_toml(file, error))
    return found


class _Reading:
    """Machines as they are found, file by file."""

    def __init__(self, below: Below | None, *, braces: bool) -> None:
        self.machines: dict[str, Machine] = {}
        self.broken: dict[str, list[MachctlError]] = {}
        self.tables: dict[str, Table] = {}
        self._below = below
        self._braces = braces

    def take(self, name: str, table: Table) -> None:
        """Read the machine, or the replicas, of a table."""
        if not (self._below or self._braces or "replicas" in table.values or "profiles" in table.values):
            self._keep(name, table, "", len(table.errors))
            return
        from machines.declare.replicas import Expansion

        found = Expansion(name, table, self._below)
        for index, each in enumerate(found.names):
            before = len(table.errors)
            self._keep(each, found.filled(index), found.group, before, found.wrong)
            found.once(before)

    def _keep(self, name: str, table: Table, group: str, before: int, wrong: Sequence[MachctlError] = ()) -> None:
        machine = _machine(name, table, group)
        if name in self.machines:
            table.fail("", f"is declared in {self.machines[name].origin} as well", hint="keep one of the two")
        found = [*wrong, *table.errors[before:]]
        if machine and not found:
            self.machines[name] = machine
            self.tables[name] = table
        else:
            self.broken.setdefault(name, []).extend(found)


def parse_stale_after(files: Mapping[str, str]) -> float:
    """Give how many days old an image may be before it is stale: ``stale-after`` of [images], the last file's."""
    days = STALE_AFTER_DAYS
    for file in sorted(files):
        if "stale-after" not in files[file]:
            continue
        try:
            content = parse_toml(files[file])
        except ValueError:
            # Whoever reads the machines in it says so.
            continue
        days = _stale_after(Table(content, file=file, path="", errors=[])) or days
    return days


def _stale_after(top: Table) -> float | None:
    images = top.table("images")
    said = read_keys(images, IMAGE_KEYS, object)
    images.finish([key.name for key in IMAGE_KEYS])
    return said.get("stale_after")


def _machine(name: str, table: Table, group: str) -> Machine | None:
    try:
        check_declared_name(name)
    except MachctlError as error:
        table.fail("", error.message, error.hint)
        return None
    before = len(table.errors)
    machine = read_machine(name, table, group=group)
    # What could not be read is not among the items that are counted.
    whole = len(table.errors) == before
    for key, wrong in _wrong_with(machine):
        table.fail(key if whole else key.partition("[")[0], wrong.message, wrong.hint)
    return machine


def check_machine(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with a machine's values taken together, each being right by itself."""
    return [error for _, error in _wrong_with(machine)]


def _wrong_with(machine: Machine) -> list[tuple[str, MachctlError]]:
    """Give what is wrong with a machine's values taken together, each with the key it is in, "" for none alone."""
    found: list[tuple[str, MachctlError]] = []
    if machine.binds or machine.has_settings:
        from machines.declare.runtime import check_places

        found += check_places(machine)
    return found + [("", error) for error in _check_together(machine)]


def _check_together(machine: Machine) -> list[MachctlError]:
    errors = [*check_links(machine), *check_ports(machine)]
    if machine.has_settings:
        from machines.declare.runtime import check_settings

        errors += check_settings(machine)
    errors += _check_source(machine)
    if machine.environment or machine.secrets:
        from machines.declare.environment import check_given

        errors += check_given(machine)
    if machine.after:
        from machines.declare.after import check_after

        errors += check_after(machine)
    return errors


def _check_source(machine: Machine) -> list[MachctlError]:
    """Give what is asked of a source that it does not have."""
    source, errors = machine.source, list[MachctlError]()
    if source.remote and not (machine.checksum or machine.insecure):
        errors.append(
            InvalidValue(
                f"nothing says what {source} has to be",
                hint="give its --checksum sha256:DIGITS, or take whatever comes with --insecure",
            )
        )
    if machine.checksum and source.kind not in {"tar", "raw"}:
        errors.append(InvalidValue(f"{source} has no checksum", hint="only tar: and raw: take one"))
    if not source.bootstrapped:
        given = {"packages": machine.packages, "a mirror": machine.mirror, "a keyring": machine.keyring}
        errors += [
            InvalidValue(f"{source} takes no {what.removeprefix('a ')}: it is copied as it is", hint="leave that out")
            for what, value in given.items()
            if value
        ]
    return errors
