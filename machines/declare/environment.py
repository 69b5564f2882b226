# SPDX-License-Identifier: LGPL-2.1-or-later
"""Environment and secrets of a machine: what names and values may be."""

from __future__ import annotations

import re

from machines.errors import InvalidValue, MachctlError
from machines.model.machine import Machine
from machines.model.secret import Secret

# environ(7); what systemd takes is the same (env_name_is_valid() in src/basic/env-util.c).
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
# systemd-creds(1): a file name. Colons end it in LoadCredential=, and ours are never taken for paths or specifiers.
_CREDENTIAL = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"


def parse_variable(name: str, text: str) -> tuple[str, str]:
    """Read an environment variable. Raises InvalidValue."""
    if not re.fullmatch(_VARIABLE, name):
        raise InvalidValue(f"{name!r} is not the name of a variable", hint="use letters, digits and '_': LANG")
    if not text.isprintable() and text:
        raise InvalidValue(f"the value of {name} is more than a line of printable characters", hint="put it in a file")
    return name, text


def parse_secret(name: str, text: str) -> Secret:
    """Read where the secret ``name`` is kept: ``file:PATH`` or ``credential:NAME``. Raises InvalidValue.

    Errors do not say the text: whoever writes the secret itself there by mistake has it in no log.
    """
    check_credential(name)
    kind, colon, reference = text.partition(":")
    form = "write file:/PATH, or credential:NAME for what was stored by: machctl secret set NAME"
    if not colon or kind not in {"file", "credential"}:
        raise InvalidValue(f"secret {name} does not say where it is kept, and never stands here itself", hint=form)
    if kind == "credential":
        if not re.fullmatch(_CREDENTIAL, reference):
            raise InvalidValue(f"secret {name} names no stored secret: letters, digits, '.', '_' and '-'", hint=form)
        return Secret(name, kind, reference)
    # What systemd 255 hands its executor is taken apart at spaces and by backslashes (src/core/execute-serialize.c).
    plain = reference.isprintable() and not any(character.isspace() or character == "\\" for character in reference)
    if reference.startswith("/") and not plain:
        raise InvalidValue(f"secret {name}: systemd takes no spaces or backslashes in its path", hint="rename the file")
    if not reference.startswith("/") or ".." in reference.split("/"):
        raise InvalidValue(f"secret {name}: its file is not an absolute path", hint=form)
    return Secret(name, kind, reference)


def check_given(machine: Machine) -> list[MachctlError]:
    """Give what is wrong with environment and secrets taken together."""
    named = {"variable": [name for name, _ in machine.environment], "secret": [each.name for each in machine.secrets]}
    return [
        InvalidValue(f"{what} {name} of {machine.name} is given twice", hint="leave one out")
        for what, names in named.items()
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def check_credential(name: str) -> str:
    """Give back the name of a credential. Raises InvalidValue."""
    if not re.fullmatch(_CREDENTIAL, name):
        raise InvalidValue(f"{name!r} is not the name of a secret", hint="use letters, digits, '.', '_' and '-'")
    return name
