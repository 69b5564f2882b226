# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of pystemd: a blocking connection to a system bus, of the host or of a running machine.

It holds the GIL while it waits for a reply, so it is for calls that return at once. bytes become str in here.
"""

from __future__ import annotations

import errno
import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Self

from machines.errors import MachctlError, Unsupported
from machines.host.bus.errors import DBUS, SYSTEMD, no_bus, translate

CALL_TIMEOUT = 90
"""Seconds that a call may take: a daemon-reload with many units takes longer than the 25 of sd_bus_call(3)."""


def _load(name: str) -> Any:
    """Import a module of pystemd without running pystemd/__init__.py, which pulls in lxml and costs 40 ms."""
    found = sys.modules.get(name)
    if found is not None:
        return found
    if "pystemd" in sys.modules:
        return importlib.import_module(name)
    # Not importlib.util, which takes longer to import than this takes to look.
    spec = importlib.machinery.PathFinder.find_spec("pystemd")
    if spec is None or spec.submodule_search_locations is None:
        raise Unsupported("the Python library pystemd is not there", hint="apt install python3-pystemd")
    package = types.ModuleType("pystemd")
    package.__path__ = list(spec.submodule_search_locations)
    # It prints messages for people, which nobody asks it to here, and dataclasses and inspect would come with that;
    # of paths it asks whether an argument is one, and it quotes commands of units.
    printing: Any = types.ModuleType("pprint")
    printing.pformat = repr
    paths: Any = types.ModuleType("pathlib")
    paths.Path = os.PathLike
    stand_ins = {"pystemd": package, "pprint": printing, "pathlib": paths, "shlex": types.ModuleType("shlex")}
    stand_ins = {module: stand_in for module, stand_in in stand_ins.items() if module not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(name)
    finally:
        for module in stand_ins:
            del sys.modules[module]


class BusError(Exception):
    """A D-Bus error as it came: ``name`` is empty where only an errno is known."""

    def __init__(self, name: str, message: str, code: int) -> None:
        super().__init__(name, message, code)
        self.name = name
        self.message = message
        self.code = code

    def translated(self, *, doing: str, service: str = "org.freedesktop.systemd1") -> MachctlError:
        """Give the MachctlError for it; ``doing`` as in errors.translate."""
        if self.name:
            return translate(self.name, self.message, doing=doing, service=service)
        name = f"System.Error.{errno.errorcode.get(self.code, self.code)}"
        text = os.strerror(self.code) if self.code > 0 else ""
        return translate(name, self.message or text, doing=doing, service=service)


class Bus:
    """One connection; open it as a context manager.

    ``machine`` names a running machine to connect to the bus inside of (sd_bus_open_system_machine(3));
    without it it is the host's system bus, or what DBUS_SYSTEM_BUS_ADDRESS says.
    """

    def __init__(self, *, machine: str | None = None) -> None:
        self._lib = _load("pystemd.dbuslib")
        self._base_error: type[Exception] = sys.modules["pystemd.dbusexc"].DBusBaseError
        # pystemd keeps only a pointer into the bytes, and sd-bus only one to the callback.
        self._machine = machine.encode() if machine is not None else None
        self._callbacks: list[Callable[..., None]] = []
        self._bus: Any = None

    def __enter__(self) -> Self:
        if self._bus is None:
            self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect. Raises BusError: EHOSTDOWN no such machine, ENOENT or ECONNREFUSED no bus, EPERM not root."""
        bus = self._lib.DBus() if self._machine is None else self._lib.DBusMachine(self._machine)
        # sd-bus reads the time limit of calls from the environment only, once per connection.
        before = os.environ.get("SYSTEMD_BUS_TIMEOUT")
        os.environ["SYSTEMD_BUS_TIMEOUT"] = before or str(CALL_TIMEOUT)
        try:
            bus.open()
        except self._base_error as error:
            raise self._error(error) from None
        finally:
            if before is None:
                del os.environ["SYSTEMD_BUS_TIMEOUT"]
        self._bus = bus

    def close(self) -> None:
        """Disconnect; what systemd kept for this connection (AddRef) goes. Closing twice is fine."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()
            self._callbacks.clear()

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: object
    ) -> Any:
        """Call a method and give the reply's body, one value bare and several as a list. Raises BusError."""
        return _text(self._call(destination, path, interface, member, signature, values).body)

    def call_with_fd(
        self, destination: str, path: str, interface: str, member: str, signature: str, *values: object
    ) -> tuple[int, list[Any]]:
        """Call a method whose reply begins with a file descriptor; give it, the caller's to close, and the rest."""
        message = self._call(destination, path, interface, member, signature, values)
        body = message.body if isinstance(message.body, list) else [message.body]
        # sd-bus closes the descriptors of a message together with the message.
        return os.dup(body[0]), list(_text(body[1:]))

    def get(self, destination: str, path: str, interface: str, name: str, signature: str) -> Any:
        """Give one property. Raises BusError."""
        try:
            value = self._bus.get_property(
                destination.encode(), path.encode(), interface.encode(), name.encode(), signature.encode()
            )
        except self._base_error as error:
            raise self._error(error) from None
        return _text(value)

    def match(self, sender: str, path: str, interface: str, member: str, got: Callable[[Any], None]) -> None:
        """Have ``got`` called from dispatch() with the body of every such signal (sd_bus_match_signal(3))."""

        # An exception cannot pass through sd-bus: ``got`` must not raise.
        def callback(msg: Any, error: object = None, userdata: object = None) -> None:
            msg.process_reply(False)
            got(_text(msg.body))

        self._callbacks.append(callback)
        try:
            self._bus.match_signal(sender.encode(), path.encode(), interface.encode(), member.encode(), callback)
        except self._base_error as error:
            raise self._error(error) from None

    def fileno(self) -> int:
        """Give the descriptor to poll for reading before dispatch()."""
        return int(self._bus.get_fd())

    def dispatch(self) -> None:
        """Handle all messages that have come, without waiting. Raises BusError when the connection is gone."""
        empty = 0
        # process() does not say whether it did something without a message, so one empty answer is no end.
        while empty < 2:
            try:
                message = self._bus.process()
            except self._base_error as error:
                raise self._error(error) from None
            empty = empty + 1 if message.is_empty() and not _is_message(message) else 0

    def object_path(self, prefix: str, name: str) -> str:
        """Give the object path of ``name`` under ``prefix`` (sd_bus_path_encode(3))."""
        return str(self._lib.path_encode(prefix.encode(), name.encode()).decode())

    def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, values: Sequence[object]
    ) -> Any:
        try:
            return self._bus.call_method(
                destination.encode(), path.encode(), interface.encode(), member.encode(), pack(signature, values)
            )
        except self._base_error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> BusError:
        """pystemd drops the D-Bus name of errors that it has a class for, so the name is read off the class."""
        raw_name, raw_message = getattr(error, "err_name", b""), getattr(error, "err_message", b"")
        name, message = str(_text(raw_name)), str(_text(raw_message))
        code = abs(int(getattr(error, "errno", 0) or 0))
        word = type(error).__name__.removeprefix("DBus").removesuffix("Error")
        if not name and word == "NoSuchUnit":
            name = SYSTEMD + word
        elif (
            not name and message and word not in {"Base", "ConnectionRefused", "Interrupted"} and self._bus is not None
        ):
            name = DBUS + word
        return BusError(name, message, code)


