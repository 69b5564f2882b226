# SPDX-License-Identifier: LGPL-2.1-or-later
"""What both Debian bootstrappers need: checked requests, the keyring that counts, a clean tree at the end."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machines.errors import InvalidValue, Unsupported
from machines.host.bootstrap import checks
from machines.host.bootstrap.follow import TAIL
from machines.host.bootstrap.scratch import clean, scratch
from machines.host.interfaces import BootstrapRequest

KEYRINGS = Path("/usr/share/keyrings")
KEYRING_PACKAGES = {"ubuntu": "ubuntu-keyring (Debian has it from 13 on)"}
"""Where a distribution's keyring is not in the package of the file's name."""

COMPONENTS = {"ubuntu": "main,universe"}
"""Where a distribution's ordinary packages are not all in main."""

SCRIPTS = Path("/usr/share/debootstrap/scripts")
UBUNTU_SUITES = Path("/usr/share/distro-info/ubuntu.csv")

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:=~_/-]*")
_MIRROR = re.compile(r"(?:https?|ftp|file|copy):/[^\s\"\[\]|]+")

# Written by the tools, or by packages while they were installed, and meant for nobody who boots the tree.
_LEFTOVERS = (
    "dev/*", "run/*", "tmp/*", "debootstrap",
    "etc/hostname", "etc/resolv.conf", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/cache/apt/archives/partial/*",
    "var/cache/ldconfig/aux-cache", "var/lib/apt/lists/*", "var/lib/apt/lists/partial/*",
    "var/log/alternatives.log", "var/log/apt/*", "var/log/bootstrap.log", "var/log/dpkg.log",
)  # fmt: skip
# /var/lock leads to run/lock (Debian Policy 9.1.4); apt gives the others owners of their own.
_KEPT = frozenset({"run/lock", "var/lib/apt/lists/lock", "var/lib/apt/lists/partial"})


def check(request: BootstrapRequest) -> None:
    """Raise what checks.check does, and InvalidValue where apt or debootstrap would have no suite."""
    if not request.suite:
        raise InvalidValue(f"{request.distribution} needs the name of a suite")
    checks.check(request, package=_PACKAGE, mirror=_MIRROR)


def check_mirror(request: BootstrapRequest, *, known: bool) -> None:
    """Raise InvalidValue for a suite of Ubuntu that is not ``known`` to the tool, which would ask Debian for it."""
    if request.distribution == "ubuntu" and request.mirror is None and not known:
        raise InvalidValue(
            f"no mirror of Ubuntu's {request.suite} is known on this host",
            hint="name one with --mirror URL, or apt install distro-info-data and mmdebstrap; check the spelling, too",
        )


def archive_keyring(request: BootstrapRequest, *, directory: Path = KEYRINGS) -> Path:
    """Give the file with the keys that may sign: the request's own, or its distribution's keyring package.

    Raises Unsupported where neither is there: nothing is ever installed unverified.
    """
    if request.keyring is not None:
        return request.keyring
    name = f"{request.distribution}-archive-keyring"
    for suffix in (".gpg", ".pgp"):
        if (directory / f"{name}{suffix}").is_file():
            return directory / f"{name}{suffix}"
    raise Unsupported(
        f"the keyring to check the signatures of {request.distribution} with is not installed",
        hint=f"apt install {KEYRING_PACKAGES.get(request.distribution, name)}, or name a keyring file",
    )


def binary_keyring(data: bytes) -> bytes:
    """Give a keyring as gpgv(1) reads it: armor (RFC 9580, 6.2) is decoded, anything else left alone."""
    if not data.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        return data
    armor = rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\s*\r?\n(.*?)-----END PGP"
    blocks = re.findall(armor, data, re.DOTALL)
    return b"".join(base64.b64decode(re.sub(rb"(?m)^=[A-Za-z0-9+/]{4}\s*$", b"", block)) for block in blocks)


@contextmanager
def readable_keyring(keyring: Path) -> Iterator[Path]:
    """Give a copy of ``keyring`` alone in a directory that apt's own user may read; gone afterwards.

    The directory, not the file, is what restricts apt: it trusts all keys in Dir::Etc::TrustedParts.
    """
    with scratch("keyring") as directory:
        copy = directory / "archive.gpg"
        copy.write_bytes(binary_keyring(keyring.read_bytes()))
        copy.chmod(0o644)
        yield copy


def own_sources(text: str, *, keyring: str | None) -> str:
    """Give sources.list(5) as the machine needs it: ``file:`` for our ``copy:``, ``keyring`` as signed-by."""
    lines = []
    for line in text.splitlines():
        if found := re.match(r"deb (?:\[[^\]]*\] )?(\S+)( .*)$", line):
            uri = re.sub(r"^copy:", "file:", found[1])
            line = f"deb {f'[signed-by={keyring}] ' if keyring else ''}{uri}{found[2]}"
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def finish(request: BootstrapRequest) -> None:
    """Make the new tree ready to be kept: no leftovers, and an apt that trusts what it was made from."""
    target = request.target
    # systemd-resolved's package makes a link of its own; a plain file is the host's.
    resolver = {"etc/resolv.conf"} if (target / "etc/resolv.conf").is_symlink() else frozenset()
    clean(target, _LEFTOVERS, kept=_KEPT | resolver)
    keyring = None
    if request.keyring is not None and not _inside(target, request.keyring).exists():
        keyring = f"/etc/apt/keyrings/{request.keyring.stem}.gpg"
        copy = _inside(target, Path(keyring))
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        copy.write_bytes(binary_keyring(request.keyring.read_bytes()))
        copy.chmod(0o644)
    sources = target / "etc/apt/sources.list"
    if sources.is_file() and not sources.is_symlink() and request.mirror is not None:
        text = sources.read_text()
        if (own := own_sources(text, keyring=keyring)) != text:
            sources.write_text(own)


def read_tail(path: Path) -> list[str]:
    """Give the last lines of a log, none where it does not exist."""
    try:
        return path.read_text(errors="replace").splitlines()[-TAIL:]
    except FileNotFoundError:
        return []


def _inside(target: Path, path: Path) -> Path:
    return target / path.relative_to(path.anchor)
