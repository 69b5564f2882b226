# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makers of trees are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.model.frozen import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from machines.model.source import Source


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
