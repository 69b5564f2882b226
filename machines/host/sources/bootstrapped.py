# SPDX-License-Identifier: LGPL-2.1-or-later
"""Distributions: their own tool makes the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machines.host.bootstrap.packages import base_packages, ssh_package
from machines.model.base import Payload
from machines.model.request import BootstrapRequest, SourceRequest

if TYPE_CHECKING:
    from machines.host.interfaces import Progress


class Maker:
    """debootstrap, mmdebstrap, pacstrap or dnf."""

    def identity(self, request: SourceRequest) -> dict[str, object]:
        """Give what shapes the tree beside the declaration: what machctl itself adds to it."""
        return {"packages": sorted(self._packages(request))}

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Bootstrap into ``request.target``. Raises what the bootstrapper does."""
        from pathlib import Path

        from machines.host.bootstrap.registry import choose

        bootstrapper = choose(request.bootstrapper, request.source.kind)
        await bootstrapper.bootstrap(
            BootstrapRequest(
                distribution=request.source.kind,
                suite=request.source.reference,
                packages=self._packages(request),
                target=Path(request.target),
                log=Path(request.log),
                variant=request.variant,
                mirror=request.mirror,
                keyring=Path(request.keyring) if request.keyring else None,
                insecure=request.insecure,
            ),
            progress,
        )
        return None

    def _packages(self, request: SourceRequest) -> tuple[str, ...]:
        kind, suite = request.source.kind, request.source.reference
        ssh = (ssh_package(kind),) if request.ssh else ()
        return tuple(dict.fromkeys([*base_packages(kind, suite), *ssh, *request.packages]))
