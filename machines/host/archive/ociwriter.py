# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing a tree as an OCI image of one layer (image-spec), which podman, skopeo and docker take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from machines.errors import Conflict, InvalidValue, MachctlError
from machines.host.archive.architecture import architecture as host_architecture
from machines.host.archive.compress import Compression, create_archive
from machines.host.archive.entries import SECOND, Entry
from machines.host.archive.fetch import sha256_of
from machines.host.archive.image import OciConfig
from machines.host.archive.tarwriter import write_tar
from machines.host.interfaces import Progress
from machines.host.removal import remove_directory

if TYPE_CHECKING:
    from hashlib import _Hash

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def write_image(
    entries: Iterable[Entry],
    out: str,
    *,
    config: OciConfig,
    name: str,
    progress: Progress | None = None,
    compression: Compression = "gzip",
    architecture: str | None = None,
) -> str:
    """Write ``entries`` as an image called ``name`` and give the digest of its manifest.

    ``out`` becomes an OCI layout directory, or an archive of one where it ends in ``.tar``; it appears whole or not
    at all. The same entries and config give the same image. Raises Conflict where a directory ``out`` is there,
    MachctlError where it cannot be written.
    """
    if compression == "xz":
        raise InvalidValue("a layer cannot be compressed by xz", hint="use gzip or zstd")
    if not out.endswith(".tar") and os.path.lexists(out):
        raise Conflict(f"{out} is there already", hint="choose another name, or remove it")
    above, last = os.path.split(out.rstrip("/"))
    staged = os.path.join(above, f".{last}.{os.urandom(6).hex()}.part")
    try:
        os.mkdir(staged, 0o700)
        os.makedirs(f"{staged}/blobs/sha256")
        digest = _write_layout(
            entries, staged, config, name=name, progress=progress, compression=compression,
            architecture=architecture or host_architecture(),
        )  # fmt: skip
        if out.endswith(".tar"):
            _pack(staged, out)
        else:
            os.rename(staged, out)
    except OSError as error:
        raise MachctlError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if os.path.isdir(staged):
            fd = os.open(above or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_directory(fd, os.path.basename(staged))
            finally:
                os.close(fd)
    return digest


class _Hashed:
    """A stream for writing that knows the digest of what went through."""

    def __init__(self, stream: BinaryIO, digest: _Hash) -> None:
        self._stream, self._digest = stream, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._stream.write(data)


def _write_layout(
    entries: Iterable[Entry],
    layout: str,
    config: OciConfig,
    *,
    name: str,
    progress: Progress | None,
    compression: Compression,
    architecture: str,
) -> str:
    import hashlib

    blobs = f"{layout}/blobs/sha256"
    unpacked = hashlib.sha256()
    newest = 0

    def seen() -> Iterable[Entry]:
        nonlocal newest
        for entry in entries:
            newest = max(newest, entry.mtime)
            yield entry

    with create_archive(f"{blobs}/layer", compression=compression) as stream:
        write_tar(seen(), cast("BinaryIO", _Hashed(stream, unpacked)), progress=progress)
    digest = sha256_of(f"{blobs}/layer", progress=progress)
    layer = {
        "mediaType": _LAYER + (f"+{compression}" if compression != "none" else ""),
        "digest": f"sha256:{digest}",
        "size": os.stat(f"{blobs}/layer").st_size,
    }
    os.chmod(f"{blobs}/layer", 0o644)
    os.rename(f"{blobs}/layer", f"{blobs}/{digest}")
    # The same tree gives the same image, whenever it is written.
    created = _rfc3339(newest // SECOND)
    image = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": _inner(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{unpacked.hexdigest()}"]},
        "history": [{"created": created, "created_by": "machctl export"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _put(blobs, _CONFIG, image),
        "layers": [layer],
    }
    descriptor = _put(blobs, _MANIFEST, manifest)
    digest = str(descriptor["digest"])
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
    descriptor["platform"] = {"architecture": architecture, "os": "linux"}
    _write(f"{layout}/index.json", _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]}))
    _write(f"{layout}/oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    os.chmod(layout, 0o755)
    return digest


def _inner(config: OciConfig) -> dict[str, object]:
    fields = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
    }
    return {key: value for key, value in fields.items() if value}


def _put(blobs: str, kind: str, value: object) -> dict[str, Any]:
    import hashlib

    data = _json(value)
    digest = hashlib.sha256(data).hexdigest()
    _write(f"{blobs}/{digest}", data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _json(value: object) -> bytes:
    import json

    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _pack(layout: str, out: str) -> None:
    """Write a layout as an archive; its files are root's, and have no times of their own."""
    from machines.host.archive.tree import read_tree

    fd = os.open(layout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with create_archive(out, compression="none") as stream:
            write_tar((entry._replace(uid=0, gid=0, mtime=0) for entry in read_tree(fd)), stream)
    finally:
        os.close(fd)


def _rfc3339(seconds: float) -> str:
    from datetime import UTC, datetime

    # What a file system can hold and datetime cannot is nobody's real time.
    return datetime.fromtimestamp(min(max(int(seconds), 0), 253_402_300_799), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
