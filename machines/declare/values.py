# SPDX-License-Identifier: LGPL-2.1-or-later
"""One value each: the text of a flag or of a key in a file, checked and typed."""

from __future__ import annotations

import math
import posixpath
import re

from machines.errors import InvalidValue
from machines.model.machine import Bind, Publish
from machines.model.names import is_machine_name
from machines.model.publish import Egress

MEMORY_MIN = 16 * 1024 * 1024
DISK_MIN = 256 * 1024 * 1024
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_PROTOCOLS = ("tcp", "udp")
_MAPPINGS = ("idmap", "noidmap", "rootidmap")
_SECONDS = {"s": 1, "": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# Fedora's names have capitals and underscores, Arch's an @ here and there.
_PACKAGE = r"[A-Za-z0-9][A-Za-z0-9+._@-]*(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+~:-]+)?"


def parse_memory(text: str) -> int:
    """Read an amount of memory such as ``512M`` or ``2G`` (powers of 1024, as MemoryMax= has it) in bytes.

    Raises InvalidValue; less than 16 MiB is refused, as no system boots in it.
    """
    size = parse_size(text, "memory")
    if size < MEMORY_MIN:
        raise InvalidValue(
            f"memory {text!r} is {size} bytes; a machine needs at least 16M",
            hint="write the unit too: 512M, 2G",
        )
    return size


def parse_size(text: str, what: str) -> int:
    """Read an amount such as ``512M`` in bytes (powers of 1024). Raises InvalidValue, which says of ``what``."""
    match = re.fullmatch(r"(\d{1,19}(?:\.\d{1,9})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise InvalidValue(f"{text!r} is not an amount of {what}", hint="write a number and a unit: 512M, 2G")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if size >= 2**63:
        raise InvalidValue(f"{what} {text!r} is more than any host has", hint="512M, 2G")
    return size


def parse_whole(text: str, least: int, most: int, *, what: str, hint: str) -> int:
    """Read a whole number from ``least`` to ``most``. Raises InvalidValue, which says that it is not ``what``."""
    if not re.fullmatch(rf"[0-9]{{1,{len(str(most))}}}", text) or not least <= int(text) <= most:
        raise InvalidValue(f"{text!r} is not {what}", hint=hint)
    return int(text)


def parse_cpus(text: str) -> float:
    """Read a number of processors, ``0.5`` or ``2``. Raises InvalidValue."""
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0.01 <= cpus <= 8192:
        raise InvalidValue(f"{text!r} is not a number of processors", hint="write 0.5, 1 or 2")
    # CPUQuota= takes whole percents and drops anything finer without a word in systemd 252.
    return round(cpus, 2)


def parse_publish(text: str) -> Publish:
    """Read ``[IP:]HOST[-HOST]:GUEST[-GUEST][/tcp|/udp]``, docker's notation. Raises InvalidValue."""
    form = "write [IP:]HOST:GUEST, as in 8080:80, 127.0.0.1:8080:80, 53:53/udp or 8000-8010:8000-8010"
    words, slash, protocol = text.partition("/")
    if slash and protocol not in _PROTOCOLS:
        raise InvalidValue(f"published port {text!r}: {protocol!r} is not a protocol", hint="write /tcp or /udp")
    before, _, single = words.rpartition(":")
    if not before or before.endswith("]") or "." in before.partition(":")[0] == before:
        words = f"{words}:{single}"
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]*)\]:|(?P<v4>[^:]*):)?(?P<host>[^:]*):(?P<guest>[^:]*)", words)
    if not match:
        raise InvalidValue(f"{text!r} is not a published port", hint=form)
    address = match["v6"] if match["v6"] is not None else match["v4"]
    what = f"published port {text!r}"
    host, last = _ports(match["host"], what)
    guest, guest_last = _ports(match["guest"], what)
    if last - host != guest_last - guest:
        raise InvalidValue(
            f"{what}: {last - host + 1} ports of the host are not {guest_last - guest + 1} of the machine",
            hint=f"write as many on both sides: {match['host']}:{guest}-{min(guest + last - host, 65535)}",
        )
    return Publish(host, guest, _address(address, text), protocol or "tcp", last - host + 1)


