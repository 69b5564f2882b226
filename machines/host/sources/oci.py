# SPDX-License-Identifier: LGPL-2.1-or-later
"""oci: an image as containers have them, of an OCI layout, an archive of one, or a registry."""

from __future__ import annotations

import os
from pathlib import Path

from machines.errors import NotFound
from machines.host import guest
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.payload import fitting
from machines.host.sources.tar import file_identity
from machines.host.threads import in_thread
from machines.model.base import Payload

_INITS = ("sbin/init", "usr/sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd")


class Maker:
    """Unpacks the layers; an image without an init runs what its configuration says."""

    def identity(self, request: SourceRequest) -> dict[str, object]:
        """Give what says whether the image is still the one it was. Raises NotFound."""
        path = request.source.path
        if path is None:
            # As podman has it: what was pulled is kept until somebody asks for it anew.
            return {}
        index = f"{path}/index.json"
        if not os.path.isdir(path):
            return file_identity(request)
        try:
            with open(index, encoding="utf-8") as file:
                return {"index": file.read(1 << 20)}
        except OSError as error:
            raise NotFound(f"{path} is no OCI layout: it has no index.json", hint=f"ls {path}") from error

    async def make(self, request: SourceRequest, progress: Progress) -> Payload | None:
        """Unpack into ``request.target`` and give what the image runs, if it has no init of its own."""
        from machines.host.archive import oci

        path = request.source.path
        if path is None:
            path = f"{request.scratch}/pulled"
            await oci.pull(request.source.reference, Path(path), log=request.log, progress=progress)

        def work(report: Progress) -> oci.OciConfig:
            image = oci.read_image(path, architecture=request.architecture)
            fd = os.open(request.target, os.O_RDONLY | os.O_DIRECTORY)
            try:
                oci.unpack_image(image, fd, progress=report)
            finally:
                os.close(fd)
            return image.config

        config = await in_thread(work, progress)
        if any(guest.exists(request.target, name) for name in _INITS):
            return None
        payload = Payload(
            command=(*config.entrypoint, *config.cmd) or ("/bin/sh",),
            environment=tuple(config.env),
            user=config.user,
            directory=config.working_dir,
            ports=tuple(config.ports),
            stop_signal=config.stop_signal,
        )
        return fitting(payload, request.target)
