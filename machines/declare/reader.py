# SPDX-License-Identifier: LGPL-2.1-or-later
"""Typed reading of a TOML table: every error knows its file and key path, and all are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, overload

from machines.errors import InvalidFile, MachctlError

T = TypeVar("T")


class Table:
    """A table of a file. Reading a wrong value notes an error and gives the default; finish() notes unknown keys."""

    def __init__(self, values: Mapping[str, object], *, file: str, path: str, errors: list[MachctlError]) -> None:
        self.values = values
        self.file = file
        self.path = path
        self.errors = errors
        self._known: set[str] = set()

    def fail(self, key: str, message: str, hint: str = "") -> None:
        """Note that the value of ``key`` is wrong."""
        where = f"{self.path}.{key}" if self.path and key else self.path or key
        self.errors.append(InvalidFile(f"{self.file}: {where}: {message}", hint=hint))

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
        return Table(value if isinstance(value, dict) else {}, file=self.file, path=path, errors=self.errors)

    def finish(self) -> None:
        """Note every key that was not asked for, with the nearest known one."""
        for key in self.values:
            if key not in self._known:
                import difflib

                near = difflib.get_close_matches(key, self._known, n=1)
                self.fail(key, "is not a key of this table", hint=f"did you mean {near[0]}?" if near else "")

    def _get(self, key: str) -> object:
        self._known.add(key)
        return self.values.get(key)

    def _parsed(self, key: str, value: str, parse: Callable[[str], T], default: T) -> T:
        try:
            return parse(value)
        except MachctlError as error:
            self.fail(key, error.message, error.hint)
            return default


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")
