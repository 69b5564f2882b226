# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is declared on this host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from machines.declare.fleet import DECLARATIONS, Fleet, is_layered, own_file, parse_fleet, parse_stale_after, read_fleet
from machines.declare.write import write_machine
from machines.errors import Conflict, MachctlError, NotFound, raise_all
from machines.model.command import apply_command
from machines.model.frozen import replace
from machines.model.machine import Machine
from machines.render.paths import declared_in, settings_file

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.network import DeclaredNetwork


def declared_files(host: Host) -> dict[str, str]:
    """Give the declaration files of this host, or the one that is taken instead of them: path to text."""
    return host.files.read_files(host.declarations)


def one_file(host: Host) -> str:
    """Give the file that is taken instead of those of this host, "" for none."""
    return host.declarations[0] if len(host.declarations) == 1 else ""


def declared_machines(host: Host, *, together: bool = True) -> dict[str, Machine]:
    """Give everything that is declared on this host. Raises InvalidFile for all that is wrong in the files.

    Whoever makes nothing of it need not have it ``together``: as in the middle of a rename, which has both names.
    """
    fleet = _read(host)
    raise_all([*fleet.errors, *(fleet.clashes if together else ())])
    return fleet.machines


def declared_networks(host: Host) -> dict[str, DeclaredNetwork]:
    """Give the networks that are declared on this host. Raises InvalidFile for all that is wrong with them."""
    from machines.declare.networks import parse_networks

    networks, errors = parse_networks(declared_files(host))
    raise_all(errors)
    return networks


def readable_machines(host: Host, *, name: str = "") -> dict[str, Machine]:
    """Give what is declared as far as it can be read: a mistake in one file is no reason to leave other machines alone.

    Raises InvalidFile if ``name`` is not among it for a mistake.
    """
    fleet = _read(host)
    if name and name not in fleet.machines:
        raise_all(fleet.wrong_with(name))
    return fleet.machines


def other_file(name: str, host: Host) -> str:
    """Give the file that a machine was made of where that is none of those of this host (apply --file); "" for none.

    Raises NotFound where it is not there any more.
    """
    file = declared_in(host.files.read_text(settings_file(name)) or "")
    if not file or file.startswith("/etc/machctl/") or name in readable_machines(host):
        return ""
    if host.files.read_text(file) is None:
        raise NotFound(
            f"machine {name} was made of {file}, which is not there",
            hint=f"put that back, or declare {name} in /etc/machctl/fleet.d/{name}.toml, and run: machctl apply {name}",
        )
    return file


def wrong_together(texts: Mapping[str, str], source: str, host: Host) -> list[MachctlError]:
    """Give what would be wrong with all that is declared, were it declared by these files, path to text, as well.

    ``source`` is what these texts are made of: the files are not there yet, and have no lines.
    """
    from machines.declare.reader import WrongKey

    hint = f"change that in {source}, or in what is declared"
    return [
        Conflict(f"{error.path}: {error.said}", hint=f"{error.hint}; {hint}") if isinstance(error, WrongKey) else error
        for error in parse_fleet({**declared_files(host), **texts})[1]
    ]


def said_twice(machines: Iterable[Machine], host: Host) -> list[MachctlError]:
    """Give those of the one file's machines that the host's own files declare as well, and not the same.

    Whichever was applied last would have such a machine, and restart it. One of those files may be the one that counts.
    """
    file = one_file(host)
    if not file:
        return []
    own = read_fleet({path: text for path, text in host.files.read_files(DECLARATIONS).items() if path != file})
    errors: list[MachctlError] = []
    for machine in machines:
        other = own.machines.get(machine.name)
        # As long as nobody can read what is said of it there, it cannot be the same.
        errors += own.broken.get(machine.name, [])
        if other is not None and replace(other, origin=machine.origin) != machine:
            errors.append(
                Conflict(
                    f"machine {machine.name} is declared in {other.origin} and in {machine.origin}, and not the same",
                    hint="take it out of one of the two",
                )
            )
    return errors


def not_declared(name: str, host: Host, *, verb: str) -> NotFound:
    """Give the error of a machine, or of replicas, that the files which count do not declare: others may."""
    from machines.operations.records import read_records

    mine = one_file(host) or "a file of this host"
    for each in sorted(read_records(host)):
        if each != name and not each.startswith(f"{name}-"):
            continue
        file = declared_in(host.files.read_text(settings_file(each)) or "")
        text = host.files.read_text(file) if file and file not in declared_files(host) else None
        declared = read_fleet({file: text}).machines if text is not None else {}
        if each in declared and name in {each, declared[each].group}:
            return NotFound(
                f"machine {name} is declared in {file}, not in {mine}", hint=apply_command(file, name, verb=verb)
            )
    return NotFound(f"machine {name} is not declared", hint=f"machctl create, or write {own_file(name)}")


def as_declared(machine: Machine, host: Host, *, whole: bool = False) -> tuple[Machine, str]:
    """Give a machine that is about to have a file of its own as it will be then, and that file.

    It has the defaults of the fleet for what is not said of it; the ``whole`` of it is, where it is a copy. Raises
    InvalidFile.
    """
    files = declared_files(host)
    if not is_layered(files):
        return machine, write_machine(machine)
    from machines.declare.inherit import settled

    return settled(machine, files, whole=whole)


def edited(machine: Machine, before: Machine, host: Host) -> tuple[Machine, str]:
    """Give the file that declares ``before``, with ``machine`` in its place, and the machine that it says then.

    Raises Conflict where that cannot be said there.
    """
    files = declared_files(host)
    if not before.group and not is_layered(files):
        from machines.declare.rewritten import checked

        text = write_machine(machine, files[before.origin], before=before)
        return checked(text, machine, files), text
    from machines.declare import inherit

    return inherit.edited(machine, before, files)


def stale_after(host: Host) -> float:
    """Give how many days old an image may be before it is stale."""
    return parse_stale_after(declared_files(host))


def _read(host: Host) -> Fleet:
    return read_fleet(declared_files(host))
