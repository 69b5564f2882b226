# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of dbus_next: the system bus for what has to be waited for, and for file descriptors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageType
from dbus_next.message import Message

from machines.errors import CommandFailed, Unsupported
from machines.host.bus.errors import no_bus, translate

DBUS = "org.freedesktop.DBus"


class Connection:
    """A connection to the system bus; use it as an async context manager."""

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._matches: dict[str, int] = {}

    async def __aenter__(self) -> Connection:
        # Made in here: MessageBus takes the running loop when it is built.
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        try:
            self._bus = await bus.connect()
        except (OSError, EOFError) as error:
            raise no_bus(
                os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            ) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: object, doing: str
    ) -> Any:
        """Call a method and give the reply's body: nothing, one value bare, several as a list.

        A descriptor in the reply is given as its number, the caller's to close. Raises as errors.translate() says,
        ``doing`` completing "cannot ...".
        """
        reply = await self._send(
            Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=list(values),
            )
        )
        if reply.message_type == MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise translate(reply.error_name, text, doing=doing, service=destination)
        # dbus-next gives indexes into the message's descriptors.
        body = (
            [
                reply.unix_fds[value] if kind == "h" else value
                for kind, value in zip(reply.signature or "", reply.body, strict=False)
            ]
            if "h" in reply.signature
            else reply.body
        )
        return body[0] if len(body) == 1 else body or None

    @asynccontextmanager
    async def signals(
        self, sender: str, interface: str, member: str, got: Callable[[str, list[Any]], None]
    ) -> AsyncIterator[None]:
        """Have ``got`` called with the path and body of every such signal, from before the body of the with on.

        Enter it before the call whose effect it waits for: the signal may come before the reply does.
        """
        assert self._bus is not None
        rule = f"type='signal',sender='{sender}',interface='{interface}',member='{member}'"

        def handler(message: Message) -> None:
            if message.message_type == MessageType.SIGNAL and (message.interface, message.member) == (
                interface,
                member,
            ):
                got(message.path, message.body)

        self._bus.add_message_handler(handler)
        try:
            await self.call(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", rule, doing="listen for signals")
            try:
                yield
            finally:
                with suppress(CommandFailed, Unsupported):
                    await asyncio.shield(
                        self.call(DBUS, "/org/freedesktop/DBus", DBUS, "RemoveMatch", "s", rule, doing="stop listening")
                    )
        finally:
            if self._bus is not None:
                self._bus.remove_message_handler(handler)

    async def _send(self, message: Message) -> Message:
        assert self._bus is not None
        try:
            reply = await self._bus.call(message)
        except (OSError, EOFError) as error:
            raise no_bus(str(error)) from error
        assert reply is not None
        return reply