def open_host() -> Bus:
    """Give an open connection to the host's system bus. Raises Unsupported where there is none, NotPermitted."""
    bus = Bus()
    try:
        bus.open()
    except BusError as error:
        if error.code in {errno.EPERM, errno.EACCES}:
            raise error.translated(doing="open the system bus") from None
        raise no_bus(os.strerror(error.code)) from None
    return bus


def pack(signature: str, values: Sequence[object]) -> list[tuple[int, object]]:
    """Give ``values`` as what pystemd appends to a message one by one: type code and value, (-1, None) closes.

    A variant is a pair of its signature and its value, a dictionary a mapping. Raises ValueError for what
    D-Bus cannot carry: pystemd ignores the failures of sd_bus_message_append(3).
    """
    packed: list[tuple[int, object]] = []
    types = split(signature)
    if len(types) != len(values):
        raise ValueError(f"{len(values)} values for the signature {signature!r}")
    for kind, value in zip(types, values, strict=True):
        _pack(kind, value, packed)
    return packed


def split(signature: str) -> list[str]:
    """Give the complete types that ``signature`` is a sequence of."""
    types, start, depth = [], 0, 0
    for end, char in enumerate(signature, 1):
        depth += (char in "({") - (char in ")}")
        if depth == 0 and char != "a":
            types.append(signature[start:end])
            start = end
    return types


def _pack(kind: str, value: Any, packed: list[tuple[int, object]]) -> None:
    if kind == "v":
        packed.append((ord("v"), value[0].encode()))
        _pack(value[0], value[1], packed)
    elif kind.startswith("a"):
        packed.append((ord("a"), kind[1:].encode()))
        for item in value.items() if kind.startswith("a{") else value:
            _pack(kind[1:], item, packed)
    elif kind[0] in "({":
        packed.append((ord("r") if kind[0] == "(" else ord("e"), kind[1:-1].encode()))
        packed.extend(pack(kind[1:-1], list(value)))
    else:
        if kind in "sog":
            # Raises UnicodeEncodeError, a ValueError, for the lone surrogates of undecodable words.
            value = value.encode() if isinstance(value, str) else value
            if b"\0" in value:
                raise ValueError("a zero byte in a string")
        packed.append((ord(kind), value))
        return
    packed.append((-1, None))


def _is_message(message: Any) -> bool:
    """Tell a message without a body from none at all: only a message has a type."""
    return bool(message.get_type()) if hasattr(message, "get_type") else False


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_text(item) for item in value)
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    return value
