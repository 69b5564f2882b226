# SPDX-License-Identifier: LGPL-2.1-or-later
"""Typed reading of a TOML table: every error knows its file and key path, and all are collected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar, overload

from machines.declare.layers import Place
from machines.errors import InvalidFile, MachctlError

S = TypeVar("S")
T = TypeVar("T")


class WrongKey(InvalidFile):
    """What is wrong with the value at ``path`` of ``file``: ``said``. ``line`` is known once somebody looked for it."""

    def __init__(self, file: str, path: str, said: str, hint: str = "", *, line: int | None = None) -> None:
        place = file if line is None else f"{file}:{line}"
        super().__init__(f"{place}: {path}: {said}" if path else f"{place}: {said}", hint=hint)
        self.file = file
        self.path = path
        self.said = said
        self.line = line


def not_toml(file: str, error: ValueError) -> WrongKey:
    """Give what is wrong with a file that is not TOML; tomllib says where at the end of its message."""
    said, _, place = str(error).partition(" (at line ")
    digits = place.partition(",")[0]
    line = int(digits) if digits.isdigit() else None
    text = said if line is not None else str(error)
    return WrongKey(file, "", text, "the file has to be TOML: https://toml.io", line=line)


def located(errors: Iterable[MachctlError], files: Mapping[str, str]) -> list[MachctlError]:
    """Give errors with the lines that they are in; each value is complained about once, whoever has it."""
    from machines.declare.lines import key_lines, line_of

    lines: dict[str, dict[str, int]] = {}
    found: dict[str, MachctlError] = {}
    for error in errors:
        if isinstance(error, WrongKey) and error.line is None and error.path:
            if error.file not in lines:
                lines[error.file] = key_lines(files.get(error.file, ""))
            line = line_of(error.path, lines[error.file])
            error = WrongKey(error.file, error.path, error.said, error.hint, line=line)
        found.setdefault(error.message, error)
    return list(found.values())


def with_line(said: str, file: str, path: str, files: Mapping[str, str]) -> str:
    """Give what is wrong with the value at ``path`` of a file as the mistakes of its reader have it."""
    return located([WrongKey(file, path, said)], files)[0].message


class Table:
    """A table of a file. Reading a wrong value notes an error and gives the default; finish() notes unknown keys."""

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        file: str,
        path: str,
        errors: list[MachctlError],
        places: Mapping[str, Place] | None = None,
    ) -> None:
        """``places`` says of keys, items and keys of inner tables where they stand, if that is elsewhere."""
        self.values = values
        self.file = file
        self.path = path
        self.errors = errors
        self._places = places or {}
        self._known: set[str] = set()

    def fail(self, key: str, message: str, hint: str = "") -> None:
        """Note that the value of ``key`` is wrong."""
        where = f"{self.path}.{key}" if self.path and key else self.path or key
        file, path = self._places.get(key) or (self.file, where)
        self.errors.append(WrongKey(file, path, message, hint))

    def text(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """Read a string through ``parse``; its InvalidValue becomes an error of this file."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(key, f"must be a string, is {_kind(value)}")
            return default
        return self._parsed(key, value, parse, default)

    def number(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """Read a number, or a string that holds one, through ``parse``."""
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            self.fail(key, f"must be a number, is {_kind(value)}")
            return default
        return self._parsed(key, str(value), parse, default)

    @overload
    def texts(self, key: str, parse: Callable[[str], T], default: tuple[T, ...] = ()) -> tuple[T, ...]: ...

    @overload
    def texts(self, key: str, parse: Callable[[str], T], default: None) -> tuple[T, ...] | None: ...

    def texts(self, key: str, parse: Callable[[str], T], default: tuple[T, ...] | None = ()) -> tuple[T, ...] | None:
        """Read a list of strings through ``parse``."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, list):
            self.fail(key, f"must be a list of strings, is {_kind(value)}", hint=f'{key} = ["..."]')
            return default
        found = []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.fail(f"{key}[{index}]", f"must be a string, is {_kind(item)}")
                continue
            parsed = self._parsed(f"{key}[{index}]", item, parse, None)
            if parsed is not None:
                found.append(parsed)
        return tuple(found)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, is {_kind(value)}")
            return default
        return value

    def tables(self, key: str) -> Iterable[tuple[str, Table]]:
        """Read a table of tables, by name."""
        value = self._get(key)
        if value is None:
            return
        if not isinstance(value, dict):
            self.fail(key, f"must be a table, is {_kind(value)}")
            return
        for name, inner in value.items():
            path = f"{self.path}.{key}.{name}" if self.path else f"{key}.{name}"
            if isinstance(inner, dict):
                yield name, Table(inner, file=self.file, path=path, errors=self.errors)
            else:
                self.fail(f"{key}.{name}", f"must be a table, is {_kind(inner)}")

    def table(self, key: str) -> Table:
        """Read a table; an empty one where there is none."""
        value = self._get(key)
        if value is not None and not isinstance(value, dict):
            self.fail(key, f"must be a table, is {_kind(value)}")
        path = f"{self.path}.{key}" if self.path else key
        inner = f"{key}."
        places = {place.removeprefix(inner): where for place, where in self._places.items() if place.startswith(inner)}
        content = value if isinstance(value, dict) else {}
        return Table(content, file=self.file, path=path, errors=self.errors, places=places)

    def finish(self, known: Collection[str] = ()) -> None:
        """Note every key that was not asked for and is not ``known``, with the nearest that is."""
        for key in self.values:
            if key not in self._known and key not in known:
                self.fail(key, "is not a key of this table", hint=nearest(key, {*self._known, *known}))

    def words(self, key: str, parse: Callable[[object], T], default: T) -> T:
        """Read a string or a list of strings through ``parse``."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
            self.fail(key, f"must be a string or a list of strings, is {_kind(value)}", hint=f'{key} = ["..."]')
            return default
        return self._parsed(key, value, parse, default)

    def pairs(self, key: str, parse: Callable[[str, str], T], default: tuple[T, ...]) -> tuple[T, ...]:
        """Read a table of strings, each of them with its name through ``parse``."""
        found = []
        for name, value in self.table(key).values.items():
            if not isinstance(value, str):
                self.fail(f"{key}.{name}", f"must be a string, is {_kind(value)}", hint=f'{name} = "..."')
                continue
            try:
                found.append(parse(name, value))
            except MachctlError as error:
                self.fail(f"{key}.{name}", error.message, error.hint)
        return tuple(found) or default

    def _get(self, key: str) -> object:
        self._known.add(key)
        return self.values.get(key)

    def _parsed(self, key: str, value: S, parse: Callable[[S], T], default: T) -> T:
        try:
            return parse(value)
        except MachctlError as error:
            self.fail(key, error.message, error.hint)
            return default


def nearest(word: str, known: Iterable[str]) -> str:
    """Give a hint that names the word that was meant, if one is near."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")
