# SPDX-License-Identifier: LGPL-2.1-or-later
"""Secrets that machines are given: kept on the host, sealed where it can, and named by machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from machines.declare.environment import check_credential
from machines.errors import Conflict, NotFound, NotPermitted, raise_all
from machines.model.frozen import NamedTuple
from machines.model.secret import PLAIN_DIRECTORY, SEALED_DIRECTORY
from machines.operations.declared import declared_machines, readable_machines
from machines.render import paths

if TYPE_CHECKING:
    from machines.host.interfaces import Host


class Kept(NamedTuple):
    """What became of a secret: ``why`` it is not sealed, "" where it is.

    ``running`` are the machines that have an older one, ``moved`` those whose units look for it where it was before.
    """

    why: str
    running: list[str]
    moved: list[str]


def set_secret(name: str, content: bytes, host: Host, *, plain: bool = False) -> Kept:
    """Keep a secret; with ``plain`` unsealed, if it cannot be sealed, even where it was.

    Raises InvalidValue for a name that is none, Conflict for what was sealed and cannot be now, MachctlError.
    """
    check_credential(name)
    _check_root("set")
    before = host.secrets.stored().get(name)
    why = host.secrets.seal(name, content, plain=plain)
    running, named = host.running(), users(host).get(name, [])
    moved = before is not None and host.secrets.stored().get(name) != before
    return Kept(why, [machine for machine in named if machine in running], named if moved else [])


def list_secrets(host: Host) -> list[dict[str, object]]:
    """Give the secrets that are kept or that machines name, never what they are."""
    kept, named = host.secrets.stored(), users(host)
    rows: list[dict[str, object]] = []
    for name in sorted({*kept, *named}):
        path = kept.get(name)
        state = "missing" if path is None else "sealed" if path.startswith(f"{SEALED_DIRECTORY}/") else "plain"
        rows.append({"name": name, "state": state, "machines": named.get(name, []), "file": path})
    return rows


def remove_secrets(names: list[str], host: Host, *, force: bool, dry_run: bool = False) -> None:
    """Forget secrets. Raises NotFound, and Conflict for those that a declared machine needs, before the first goes."""
    _check_root("rm")
    if not force:
        # A machine whose declaration cannot be read needs its secrets all the same.
        declared_machines(host, together=False)
    kept, named = host.secrets.stored(), users(host)
    raise_all([NotFound(f"there is no secret {name}", hint="machctl secret ls") for name in names if name not in kept])
    needed = [name for name in names if name in named and not force]
    raise_all(
        [
            Conflict(
                f"secret {name} is what {', '.join(named[name])} {'has' if len(named[name]) == 1 else 'have'}",
                hint="such a machine could not start any more; take it out of its secrets first, or say --force",
            )
            for name in needed
        ]
    )
    for name in names if not dry_run else ():
        host.secrets.remove(name)


def users(host: Host) -> dict[str, list[str]]:
    """Give the machines that have each stored secret: declared ones, and those whose units name it."""
    found: dict[str, list[str]] = {}
    for machine in readable_machines(host).values():
        for secret in machine.secrets:
            if secret.kind == "credential":
                found.setdefault(secret.reference, []).append(machine.name)
    # Those that were ejected, or whose declarations cannot be read, need theirs all the same.
    for path, text in host.files.read_files([f"{paths.UNIT_DIRECTORY}/systemd-nspawn@*.service.d/*.conf"]).items():
        name = path.rsplit("/", 2)[1].removeprefix("systemd-nspawn@").removesuffix(".service.d")
        for line in text.splitlines():
            file = line.rpartition(":")[2].replace("%%", "%")
            directory, _, secret_name = file.rpartition("/")
            ours = line.startswith("LoadCredential") and directory in {SEALED_DIRECTORY, PLAIN_DIRECTORY}
            if ours and name not in found.setdefault(secret_name, []):
                found[secret_name].append(name)
    return found


def _check_root(verb: str) -> None:
    if os.geteuid() != 0:
        raise NotPermitted(f"secret {verb} needs root: secrets are kept where only root reads", hint="run it with sudo")