def parse_egress(text: str) -> Egress:
    """Read ``PORT[-PORT][/tcp|/udp]``, ports that a machine may reach. Raises InvalidValue."""
    words, slash, protocol = text.partition("/")
    if slash and protocol not in _PROTOCOLS:
        raise InvalidValue(f"egress {text!r}: {protocol!r} is not a protocol", hint="write 443, 53/udp or 8000-8010")
    first, last = _ports(words, f"egress {text!r}")
    return Egress(first, last, protocol or "tcp")


def parse_flag(text: str) -> bool:
    """Read ``yes`` or ``no``. Raises InvalidValue."""
    if text not in {"yes", "no", "true", "false"}:
        raise InvalidValue(f"{text!r} is neither yes nor no", hint="write yes or no")
    return text in {"yes", "true"}


def _ports(word: str, what: str) -> tuple[int, int]:
    """Read a port or a range of them."""
    first, dash, last = word.partition("-")
    ports = _port(first, what), _port(last if dash else first, what)
    if ports[0] > ports[1]:
        raise InvalidValue(f"{what}: the range {word} goes backwards", hint=f"write {ports[1]}-{ports[0]}")
    return ports


def _port(word: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", word) or not 1 <= int(word) <= 65535:
        raise InvalidValue(f"{what}: {word!r} is not a port", hint="ports go from 1 to 65535")
    return int(word)


def _address(word: str | None, text: str) -> str | None:
    if word is None:
        return None
    import ipaddress

    try:
        # A scope id ("%eth0") would let anything follow it.
        address = ipaddress.ip_address(word.replace("%", "/"))
    except ValueError:
        raise InvalidValue(
            f"published port {text!r}: {word!r} is not an address of the host",
            hint="write an IP address, as in 127.0.0.1:8080:80 or [::1]:8080:80",
        ) from None
    return None if address.is_unspecified else str(address)


def parse_bind(text: str) -> Bind:
    """Read ``SRC:DST[:ro][,idmap|noidmap|rootidmap]``; both paths are absolute. Raises InvalidValue."""
    words = text.split(":")
    form = "write SRC:DST or SRC:DST:ro, both absolute, as in /srv/www:/var/www:ro; an option may follow: ro,noidmap"
    options = [word for words in words[2:] for word in words.split(",")]
    mode = [word for word in options if word in {"ro", "rw"}]
    mapping = [word for word in options if word in _MAPPINGS]
    if len(words) < 2 or len(words) > 4 or len(mode) > 1 or len(mapping) > 1 or len(options) > len(mode + mapping):
        raise InvalidValue(f"{text!r} is not a bind", hint=form)
    source, destination = words[:2]
    for path in (source, destination):
        # systemd.nspawn(5) settings are lines, trimmed at both ends; a path that is not one line cannot stand in them.
        if not path.startswith("/") or path != path.strip() or not path.isprintable():
            raise InvalidValue(f"bind {text!r}: {path!r} is not an absolute path", hint=form)
        if ".." in path.split("/"):
            raise InvalidValue(f"bind {text!r}: {path!r} has '..' in it", hint=form)
    # normpath() keeps two slashes in front, which POSIX lets mean something; to Linux they do not.
    source, destination = (posixpath.normpath("/" + path.lstrip("/")) for path in (source, destination))
    if destination == "/":
        raise InvalidValue(f"bind {text!r} would cover the machine's whole tree", hint=form)
    return Bind(source, destination, mode == ["ro"], mapping[0] if mapping else "")


def parse_package(text: str) -> str:
    """Read a package name as apt takes it (deb-control(5)). Raises InvalidValue."""
    if not re.fullmatch(_PACKAGE, text):
        raise InvalidValue(f"{text!r} is not a package name", hint="use the distribution's names, as in nginx-light")
    return text


def parse_variant(text: str) -> str:
    """Read the name of a bootstrap variant. Raises InvalidValue."""
    known = ("minbase", "buildd", "important", "standard")
    if text not in known:
        raise InvalidValue(f"{text!r} is not a variant", hint=f"use one of {', '.join(known)}")
    return text


def parse_mirror(text: str) -> str:
    """Read the URL of a mirror. Raises InvalidValue."""
    if not re.fullmatch(r"(?:https?|file)://[^\s\]\[<>\"'\\]+", text):
        raise InvalidValue(f"{text!r} is not the URL of a mirror", hint="it starts with http://, https:// or file://")
    return text


def parse_hostname(text: str) -> str:
    """Read a host name (hostname(7)). Raises InvalidValue."""
    if not is_machine_name(text):
        raise InvalidValue(f"{text!r} is not a host name", hint="use letters, digits, '-' and '.'")
    return text


def parse_ssh_key(text: str) -> str:
    """Read one public key as it stands in a .pub file (sshd(8), AUTHORIZED_KEYS). Raises InvalidValue."""
    line = text.strip()
    form = r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+=*(?: .*)?"
    if not re.fullmatch(form, line) or not line.isprintable():
        raise InvalidValue(
            f"{line[:40]!r} is not a public ssh key" if line else "the ssh key is empty",
            hint="give the .pub file: --ssh-key ~/.ssh/id_ed25519.pub",
        )
    return line


def parse_bootstrapper(text: str) -> str:
    """Read the name of a bootstrapper. Raises InvalidValue."""
    known = ("auto", "debootstrap", "mmdebstrap", "pacstrap", "dnf")
    if text not in known:
        raise InvalidValue(f"{text!r} is not a bootstrapper", hint=f"use one of {', '.join(known)}")
    return text


def parse_storage(text: str) -> str:
    """Read the name of a storage driver. Raises InvalidValue."""
    known = ("auto", "btrfs", "overlay", "reflink", "copy")
    if text not in known:
        raise InvalidValue(f"{text!r} is not a storage driver", hint=f"use one of {', '.join(known)}")
    return text


def parse_disk(text: str) -> int:
    """Read an amount of disk such as ``10G`` in bytes (powers of 1024). Raises InvalidValue."""
    size = parse_size(text, "disk")
    if size < DISK_MIN:
        raise InvalidValue(f"disk {text!r} is {size} bytes; a tree needs at least 256M", hint="write the unit too: 10G")
    return size


def parse_days(text: str) -> float:
    """Read a number of days. Raises InvalidValue."""
    try:
        days = float(text.removesuffix("d"))
    except ValueError:
        days = math.nan
    if not 0 < days < 100_000:
        raise InvalidValue(f"{text!r} is not a number of days", hint="write 30, or 0.5")
    return days


def parse_duration(text: str) -> int:
    """Read a time such as ``90s``, ``10m`` or ``1h`` in whole seconds. Raises InvalidValue."""
    match = re.fullmatch(r"([0-9]{1,7})(s|m|min|h|d)?", text.strip())
    seconds = int(match[1]) * _SECONDS[match[2] or ""] if match else 0
    if not 1 <= seconds <= 10 * 365 * 86400:
        raise InvalidValue(f"{text!r} is not a time", hint="write a number and a unit: 90s, 10m, 1h")
    return seconds


def parse_checksum(text: str) -> str:
    """Read ``sha256:HEX``, ``sha512:HEX`` or the bare digits. Raises InvalidValue."""
    kind, _, digits = text.strip().lower().rpartition(":")
    kind = kind or {64: "sha256", 128: "sha512"}.get(len(digits), "")
    if {"sha256": 64, "sha512": 128}.get(kind) != len(digits) or not re.fullmatch(r"[0-9a-f]+", digits):
        raise InvalidValue(f"{text!r} is not a checksum", hint="write sha256: and its 64 digits: sha256sum FILE")
    return f"{kind}:{digits}"


def parse_keyring(text: str) -> str:
    """Read the path of a keyring file. Raises InvalidValue."""
    if not text.startswith("/") or not text.isprintable():
        raise InvalidValue(f"keyring {text!r} is not an absolute path", hint="as in /usr/share/keyrings/mine.gpg")
    return text


def format_memory(size: int) -> str:
    """Give bytes back as the shortest text that parse_memory() reads as the same."""
    for unit in ("T", "G", "M", "K"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def format_duration(seconds: int) -> str:
    """Give seconds back as the shortest text that parse_duration() reads as the same."""
    for unit in ("d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def format_cpus(cpus: float) -> str:
    """Give a number of processors without a needless fraction."""
    return f"{cpus:.2f}".rstrip("0").rstrip(".")


def write_cpus(cpus: float) -> int | float:
    """Give a number of processors as a file has it."""
    text = format_cpus(cpus)
    return int(text) if text.isdigit() else float(text)
