# SPDX-License-Identifier: LGPL-2.1-or-later
"""Environment and secrets, as a machine's settings, its unit and its own systemd are told of them."""

from __future__ import annotations

from machines.model.base import Payload
from machines.model.machine import Machine
from machines.model.secret import SEALED_DIRECTORY
from machines.render.environment import quote_word
from machines.render.placement import Placement

NSPAWN = (
    "systemd-nspawn --quiet --keep-unit --boot --link-journal=try-guest --network-veth -U --settings=override "
    "--machine=%i"
)
"""What systemd-nspawn@.service runs, from systemd 246 to 258 at least."""


def exec_lines(machine: Machine) -> list[str]:
    """Give the lines of [Exec] of its settings."""
    return [f"Environment={quote_word(f'{name}={value}')}" for name, value in machine.environment]


def image_environment(machine: Machine, payload: Payload) -> list[str]:
    """Give what an image says of the environment, but for the names that the machine gives values of its own."""
    own = {name for name, _ in machine.environment}
    return [each for each in payload.environment if each.partition("=")[0] not in own]


def payload_environment(machine: Machine, payload: Payload) -> list[str]:
    """Give the environment of what a machine runs in place of an init: the image's, and over that the machine's own."""
    return [*image_environment(machine, payload), *(f"{name}={value}" for name, value in machine.environment)]


def unit_lines(machine: Machine, placement: Placement) -> list[str]:
    """Give the lines of [Service] that hand its secrets to systemd-nspawn, and from there to its first process.

    Settings have no word for credentials (systemd.nspawn(5)), so nspawn has to be told of their names.
    """
    if not machine.secrets:
        return []
    lines = []
    for secret in machine.secrets:
        path = placement.secrets.get(str(secret)) or f"{SEALED_DIRECTORY}/{secret.reference}"
        key = "LoadCredentialEncrypted" if path.startswith(f"{SEALED_DIRECTORY}/") else "LoadCredential"
        lines.append(f"{key}={secret.id}:{path.replace('%', '%%')}")
    words = [f"--load-credential={secret.name}:{secret.id}" for secret in machine.secrets]
    unique = list(dict.fromkeys(lines))
    return [*unique, "ExecStart=", f"ExecStart={placement.nspawn or NSPAWN} {' '.join(words)}"]


def manager_lines(machine: Machine) -> list[str]:
    """Give the assignments for its own systemd, whose services have nothing of the environment of PID 1 by themselves.

    They are quoted as systemd-system.conf(5) reads DefaultEnvironment=, with specifiers.
    """
    return [_quoted(f"{name}={value}") for name, value in machine.environment]


def _quoted(assignment: str) -> str:
    escaped = assignment.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
