# SPDX-License-Identifier: LGPL-2.1-or-later
"""oci: an image as containers have them, of an OCI layout, an archive of one, or a registry."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from machines.errors import NotFound, Unsupported
from machines.host import guest
from machines.host.interfaces import Progress, SourceRequest
from machines.host.sources.tar import file_identity
from machines.host.threads import in_thread
from machines.model.base import Payload

_SCRIPT = "/.machctl-command"
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
            user=_user(config.user, request.target),
            directory=config.working_dir,
            ports=tuple(config.ports),
            stop_signal=config.stop_signal,
        )
        return _in_lines(payload, request.target)


def _user(user: str, root: str) -> str:
    """Give the name of the user that an image runs as: USER, UID, either with a group behind it (OCI image-spec).

    systemd-nspawn asks getent(1) of the image for a name, and takes its group from there. A number that nobody has
    there gets a name. Raises Unsupported for an image without getent.
    """
    who, _, group = user.partition(":")
    if who in {"", "0", "root"}:
        return ""
    if not any(guest.exists(root, f"{directory}/getent") for directory in ("usr/bin", "bin", "usr/sbin", "sbin")):
        raise Unsupported(
            f"the image runs as {user} and has no getent, which systemd-nspawn asks for users",
            hint="put getent into the image (Debian: libc-bin, Alpine: musl-utils), or let it run as root",
        )
    passwd = guest.read_file(root, "/etc/passwd") or ""
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    for fields in users:
        if who in {fields[0], fields[2]}:
            return fields[0]
    if not who.isdigit():
        raise NotFound(f"the image runs as {who}, whom its /etc/passwd does not name", hint="correct the image")
    name = f"uid{who}"
    line = f"{name}:x:{who}:{group if group.isdigit() else who}::/:/sbin/nologin\n"
    guest.write_file(root, "/etc/passwd", passwd + ("" if passwd.endswith("\n") or not passwd else "\n") + line)
    return name


def _in_lines(payload: Payload, root: str) -> Payload:
    """Give a payload that lines of a settings file can hold (systemd.nspawn(5)): else it is put into a script.

    Raises Unsupported for an image without a shell.
    """
    odd = [variable for variable in payload.environment if not variable.isprintable()]
    if not odd and all(word.isprintable() for word in payload.command):
        return payload
    if not guest.exists(root, "/bin/sh"):
        raise Unsupported("the image's command has a line break in it, and it has no shell", hint="make it one line")
    lines = [f"export {name}={shlex.quote(value)}" for name, _, value in (each.partition("=") for each in odd)]
    guest.write_file(root, _SCRIPT, "\n".join([*lines, f"exec {shlex.join(payload.command)}", ""]), mode=0o755)
    plain = tuple(variable for variable in payload.environment if variable not in odd)
    return payload._replace(command=("/bin/sh", _SCRIPT), environment=plain)
