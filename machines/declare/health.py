# SPDX-License-Identifier: LGPL-2.1-or-later
"""The [machines.NAME.health] table of a declaration: its keys, and the probe they make."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from machines.declare.keys import Key
from machines.declare.values import format_duration, parse_duration, parse_whole
from machines.errors import InvalidValue
from machines.model.health import ACTIONS, KINDS, SHELL, Health

KEYS = (
    Key("exec", "words", "A command in the machine: it is healthy if that ends with 0.", "health.parse_command",
        example="pg_isready -q", one_of="probe"),
    Key("tcp", "number", "A port in the machine that takes connections.", "health.parse_tcp", example=5432,
        one_of="probe"),
    Key("http", "number", "A port and a path that answer with 200 to 399.", "health.parse_http", example="80/health",
        one_of="probe"),
    Key("unit", "text", "A unit in the machine that is active.", "health.parse_unit", example="nginx.service",
        one_of="probe"),
    Key("file", "text", "A file in the machine that is there.", "health.parse_file", example="/run/ready",
        one_of="probe"),
    Key("start-period", "number", "Failures do not count for that long after its start.", "health.parse_period",
        "health.format_period", example="30s"),
    Key("interval", "number", "Probe it that often.", "values.parse_duration", "values.format_duration", example="10s"),
    Key("timeout", "number", "A probe that takes longer has failed.", "values.parse_duration",
        "values.format_duration", example="5s"),
    Key("retries", "number", "It is unhealthy once so many probes in a row have failed.", "health.parse_retries",
        example=3),
    Key("on-failure", "text", "What is done with it then.", "health.parse_action", choices=ACTIONS),
)  # fmt: skip

_UNIT = r"[A-Za-z0-9:_.\\@-]+\.(?:service|socket|target|timer|mount|path|device|swap|slice|scope|automount)"
_ONE_OF = "say one of exec, tcp, http, unit, file"


def make_health(values: Mapping[str, Any]) -> Health:
    """Make the probe of what its table says, by field. Raises InvalidValue."""
    kinds = [kind for kind in KINDS if kind in values]
    if not kinds:
        raise InvalidValue("there is nothing to probe", hint=f"{_ONE_OF}, as in http = 80")
    if len(kinds) > 1:
        raise InvalidValue(f"{' and '.join(kinds)} are two probes", hint=_ONE_OF)
    rest = {field: value for field, value in values.items() if field not in KINDS}
    return Health(kinds[0], values[kinds[0]], **rest)


def health_values(health: Health) -> dict[str, object]:
    """Give what a declaration says of a probe; what is left at its default is left out."""
    target: object = health.target[0]
    match health.kind:
        case "exec":
            target = health.target[2] if _is_line(health) else list(health.target)
        case "tcp":
            target = int(health.target[0])
        case "http":
            target = "".join(health.target)
        case _:
            pass
    found: dict[str, object] = {health.kind: target}
    plain = Health(health.kind, health.target)
    for name in ("start_period", "interval", "timeout", "retries", "on_failure"):
        value = getattr(health, name)
        if value != getattr(plain, name):
            timed = name in {"start_period", "interval", "timeout"}
            found[name.replace("_", "-")] = format_period(value) if timed else value
    return found


def _is_line(health: Health) -> bool:
    """Tell whether a command is one string for a shell, without words of its own behind that."""
    return health.target[:2] == SHELL and len(health.target) == len(SHELL) + 1


def parse_command(text: str | list[str]) -> tuple[str, ...]:
    """Read a command: one string for a shell, or its words. Raises InvalidValue."""
    words = (*SHELL, text) if isinstance(text, str) else tuple(text)
    if not words or not words[0] or not words[-1].strip():
        raise InvalidValue("the command is empty", hint='exec = "pg_isready -q"')
    if any(not word.isprintable() for word in words):
        raise InvalidValue(f"command {text!r} is more than a line", hint="put it into a script in the machine")
    return words


def parse_tcp(text: str) -> tuple[str]:
    """Read a port. Raises InvalidValue."""
    return (_port(text, text),)


def parse_http(text: str) -> tuple[str, str]:
    """Read ``PORT[/PATH]``. Raises InvalidValue."""
    port, _, path = text.partition("/")
    if not re.fullmatch(r"[!-~]*", path):
        raise InvalidValue(f"{text!r} has a path that no URL has", hint="escape it, as in 80/a%20b")
    return _port(port, text), f"/{path}"


def parse_unit(text: str) -> tuple[str]:
    """Read the name of a unit, of a service where it says no more. Raises InvalidValue."""
    name = text if re.search(r"\.[a-z]+$", text) else f"{text}.service"
    if not re.fullmatch(_UNIT, name) or len(name) > 255:
        raise InvalidValue(f"{text!r} is not the name of a unit", hint="as in nginx.service")
    return (name,)


def parse_file(text: str) -> tuple[str]:
    """Read an absolute path. Raises InvalidValue."""
    if not text.startswith("/") or not text.isprintable() or ".." in text.split("/"):
        raise InvalidValue(f"{text!r} is not an absolute path", hint="as in /run/ready")
    return (posixpath.normpath("/" + text.lstrip("/")),)


def parse_period(text: str) -> int:
    """Read a time that may be none. Raises InvalidValue."""
    return 0 if re.fullmatch(r"0s?", text.strip()) else parse_duration(text)


def format_period(seconds: int) -> str:
    """Give it back as parse_period() reads it."""
    return format_duration(seconds) if seconds else "0s"


def parse_retries(text: str) -> int:
    """Read how many failures are too many. Raises InvalidValue."""
    return parse_whole(text, 1, 9999, what="a number of failures", hint="write 1 or more, as in 3")


def parse_action(text: str) -> str:
    """Read what is done with an unhealthy machine. Raises InvalidValue."""
    if text not in ACTIONS:
        raise InvalidValue(f"{text!r} is nothing that can be done", hint=f"use one of {', '.join(ACTIONS)}")
    return text


def _port(text: str, whole: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise InvalidValue(f"{whole!r} has no port", hint="ports go from 1 to 65535, as in 80")
    return str(int(text))
