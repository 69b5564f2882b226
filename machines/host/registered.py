# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running machines as the files of machined and of /proc show them: no bus, nothing forked, microseconds.

Every reader tolerates what vanishes meanwhile, and what a guest's root may have put in its own tree.
"""

from __future__ import annotations

import os
import re

from machines.host.files import read_text
from machines.host.guest import read_file, read_plain_file
from machines.model.frozen import NamedTuple

MACHINES = "/run/systemd/machines"

_STATE_MAX = 64 * 1024
_NOT_LOOPBACK = r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL"
_ESCAPE = r"(?s)\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)"
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "s": " "}


class Registered(NamedTuple):
    """A machine that machined knows: running, or just starting or ending.

    ``leader`` is the host's pid of its PID 1, ``since_usec`` microseconds since the epoch, ``id`` the machine ID.
    """

    name: str
    class_: str
    service: str
    unit: str
    leader: int
    root_directory: str
    since_usec: int
    id: str


def registered(*, directory: str = MACHINES) -> tuple[Registered, ...]:
    """Give the machines, by name; the host's own entry is left out. The files are those of machine_save() in
    systemd's src/machine/machine.c."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ()
    found = (registered_machine(name, directory=directory) for name in names)
    return tuple(machine for machine in found if machine is not None)


def registered_machine(name: str, *, directory: str = MACHINES) -> Registered | None:
    """Give one machine, or None where it is not running."""
    # "unit:X" are symlinks from units to machines, ".host" is the host, ".#X" a file that is being written.
    if not name or "/" in name or ":" in name or name.startswith("."):
        return None
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        text = os.read(fd, _STATE_MAX).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(fd)
    machine = parse_state(name, text)
    return machine if machine is not None and os.path.isdir(f"/proc/{machine.leader}") else None


def parse_state(name: str, text: str) -> Registered | None:
    """Give what a state file says, or None where it has no leader."""
    values = parse_assignments(text)
    leader = _number(values.get("LEADER", ""))
    if leader <= 1:
        return None
    return Registered(
        name=name,
        class_=values.get("CLASS", ""),
        service=values.get("SERVICE", ""),
        unit=values.get("SCOPE", "") or values.get("UNIT", ""),
        leader=leader,
        root_directory=values.get("ROOT", ""),
        since_usec=_number(values.get("REALTIME", "")),
        id=values.get("ID", ""),
    )


def parse_assignments(text: str) -> dict[str, str]:
    """Give the ``KEY=value`` lines of os-release(5) and of the state files; other lines are passed over."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            value = _unquoted(value)
            # A guest writes these; on a terminal they must stay one plain word.
            values[key] = value if value.isprintable() else "".join(filter(str.isprintable, value))
    return values


def addresses(leader: int, *, link_local: bool = False) -> tuple[str, ...]:
    """Give the addresses of a machine: IPv4, then IPv6, those of its links only where asked for and at the end.

    A machine that shares the host's network has none of its own.
    """
    if shares_network(leader):
        return ()
    four = parse_fib_trie(_read(f"/proc/{leader}/net/fib_trie"))
    six = parse_if_inet6(_read(f"/proc/{leader}/net/if_inet6"))
    every = (*four, *six)
    near = tuple(address for address in every if address.startswith(("169.254.", "fe80:")))
    return tuple(address for address in every if address not in near) + (near if link_local else ())


def inner_links(leader: int) -> frozenset[str]:
    """Give the names of the links in a machine's network namespace, as /proc/net/dev lists them (proc_pid_net(5))."""
    lines = _read(f"/proc/{leader}/net/dev").splitlines()[2:]
    return frozenset(line.partition(":")[0].strip() for line in lines)


def parse_fib_trie(text: str) -> tuple[str, ...]:
    """Give the local IPv4 addresses that /proc/net/fib_trie lists, without the loopback ones."""
    found = dict.fromkeys(re.findall(_NOT_LOOPBACK, text))
    return tuple(address for address in found if not address.startswith("127."))


def parse_if_inet6(text: str) -> tuple[str, ...]:
    """Give the usable IPv6 addresses that /proc/net/if_inet6 lists, without ::1, permanent ones first."""
    if not text:
        return ()
    # Half a millisecond to import, and many hosts have no IPv6.
    from socket import AF_INET6, inet_ntop

    found = []
    for line in text.splitlines():
        fields = line.split()
        try:
            scope, flags = int(fields[3], 16), int(fields[4], 16)
            address = inet_ntop(AF_INET6, bytes.fromhex(fields[0]))
        except (IndexError, ValueError, OSError):
            continue
        # if_addr.h: IFA_F_DADFAILED, and IFA_F_TENTATIVE, which a packet may not yet come from.
        if scope != 0x10 and not flags & (0x08 | 0x40):
            # IFA_F_DEPRECATED and IFA_F_TEMPORARY.
            found.append((bool(flags & 0x20), bool(flags & 0x01), address))
    return tuple(address for *_, address in sorted(found, key=lambda entry: entry[:2]))


def os_release(root: str) -> dict[str, str]:
    """Give the os-release(5) fields of a tree, empty where they cannot be read; /proc/LEADER/root is a running one."""
    # Nearly everywhere the first is a symlink to the second; reading that needs no resolving of symlinks.
    for path, plain in (("/etc/os-release", True), ("/usr/lib/os-release", True), ("/etc/os-release", False)):
        try:
            text = read_plain_file(root, path) if plain else read_file(root, path)
        except OSError:
            continue
        if text is not None:
            return parse_assignments(text)
    return {}


def shares_network(leader: int) -> bool:
    """Tell whether a process has the host's network."""
    try:
        return os.stat(f"/proc/{leader}/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
    except OSError:
        # Only root may look at these; others can compare what is in them.
        mine, theirs = (_read(f"/proc/{pid}/net/fib_trie") for pid in ("self", leader))
        return mine == theirs


def takes_signal(leader: int, number: int) -> bool:
    """Tell whether a machine's PID 1 would get a signal: one that it neither catches nor blocks the kernel drops for
    it (pid_namespaces(7)), as it is until an init that was just executed is that far. One that is gone misses none."""
    status = _read(f"/proc/{leader}/status")
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)$", status, re.MULTILINE)
    return not masks or any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _read(path: str) -> str:
    return read_text(path) or ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return re.sub(_ESCAPE, _unescaped, value) if "\\" in value else value


def _unescaped(match: re.Match[str]) -> str:
    """cescape() of 252 and shell quoting of later versions: \\x41, \\101, \\n, and a backslash before itself."""
    code = match[1]
    if len(code) == 3:
        return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8))
    return _PLAIN.get(code, code)
