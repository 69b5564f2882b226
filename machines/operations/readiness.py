# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting until a machine does its work, and until those who used another one are done with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from machines.errors import MachctlError, NotRunning
from machines.model.names import waiting_lock
from machines.operations.health import state_of
from machines.operations.waiting import await_healthy
from machines.plan.steps import AwaitReady, Drain
from machines.render.redirect import addresses_of

if TYPE_CHECKING:
    from machines.host.interfaces import Host
    from machines.model.observed import Record

# Nobody is told when a process of a machine begins to listen, nor when its connections end.
_PAUSE = 0.1
_AWAY = {"unreachable", "silent"}
_ATTEMPT = 0.5

# include/net/tcp_states.h: ESTABLISHED, SYN_RECV, FIN_WAIT1 (its last words may be under way) and CLOSE_WAIT.
_BUSY = {"01", "03", "04", "08"}
# /proc/net/tcp has addresses in the byte order of the host, in hexadecimal digits.
_LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


async def wait(step: AwaitReady | Drain, host: Host) -> None:
    """Do a step that waits. Raises MachctlError for a machine that is not ready in time, NotRunning if it ended."""
    if isinstance(step, Drain):
        await _drain(step, host)
        return
    try:
        async with asyncio.timeout(step.seconds):
            if step.healthy:
                # Whoever has a lock of it is not to be disturbed by probes; this one waits for them.
                with host.files.lock(waiting_lock(step.name), what=f"machine {step.name}"):
                    await await_healthy(step.name, host, give_up=True)
            await _answering(step, host)
    except TimeoutError:
        raise MachctlError(
            f"machine {step.name} is not ready after {step.seconds:g} seconds: {await _why(step, host)}",
            hint=f"machctl status {step.name}",
        ) from None


async def _answering(step: AwaitReady, host: Host) -> None:
    while why := await _missing(step, host):
        if why == _ENDED:
            raise NotRunning(f"machine {step.name} ended before it was ready", hint=f"machctl logs {step.name}")
        await _pause(_PAUSE)


_ENDED = "it ended"


async def _missing(step: AwaitReady, host: Host) -> str:
    """Say what a machine lacks of its addresses and ports, tried from inside: from here they may lead elsewhere."""
    entry = host.registered().get(step.name)
    if entry is None:
        return _ENDED
    if not step.addresses:
        return ""
    for port in step.ports or (1,):
        tried = {address: await _connects(address, port, entry.leader, host) for address in step.addresses}
        away = [address for address, how in tried.items() if how in _AWAY]
        if away:
            return f"it has no address {away[0]} yet" if not step.ports else f"{away[0]} port {port}: {tried[away[0]]}"
        if step.ports and "open" not in tried.values():
            return f"nothing listens on its port {port}"
    return ""


async def _connects(address: str, port: int, leader: int, host: Host) -> str:
    try:
        return await asyncio.to_thread(host.probes.connects, address, port, leader=leader, timeout=_ATTEMPT)
    except OSError:
        # It has ended meanwhile.
        return "silent"


async def lacks_ipv6(record: Record, host: Host) -> bool:
    """Tell whether a machine that runs has its IPv4 address inside and not that of IPv6 which it was given."""
    entry = host.registered().get(record.name)
    address, address6 = addresses_of(record)
    if entry is None or not address or not address6:
        return False
    # Nothing needs to listen there: whoever has the address refuses.
    found = [await _connects(each, 1, entry.leader, host) for each in (address, address6)]
    return found[0] not in _AWAY and found[1] in _AWAY


async def _why(step: AwaitReady, host: Host) -> str:
    entry = host.registered().get(step.name)
    state = state_of(step.name, entry.leader, host) if entry else None
    if step.healthy and state is not None and state.state != "healthy":
        return f"it is {state.state}" + (f": {state.why}" if state.why else "")
    return await _missing(step, host)


async def answering_ports(name: str, addresses: tuple[str, ...], ports: tuple[int, ...], host: Host) -> tuple[int, ...]:
    """Give those of the TCP ``ports`` on which a machine that runs answers now; none for one that does not run."""
    entry = host.registered().get(name)
    if entry is None:
        return ()
    found = []
    for port in ports:
        for address in addresses:
            if await _connects(address, port, entry.leader, host) == "open":
                found.append(port)
                break
    return tuple(found)


async def _drain(step: Drain, host: Host) -> None:
    try:
        async with asyncio.timeout(step.seconds):
            while (entry := host.registered().get(step.name)) and connections(entry.leader, step.ports, host):
                await _pause(_PAUSE)
    except TimeoutError:
        return


def connections(leader: int, ports: tuple[int, ...], host: Host) -> int:
    """Give how many others are connected to TCP ports of the machine that ``leader`` leads (proc_pid_net(5))."""
    wanted = {f"{port:04X}" for port in ports}
    count = 0
    for table in ("tcp", "tcp6"):
        for line in (host.files.read_text(f"/proc/{leader}/net/{table}") or "").splitlines()[1:]:
            _, local, remote, state = line.split()[:4]
            if state in _BUSY and local.rpartition(":")[2] in wanted and remote.rpartition(":")[0] not in _LOOPBACK:
                count += 1
    return count


async def _pause(seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()
    except TimeoutError:
        return
