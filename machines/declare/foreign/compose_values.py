# SPDX-License-Identifier: LGPL-2.1-or-later
"""Single values of a compose file (compose-spec, 11-extension, "Specifying values"); ValueError is for all others."""

from __future__ import annotations

import math
import re
from typing import Any

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h|d|w)")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_FLAGS = {"true": True, "y": True, "yes": True, "on": True, "false": False, "n": False, "no": False, "off": False}


def text(value: Any) -> str:
    """Give a string, or a number or boolean as Go writes it. Raises ValueError."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("it is no single value")


def number(value: Any) -> int:
    """Give a whole number. Raises ValueError."""
    found = text(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,18}", found):
        raise ValueError("it is no number")
    return int(found)


def fraction(value: Any) -> float:
    """Give a number. Raises ValueError."""
    found = float(text(value))
    if not math.isfinite(found):
        raise ValueError("it is no number")
    return found


def flag(value: Any) -> bool:
    """Give a boolean. Raises ValueError."""
    found = _FLAGS.get(text(value).lower())
    if found is None:
        raise ValueError("it is neither true nor false")
    return found


def size(value: Any) -> str:
    """Give an amount of memory as a declaration has it. Raises ValueError."""
    return text(value).upper().removesuffix("B")


def seconds(value: Any) -> int:
    """Give a time such as 1m30s in seconds, a part of one being a whole one. Raises ValueError."""
    found = text(value)
    parts = _DURATION.findall(found)
    if "".join(map("".join, parts)) != found or not found:
        if found == "0":
            return 0
        raise ValueError("it is no time")
    return math.ceil(round(sum(float(count) * _SECONDS[unit] for count, unit in parts), 6))


def pairs(value: Any) -> dict[str, str | None]:
    """Give what is a table, or a list of NAME=VALUE; None is the value of a name alone. Raises ValueError."""
    if isinstance(value, dict):
        return {text(name): None if each is None else text(each) for name, each in value.items()}
    if not isinstance(value, list):
        raise ValueError("it is neither a table nor a list")
    found: dict[str, str | None] = {}
    for each in map(text, value):
        name, equals, content = each.partition("=")
        found[name] = content if equals else None
    return found


def items(value: Any) -> list[Any]:
    """Give what is a list. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError("it is no list")
    return value


def table(value: Any) -> dict[str, Any]:
    """Give what is a table. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("it is no table")
    return value


def port(value: Any) -> tuple[str, str]:
    """Give a published port as a declaration has it, and what is not as with compose. Raises ValueError."""
    if isinstance(value, dict):
        words = [text(value.get(key) or "") for key in ("host_ip", "published", "target", "protocol")]
        return _published(*words)
    short, _, protocol = text(value).partition("/")
    *before, guest = short.split(":")
    host = before.pop() if before else ""
    return _published(":".join(before), host, guest, protocol)


def _published(address: str, host: str, guest: str, protocol: str) -> tuple[str, str]:
    address, protocol, why = address.removeprefix("[").removesuffix("]"), protocol.lower(), ""
    if host in {"", "0"}:
        host, why = guest, "the port of the host is not said; it is the same"
    ports, inside = _PORTS.fullmatch(host), _PORTS.fullmatch(guest)
    if not ports or not inside:
        raise ValueError("it is no port")
    if ports[2] and not inside[2]:
        host, why = ports[1], f"compose takes whichever of {host} is free; it is {ports[1]}"
    shown = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{shown}{host}:{guest}" + (f"/{protocol}" if protocol not in {"", "tcp"} else ""), why
