# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declaration files, /etc/machctl/fleet.toml and fleet.d/*.toml, to machines."""

from __future__ import annotations

from collections.abc import Mapping

from machines.declare import values
from machines.declare.links import check_links, links_of, parse_bridge, parse_link, parse_mode
from machines.declare.ports import check_ports
from machines.declare.reader import Table
from machines.declare.toml import parse_toml
from machines.errors import InvalidFile, InvalidValue, MachctlError
from machines.model.base import STALE_AFTER_DAYS
from machines.model.machine import Machine
from machines.model.names import check_new_name
from machines.model.source import Source, parse_source

FLEET_FILE = "/etc/machctl/fleet.toml"
FLEET_DIRECTORY = "/etc/machctl/fleet.d"


def own_file(name: str) -> str:
    """Give the declaration file that ``machctl create`` writes for a machine."""
    return f"{FLEET_DIRECTORY}/{name}.toml"


def parse_fleet(files: Mapping[str, str]) -> tuple[dict[str, Machine], list[MachctlError]]:
    """Read declaration files, path to text, into machines by name, and everything that is wrong with them.

    A machine with an error in it is left out of the first and named in the second.
    """
    machines: dict[str, Machine] = {}
    errors: list[MachctlError] = []
    for file in sorted(files):
        try:
            content = parse_toml(files[file])
        except ValueError as error:
            errors.append(InvalidFile(f"{file}: {error}", hint="the file has to be TOML: https://toml.io"))
            continue
        top = Table(content, file=file, path="", errors=errors)
        _stale_after(top)
        if "networks" in top.values:
            from machines.declare.networks import read_networks

            read_networks(top)
        for name, table in top.tables("machines"):
            before = len(errors)
            machine = _machine(name, table)
            if name in machines:
                table.fail("", f"is declared in {machines[name].origin} as well", hint="keep one of the two")
            elif machine and len(errors) == before:
                machines[name] = machine
        top.finish()
    return machines, errors


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
    days = images.number("stale-after", values.parse_days, None)
    images.finish()
    return days


def _machine(name: str, table: Table) -> Machine | None:
    try:
        check_new_name(name)
    except MachctlError as error:
        table.fail("", error.message, error.hint)
        return None
    mirror = table.text("mirror", values.parse_mirror, None)
    mode = table.text("network", parse_mode, "private")
    source = table.text("source", lambda text: parse_source(text, any_suite=mirror is not None), None)
    if source is None and "source" not in table.values:
        table.fail("source", "is missing", hint='source = "debian:trixie"')
    if source is not None and source.kind == "machine":
        table.fail("source", f"{source} cannot be declared", f"copy it: machctl clone {source.reference} {name}")
    machine = Machine(
        name=name,
        source=source or Source("debian", "trixie"),
        origin=table.file,
        network=mode,
        links=links_of(table.texts("bridges", parse_bridge, None), table.texts("links", parse_link, None), mode=mode),
        publish=table.texts("publish", values.parse_publish),
        isolated=table.flag("isolated", default=False),
        egress=table.texts("egress", values.parse_egress, None),
        on_demand=table.flag("on-demand", default=False),
        idle_stop=table.number("idle-stop", values.parse_duration, None),
        binds=table.texts("binds", values.parse_bind),
        packages=table.texts("packages", values.parse_package),
        mirror=mirror,
        variant=table.text("variant", values.parse_variant, "minbase"),
        bootstrapper=table.text("bootstrapper", values.parse_bootstrapper, "auto"),
        keyring=table.text("keyring", values.parse_keyring, None),
        checksum=table.text("checksum", values.parse_checksum, None),
        insecure=table.flag("insecure", default=False),
        storage=table.text("storage", values.parse_storage, "auto"),
        disk=table.number("disk", values.parse_disk, None),
        ephemeral=table.flag("ephemeral", default=False),
        memory=table.number("memory", values.parse_memory, None),
        cpus=table.number("cpus", values.parse_cpus, None),
        hostname=table.text("hostname", values.parse_hostname, None),
        ssh_keys=table.texts("ssh-keys", values.parse_ssh_key),
        autostart=table.flag("autostart", default=False),
    )
    for wrong in check_machine(machine):
        table.fail("", wrong.message, wrong.hint)
    table.finish()
    return machine


def check_machine(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with a machine's values taken together, each being right by itself."""
    errors: list[MachctlError] = []
    errors += check_links(machine)
    errors += check_ports(machine)
    found = [bind.destination for bind in machine.binds]
    for value in sorted({value for value in found if found.count(value) > 1}):
        errors.append(InvalidValue(f"bind {value} of {machine.name} is given twice", hint="leave one out"))
    errors += _check_source(machine)
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
