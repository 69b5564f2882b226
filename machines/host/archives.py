# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole machines in archives: a tar of the tree, or an OCI image, and the machine's declaration with it.

In a tar the declaration is an extended attribute of the root directory, and what runs in place of an init is another;
in an image a label, and its configuration. Who unpacks either with other tools gets the tree and nothing else.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from machines.errors import InvalidValue, NotFound
from machines.host.interfaces import Progress
from machines.host.threads import in_thread
from machines.model.base import Payload
from machines.model.ids import first_of_range

if TYPE_CHECKING:
    from machines.host.archive.compress import Compression

LABEL = "machctl.machine"

_COMPRESSIONS: dict[str, Compression] = {
    ".zst": "zstd",
    ".tzst": "zstd",
    ".gz": "gzip",
    ".tgz": "gzip",
    ".xz": "xz",
    ".txz": "xz",
    ".tar": "none",
}


async def pack(
    root: str,
    path: str,
    *,
    form: str,
    name: str,
    declaration: str,
    payload: Payload | None,
    progress: Progress,
) -> None:
    """Write the tree ``root`` to ``path``, "-" for stdout; it appears whole or not at all. Raises MachctlError.

    How a tar is compressed its name says; zstd where it does not.
    """
    if form == "oci" and path == "-":
        raise InvalidValue(
            "an OCI image cannot be written to stdout", hint="give a directory, or a file that ends in .tar"
        )

    def work(report: Progress) -> None:
        from machines.host.archive.tree import read_tree

        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = read_tree(fd, shift=first_of_range(os.fstat(fd).st_uid))
            if form == "oci":
                _write_image(entries, path, name, declaration, payload, report)
                return
            from machines.host.archive.compress import create_archive
            from machines.host.archive.marks import marked
            from machines.host.archive.tarwriter import write_tar

            said = marked(entries, declaration=declaration, payload=payload)
            with create_archive(1 if path == "-" else path, compression=_compression(path)) as stream:
                write_tar(said, stream, progress=report)
        finally:
            os.close(fd)

    await in_thread(work, progress)


def kind(path: str) -> str:
    """Tell what a file or directory is that a tree can be made of: tar, raw or oci. Raises NotFound, MachctlError."""
    if os.path.isdir(path):
        return "oci"
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    # The marks of gzip, xz, zstd, bzip2 and of ustar; what has none of them is an image, or nothing at all.
    packed = head.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh")) or head[257:262] == b"ustar"
    if not packed:
        return "raw"
    return "oci" if is_oci(path) else "tar"


def is_oci(path: str) -> bool:
    """Tell whether an archive is one of an OCI layout, or as docker save writes it. Raises MachctlError."""
    from machines.host.archive.compress import open_archive
    from machines.host.archive.tar import read_tar

    with open_archive(path) as stream:
        names = [entry.path for entry in itertools.islice(read_tar(stream, name=path), 3)]
    return any(name in {"oci-layout", "index.json", "manifest.json", "blobs", "repositories"} for name in names)


def declaration(path: str, *, form: str) -> str:
    """Give the declaration that an archive holds, "" if it holds none. Raises MachctlError."""
    if form == "oci":
        from machines.host.archive.oci import read_image

        return read_image(path).config.labels.get(LABEL, "")
    from machines.host.archive.compress import open_archive
    from machines.host.archive.marks import declaration_of, unmarked
    from machines.host.archive.tar import read_tar

    with open_archive(path) as stream:
        said, _ = unmarked(read_tar(stream, name=path))
    return declaration_of(said)


def _write_image(
    entries: object, path: str, name: str, declaration: str, payload: Payload | None, progress: Progress
) -> None:
    from machines.host.archive.oci import OciConfig
    from machines.host.archive.ociwriter import write_image

    config = OciConfig(
        entrypoint=payload.command if payload else ("/sbin/init",),
        cmd=(),
        env=payload.environment if payload else ("container=oci",),
        user=payload.user if payload else "",
        working_dir=payload.directory if payload else "",
        ports=payload.ports if payload else (),
        # What an init takes for "power off" (systemd(1), SIGNALS).
        stop_signal=payload.stop_signal if payload else "SIGRTMIN+3",
        labels={LABEL: declaration},
    )
    write_image(entries, path, config=config, name=name, progress=progress)  # type: ignore[arg-type]


def _compression(path: str) -> Compression:
    return next((kind for suffix, kind in _COMPRESSIONS.items() if path.endswith(suffix)), "zstd")
