# SPDX-License-Identifier: LGPL-2.1-or-later
"""A compose file as text: YAML or JSON as compose reads it, and its variables (compose-spec, 12-interpolation.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from machines.declare.foreign.found import Found
from machines.errors import InvalidFile, Unsupported

_CONFIG = "docker compose config shows what is wrong with it"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?+])(.*))?", re.DOTALL)
# More than any file that was written by hand has; an alias of YAML may stand for very much.
_VALUES_MAX = 100_000
# What compose's YAML takes for a number or a boolean: that of PyYAML has 22:22 for one, and yes and off, too.
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789",
    ),
}  # fmt: skip
# Where passwords stand.
_GIVEN = {"environment", "healthcheck", "command", "entrypoint"}
_OTHERWISE = {*_PLAIN, "timestamp"}


def load(text: str, where: str) -> Any:
    """Give what a file says. Raises InvalidFile, and Unsupported for YAML where PyYAML is not installed."""
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidFile(f"{where} has lists in lists without end", hint=_CONFIG) from None
    except ValueError as error:
        if where.endswith(".json"):
            place = f"{where}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else where
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InvalidFile(f"{place}: {said[:1].lower()}{said[1:]}", hint="the file has to be JSON") from None
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise Unsupported(
            f"{where} is YAML, and this host has nothing that reads it",
            hint="apt install python3-yaml; or give it as JSON: docker compose config --format json",
        ) from None
    try:
        return yaml.load(text, Loader=_loader(yaml))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidFile(f"{where}: {' '.join(str(error).split())}", hint="the file has to be YAML") from error


def _loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.2 in what plain words are."""

    tag = "tag:yaml.org,2002:"
    Loader.yaml_implicit_resolvers = {
        first: [each for each in every if each[0].removeprefix(tag) not in _OTHERWISE]
        for first, every in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for name, (pattern, first) in _PLAIN.items():
        Loader.add_implicit_resolver(tag + name, re.compile(rf"(?:{pattern})\Z"), list(first))
    Loader.add_constructor(f"{tag}int", lambda loader, node: _integer(loader.construct_scalar(node)))
    return Loader


def _integer(text: str) -> int:
    plain = text.replace("_", "").lower()
    octal = re.fullmatch(r"([-+]?)0o?([0-7]+)", plain)
    return int(octal[1] + octal[2], 8) if octal else int(plain, 0)


def read_variables(text: str) -> dict[str, str]:
    """Read a .env file (compose-spec, 12-interpolation, "The .env file"); what is not NAME=VALUE is passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            continue
        quote = value[:1]
        if quote in {"'", '"'} and (end := value.find(quote, 1)) > 0:
            value = value[1:end]
        else:
            value = re.split(r"\s#", f" {value}", maxsplit=1)[0].strip()
        try:
            found[name] = value if quote == "'" else substitute(value, found, [])
        except ValueError:
            found[name] = value
    return found


class _Asked(dict[str, str]):
    """Variables that keep which of them somebody has taken the value of."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.taken: dict[str, None] = {}

    def __getitem__(self, name: str) -> str:
        self.taken[name] = None
        return super().__getitem__(name)


class Variables:
    """What ``$NAME`` and ``${NAME}`` stand for in a file; ``own`` are those that are of machctl's own environment."""

    def __init__(self, where: str, values: Mapping[str, str], own: Collection[str] = ()) -> None:
        self._values = _Asked(values)
        self._own = own
        self._where = where
        self._left = _VALUES_MAX

    def value(self, name: str, found: Found) -> str | None:
        """Give the value of one of them for an environment, and note where it is of our own."""
        if name in self._own:
            found.inherited[name] = None
        return self._values.get(name)

    def fill(self, value: Any, place: str, found: Found) -> Any:
        """Give ``value``, which stands at ``place``, with all of them filled in; what is not set is noted in ``found``.

        Raises InvalidFile.
        """
        try:
            return self._fill(value, place, found)
        except RecursionError:
            raise InvalidFile(f"{self._where}: {place} is in itself", hint=_CONFIG) from None

    def _fill(self, value: Any, place: str, found: Found) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InvalidFile(f"{self._where} comes to more than {_VALUES_MAX} values", hint=_CONFIG)
        if isinstance(value, dict):
            return {key: self._fill(each, f"{place}.{key}", found) for key, each in value.items()}
        if isinstance(value, list):
            return [self._fill(each, place, found) for each in value]
        if not isinstance(value, str):
            return value
        missing: list[str] = []
        self._values.taken.clear()
        try:
            # What no file can hold JSON can write nevertheless.
            filled = substitute(value, self._values, missing)
            filled.encode()
        except UnicodeEncodeError:
            raise InvalidFile(f"{self._where}: {place} is no text: {value!r}", hint=_CONFIG) from None
        except ValueError as error:
            hint = "write $$ for a dollar sign; variables are set in .env beside it, or in machctl's environment"
            raise InvalidFile(f"{self._where}: {place}: {error}", hint=hint) from None
        if not _GIVEN.isdisjoint(place.split(".")):
            found.inherited |= dict.fromkeys(name for name in self._values.taken if name in self._own)
        for name in dict.fromkeys(missing):
            found.leave(place, f"{name} is not set, and so empty, as with compose: set it in .env beside the file")
        return filled


def substitute(text: str, values: Mapping[str, str], missing: list[str]) -> str:
    """Fill variables in; the names of those that are not set come into ``missing``. Raises ValueError."""
    return "".join(_pieces(text, values, missing))


def _pieces(text: str, values: Mapping[str, str], missing: list[str]) -> Iterator[str]:
    index = 0
    while (dollar := text.find("$", index)) >= 0:
        yield text[index:dollar]
        index = dollar + 2
        if text.startswith("$$", dollar):
            yield "$"
        elif text.startswith("${", dollar):
            end = _end(text, index)
            yield _braced(text[index:end], values, missing)
            index = end + 1
        elif name := _NAME.match(text, dollar + 1):
            yield _value(name[0], values, missing)
            index = name.end()
        else:
            raise ValueError(f"{text!r} has a $ that begins no variable")
    yield text[index:]


def _end(text: str, index: int) -> int:
    """Find the brace that closes; the word for what is not set may have variables itself."""
    depth = 1
    while index < len(text):
        if text.startswith(("$$", "${"), index):
            depth += text[index + 1] == "{"
            index += 1
        elif text[index] == "}":
            depth -= 1
            if not depth:
                return index
        index += 1
    raise ValueError(f"{text!r} has a ${{ without its }}")


def _braced(inner: str, values: Mapping[str, str], missing: list[str]) -> str:
    match = _BRACED.fullmatch(inner)
    if not match:
        raise ValueError(f"${{{inner}}} is no variable")
    name, operator, word = match[1], match[2] or "", match[3] or ""
    is_set = bool(values.get(name)) if operator.startswith(":") else name in values
    match operator[-1:]:
        case "-":
            return values[name] if is_set else substitute(word, values, missing)
        case "+":
            return substitute(word, values, missing) if is_set else ""
        case "?" if not is_set:
            raise ValueError(f"{name} has to be set{': ' if word else ''}{substitute(word, values, missing)}")
    return _value(name, values, missing)


def _value(name: str, values: Mapping[str, str], missing: list[str]) -> str:
    if name not in values:
        missing.append(name)
        return ""
    return values[name]
