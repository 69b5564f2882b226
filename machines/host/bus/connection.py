# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only importer of dbus_next: calls and signals on the system bus that can be waited for together.

For what takes time. Importing it costs asyncio and dbus_next, 50 ms, so it is imported where it is used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from machines.errors import CommandFailed, NotPermitted
from machines.host.bus.errors import no_bus, translate

DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"


class Connection:
    """A connection to the system bus, or to what DBUS_SYSTEM_BUS_ADDRESS says; an async context manager.

    Entering it raises Unsupported where there is no bus, and NotPermitted.
    """

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._gone: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            # Made in here: MessageBus takes the running loop when it is built.
            self._bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
        except (PermissionError, AuthError) as error:
            raise NotPermitted(f"cannot open the system bus: {error}") from None
        except (OSError, EOFError, InvalidAddressError) as error:
            number = error.errno if isinstance(error, OSError) else None
            raise no_bus(os.strerror(number) if number else str(error)) from None
        self._gone = asyncio.ensure_future(self._bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *exc: object) -> None:
        bus, gone = self._bus, self._gone
        self._bus = self._gone = None
        if bus is None or gone is None:
            return
        if not gone.done():
            bus.disconnect()  # type: ignore[no-untyped-call]
        # What ended the connection has been raised by the call that it ended.
        with suppress(Exception):
            await gone
        # disconnect() only shuts the socket down and leaves it open to the garbage collector.
        bus._stream.close()
        bus._sock.close()

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *values: object,
        doing: str,
        interactive: bool = False,
    ) -> Any:
        """Call a method and give the reply's body: nothing, one value bare, several as a list.

        A descriptor in the reply is given as its number, the caller's to close, a variant as its value. With
        ``interactive`` polkit may ask. There is no time limit but the caller's. Raises as errors.translate()
        says, ``doing`` completing "cannot ...", and CommandFailed when the connection ends meanwhile.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(values),
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE,
        )
        assert self._bus is not None
        waiting = asyncio.ensure_future(self._bus.call(message))
        try:
            await self.wait_for(waiting, doing=doing)
        finally:
            waiting.cancel()
        try:
            reply = waiting.result()
        except DBusError as error:
            raise translate(error.type, error.text, doing=doing, service=destination) from None
        except (OSError, EOFError):
            raise _ended(doing) from None
        if reply is None:
            return None
        if reply.message_type == MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise translate(reply.error_name, text, doing=doing, service=destination)
        body = [_bare(value) for value in reply.body]
        if reply.signature.startswith("h"):
            # dbus-next gives indexes into the message's descriptors; no method used here has one elsewhere.
            body[0] = reply.unix_fds[body[0]]
            os.set_inheritable(body[0], False)
        return body[0] if len(body) == 1 else body or None

    async def wait_for(self, future: asyncio.Future[Any], *, doing: str, timeout: float | None = None) -> bool:
        """Wait until ``future`` is done, which stays the caller's to cancel; give False after ``timeout`` seconds.
        Raises CommandFailed when the connection ends first: dbus-next itself leaves its calls waiting forever then."""
        assert self._gone is not None
        either: set[asyncio.Future[Any]] = {future, self._gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
        if self._gone.done() and not future.done():
            raise _ended(doing)
        return future.done()

    @asynccontextmanager
    async def signals(
        self, sender: str, interface: str, member: str, got: Callable[[str, list[Any]], None]
    ) -> AsyncIterator[None]:
        """Have ``got`` called with the path and body of every such signal, from before the body of the with on.

        Enter it before the call whose effect it waits for: the signal may come before the reply does. Leaving it
        waits for nothing, so it is safe while being cancelled.
        """
        assert self._bus is not None
        rule = f"type='signal',sender='{sender}',interface='{interface}',member='{member}'"

        def handler(message: Message) -> None:
            wanted = (MessageType.SIGNAL, interface, member)
            if (message.message_type, message.interface, message.member) == wanted:
                got(message.path, [_bare(value) for value in message.body])

        bus = self._bus
        bus.add_message_handler(handler)
        try:
            await self.call(DBUS, DBUS_PATH, DBUS, "AddMatch", "s", rule, doing="listen for signals")
            yield
        finally:
            bus.remove_message_handler(handler)
            self._remove_match(rule)

    def _remove_match(self, rule: str) -> None:
        if self._bus is None or self._gone is None or self._gone.done():
            return
        message = Message(
            destination=DBUS,
            path=DBUS_PATH,
            interface=DBUS,
            member="RemoveMatch",
            signature="s",
            body=[rule],
            flags=MessageFlag.NO_REPLY_EXPECTED,
        )
        # Nobody waits for it; an error that is not looked at would be printed by asyncio.
        self._bus.send(message).add_done_callback(lambda sent: sent.cancelled() or sent.exception())


def _ended(doing: str) -> CommandFailed:
    return CommandFailed(f"cannot {doing}: the connection to the system bus ended", hint="systemctl status dbus")


def _bare(value: Any) -> Any:
    if isinstance(value, Variant):
        return _bare(value.value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value
