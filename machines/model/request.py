# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makers of trees are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.model.frozen import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from machines.model.source import Source

# By what uname(2) calls the processor.
_OCI = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i586": "386",
    "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64", "mips64": "mips64le",
}  # fmt: skip
_DEBIAN = {"arm": "armhf", "386": "i386", "ppc64le": "ppc64el", "mips64le": "mips64el"}


@dataclass(frozen=True)
class BootstrapRequest:
    """One run of a bootstrapper: ``target`` is an empty directory of mode 0755, ``log`` gets all the tool prints.

    ``keyring`` takes the place of the distribution's. With ``insecure`` the tools that can (pacstrap, dnf) ask for no
    signatures; Debian's always do.
    """

    distribution: str
    suite: str
    packages: tuple[str, ...]
    target: Path
    log: Path
    variant: str = "minbase"
    mirror: str | None = None
    keyring: Path | None = None
    insecure: bool = False


@dataclass(frozen=True)
class SourceRequest:
    """One tree wanted of a source.

    ``target`` is an empty directory of mode 0755; ``scratch`` one beside it for what is needed meanwhile, in which a
    disk image is left as disk.raw; ``log`` gets all that tools print. ``ssh`` wants a server for it installed.
    """

    source: Source
    target: str
    scratch: str
    log: str
    architecture: str
    packages: tuple[str, ...] = ()
    ssh: bool = False
    variant: str = "minbase"
    bootstrapper: str = "auto"
    mirror: str | None = None
    keyring: str | None = None
    checksum: str | None = None
    insecure: bool = False


def oci_architecture(machine: str) -> str:
    """Give the architecture that uname(2) calls ``machine`` as OCI has it (Go's GOARCH): amd64, arm64, ..."""
    return _OCI.get(machine, machine)


def debian_architecture(machine: str) -> str:
    """Give the architecture that uname(2) calls ``machine`` as dpkg-architecture(1) has it: amd64, arm64, armhf, ..."""
    name = oci_architecture(machine)
    return _DEBIAN.get(name, name)
