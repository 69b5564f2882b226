# SPDX-License-Identifier: LGPL-2.1-or-later
"""machined, org.freedesktop.machine1(5): what only it can do, and what has to be waited for.

All raise Unsupported where machined is masked or not installed, NotRunning for a machine that it does not have,
NotPermitted and CommandFailed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from machines.errors import NotRunning
from machines.host.bus.connection import Connection
from machines.host.registered import registered_machine, takes_signal

SERVICE = "org.freedesktop.machine1"
PATH = "/org/freedesktop/machine1"
MANAGER = SERVICE + ".Manager"
MACHINE = SERVICE + ".Machine"

# What systemd as PID 1 takes for "power off" (systemd(1), SIGRTMIN+4).
POWER_OFF = signal.SIGRTMIN + 4

# Nothing tells when a process begins to take a signal; it has to be looked at.
_LOOK_SECONDS = 0.1


class Removal:
    """The end of a machine, which is being watched for."""

    def __init__(self, bus: Connection, name: str) -> None:
        self._bus = bus
        self._name = name
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """Say that it is gone."""
        if not self._gone.done():
            self._gone.set_result(None)

    async def wait(self, *, timeout: float | None = None) -> bool:
        """Return True when machined has forgotten the machine, False after ``timeout`` seconds."""
        doing = f"wait for the end of machine {self._name}"
        return await self._bus.wait_for(self._gone, doing=doing, timeout=timeout)


class Machined:
    """machined over a connection, which stays the caller's; with ``interactive`` polkit may ask."""

    def __init__(self, bus: Connection, *, interactive: bool = False) -> None:
        self._bus = bus
        self._interactive = interactive

    async def list_machines(self) -> dict[str, tuple[str, str]]:
        """Give class and service of each machine by name, without the host (ListMachines)."""
        machines = await self._call("list the machines", "ListMachines")
        return {name: (class_, service) for name, class_, service, _ in sorted(machines) if name != ".host"}

    async def get_machine(self, name: str) -> str:
        """Give the object path of a machine (GetMachine)."""
        return str(await self._call(f"find machine {name}", "GetMachine", "s", name, name=name))

    async def properties(self, name: str) -> dict[str, Any]:
        """Give what machined knows of a machine: Leader, Unit, Class, State, RootDirectory ..."""
        path = await self.get_machine(name)
        doing = f"read the properties of machine {name}"
        interface = "org.freedesktop.DBus.Properties"
        return dict(await self._bus.call(SERVICE, path, interface, "GetAll", "s", MACHINE, doing=doing))

    async def kill_machine(self, name: str, whom: str, number: int) -> None:
        """Send a signal to the "leader" or to "all" processes of a machine (KillMachine)."""
        doing = f"send signal {int(number)} to machine {name}"
        await self._call(doing, "KillMachine", "ssi", name, whom, int(number), name=name)

    async def terminate(self, name: str) -> None:
        """Have the machine's unit stopped (TerminateMachine); it does not wait for the end."""
        await self._call(f"terminate machine {name}", "TerminateMachine", "s", name, name=name)

    async def open_shell(
        self, name: str, *, user: str, path: str, args: Sequence[str], env: Mapping[str, str]
    ) -> tuple[int, str]:
        """Start a program on a new terminal of the machine and give the descriptor of that, the caller's to
        close, and its path inside (OpenMachineShell).

        ``user`` "" is root, ``path`` "" the user's login shell, ``args`` the whole argv. There is no exit status.
        """
        variables = [f"{key}={value}" for key, value in env.items()]
        doing = f"open a shell in machine {name}"
        fd, terminal = await self._call(
            doing, "OpenMachineShell", "sssasas", name, user, path, list(args), variables, name=name
        )
        return fd, terminal

    @asynccontextmanager
    async def machine_removed(self, name: str) -> AsyncIterator[Removal]:
        """Watch for the end of a machine from before the body of the with on; act there and await wait() of what
        it gives. A machine that is not running has ended already."""
        removal = Removal(self._bus, name)

        def removed(_path: str, body: list[Any]) -> None:
            if body[0] == name:
                removal.set()

        async with self._bus.signals(SERVICE, MANAGER, "MachineRemoved", removed):
            try:
                await self.get_machine(name)
            except NotRunning:
                removal.set()
            yield removal

    async def _call(self, doing: str, member: str, signature: str = "", *args: object, name: str = "") -> Any:
        try:
            return await self._bus.call(
                SERVICE, PATH, MANAGER, member, signature, *args, doing=doing, interactive=self._interactive
            )
        except NotRunning:
            raise NotRunning(f"machine {name} is not running", hint=f"machctl start {name}") from None


async def signal_and_wait(name: str, number: int) -> None:
    """Send a signal to the leader of a machine and wait until machined has forgotten the machine.

    A leader that does not take it yet, as its init has just been executed, is sent it once more when it does.
    Raises NotRunning, Unsupported without machined; the caller owns the time limit.
    """
    async with Connection() as bus:
        machined = Machined(bus)
        async with machined.machine_removed(name) as removal:
            taken = _takes_signal(name, number)
            await machined.kill_machine(name, "leader", number)
            while not taken and not await removal.wait(timeout=_LOOK_SECONDS):
                taken = _takes_signal(name, number)
                if taken:
                    with suppress(NotRunning):
                        await machined.kill_machine(name, "leader", number)
            await removal.wait()


def _takes_signal(name: str, number: int) -> bool:
    machine = registered_machine(name)
    return machine is None or number == signal.SIGKILL or takes_signal(machine.leader, number)


async def open_shell(
    name: str, *, user: str, path: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, str]:
    """Open a shell in a machine and give the descriptor of its terminal, the caller's to close, and its path
    inside; ``path`` "" is the user's login shell, ``arguments`` the whole argv."""
    async with Connection() as bus:
        return await Machined(bus).open_shell(name, user=user, path=path, args=arguments, env=environment)
