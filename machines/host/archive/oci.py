# SPDX-License-Identifier: LGPL-2.1-or-later
"""OCI images: read from a layout or an archive, unpacked, written, and pulled from a registry by skopeo.

The formats are those of the OCI image-spec (image-layout.md, manifest.md, layer.md) and of docker save.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machines.errors import CommandFailed, InvalidValue, MachctlError, NotFound, NotPermitted, Unsupported
from machines.host.archive.architecture import architecture as host_architecture
from machines.host.archive.compress import open_archive
from machines.host.archive.entries import CHUNK, Counts, shown
from machines.host.archive.fetch import check_sum, chunks_of, digest_of_chunks
from machines.host.archive.image import Blobs, Image, Layer, OciConfig, open_blobs
from machines.host.archive.layers import LayerWriter
from machines.host.archive.ociwriter import write_image
from machines.host.archive.tar import read_tar
from machines.host.interfaces import Progress

__all__ = ["Image", "Layer", "OciConfig", "pull", "read_image", "unpack_image", "write_image"]

_INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_LAYERS = re.compile(
    r"application/vnd\.oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_JSON_MAX = 8 * CHUNK
_DEPTH_MAX = 8
_TRANSPORTS = (
    "docker://", "docker-archive:", "docker-daemon:", "oci:", "oci-archive:", "dir:", "containers-storage:",
)  # fmt: skip
_LASTING = "~/.config/containers/auth.json"
# Where skopeo looks for logins (containers-auth.json(5)): `skopeo login` in a session of root's writes to
# $XDG_RUNTIME_DIR. The last two are where Go looks for certificates (crypto/x509).
_CALLERS = (
    "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_Json = dict[str, Any]


def read_image(path: str, *, architecture: str | None = None, tag: str | None = None) -> Image:
    """Give the image in an OCI layout directory, in an archive of one or in one of docker save, for an architecture.

    ``architecture`` is OCI's name, the host's if left out; ``tag`` chooses among several. Manifests and configs are
    verified here, layers when they are unpacked. Raises NotFound, Unsupported where there is none for the
    architecture or where a layer is of an unknown type, MachctlError for what is no image or has a wrong digest.
    """
    wanted = architecture or host_architecture()
    blobs = open_blobs(path)
    if blobs.has("index.json"):
        return _from_layout(blobs, wanted, tag)
    if blobs.has("manifest.json"):
        return _from_docker(blobs, wanted, tag)
    raise MachctlError(
        f"{path} is no OCI image: it has neither index.json nor manifest.json",
        hint="give a layout directory, or what podman save or docker save wrote",
    )


def unpack_image(
    image: Image,
    fd: int,
    *,
    progress: Progress | None = None,
    shift: int = 0,
    devices: bool = False,
    verify: bool = True,
) -> Counts:
    """Apply the layers of ``image``, each verified first, to the empty directory that is open at ``fd``.

    Raises MachctlError naming the layer for a wrong digest, and what write_tree() and read_tar() raise.
    """
    with LayerWriter(fd, name=image.name, shift=shift, devices=devices, progress=progress) as writer:
        for number, layer in enumerate(image.layers, 1):
            called = f"layer {number} of {image.name} ({layer.digest[:19]})"
            if verify:
                _verify(image.blobs, layer, called, progress)
            with image.blobs.open(layer.path) as file, open_archive(file, name=called) as stream:
                writer.name = called
                writer.stage = f"unpacking layer {number} of {len(image.layers)}"
                # The digest says that nothing is missing, and not every writer ends its layers as tar does.
                writer.apply(read_tar(stream, name=called, trailer=False, layer=True))
        return writer.finish()


async def pull(reference: str, directory: Path, *, log: str, progress: Progress) -> None:
    """Copy an image from a registry, or by any other transport of skopeo's, into the OCI layout ``directory``.

    ``reference`` is as podman has it (debian, registry.example/x/y:tag, x@sha256:...) or with a transport before it.
    Raises Unsupported without skopeo, InvalidValue, NotFound, NotPermitted, CommandFailed with the log in the hint.
    """
    from machines.host.streaming import stream

    if not reference or reference.startswith("-") or any(not c.isprintable() or c.isspace() for c in reference):
        raise InvalidValue(f"{reference!r} is no image", hint="write one as registry.example/debian:trixie")
    source = reference if reference.startswith(_TRANSPORTS) else f"docker://{reference}"
    lines: list[str] = []
    copied = 0

    def on_line(line: str) -> None:
        nonlocal copied
        lines.append(line)
        if line.startswith(("Copying blob", "Copying config")):
            copied += 1
        progress("pulling", copied, None)

    progress("pulling", 0, None)
    argv = ["skopeo", "copy", f"--override-arch={host_architecture()}", source, f"oci:{directory}:latest"]
    callers = {name: os.environ[name] for name in _CALLERS if name in os.environ}
    status = await stream(argv, on_line=on_line, log=log, contained=False, env=callers)
    if status:
        raise _pull_failed(reference, "\n".join(lines), log)


def _pull_failed(reference: str, said: str, log: str) -> MachctlError:
    low = said.lower()
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "skopeo failed")
    if words := re.search(r'msg="((?:[^"\\]|\\.)*)"', last):
        last = words[1].replace('\\"', '"')
    last = last[-300:]
    registry = _registry(reference)
    message = f"image {reference} cannot be pulled"
    hint = f"see {log}"
    if registry and ("unauthorized" in low or "authentication required" in low or "denied" in low):
        login = f"skopeo login {registry} (kept until a reboot; longer with --authfile {_LASTING})"
        return NotPermitted(
            f"{message}: the registry wants a login or another one, or has no such image", hint=f"{login}; {hint}"
        )
    if "manifest unknown" in low or "name unknown" in low or "not found" in low:
        return NotFound(f"{message}: the registry has no such image or tag", hint=f"see how it is spelt; {hint}")
    if "no image found in manifest list" in low or "no image found in image index" in low:
        return Unsupported(f"{message}: there is none for {host_architecture()}", hint=hint)
    if "x509" in low:
        hint = f"put its authority's certificate into /etc/containers/certs.d/{registry}/ca.crt; {hint}"
        return CommandFailed(f"{message}: TLS failed: the registry's certificate is not one to trust", hint=hint)
    if "http response to https" in low:
        hint = f"to trust the network to it, name it in /etc/containers/registries.conf.d with insecure = true; {hint}"
        return CommandFailed(f"{message}: the registry speaks no TLS", hint=hint)
    for part, what in (
        ("no such host", "the name of the registry cannot be resolved"),
        ("server misbehaving", "the name of the registry cannot be resolved"),
        ("temporary failure in name resolution", "the name of the registry cannot be resolved"),
        ("connection refused", "the registry refused the connection"),
        ("timeout", "the registry does not answer"),
        ("no such file or directory", "there is no such file"),
        ("invalid reference format", "that is no reference"),
    ):
        if part in low:
            return CommandFailed(f"{message}: {what}", hint=hint)
    return CommandFailed(f"{message}: {last}", hint=hint)


def _registry(reference: str) -> str:
    """Give the registry of a reference, docker.io where it names none; "" for one by another transport."""
    if reference.startswith(_TRANSPORTS[1:]):
        return ""
    first, slash, _ = reference.removeprefix(_TRANSPORTS[0]).partition("/")
    return first if slash and (":" in first or "." in first or first == "localhost") else "docker.io"


def _from_layout(blobs: Blobs, wanted: str, tag: str | None) -> Image:
    index = _parsed(_read(blobs, "index.json", None), blobs, "index.json")
    entries = [entry for entry in _list(index, "manifests", blobs) if isinstance(entry, dict)]
    if tag is not None:
        chosen = [entry for entry in entries if tag in _names(entry)]
        if not chosen:
            raise NotFound(f"{blobs.name} has no image {tag!r}", hint=_those(entries))
        entries = chosen
    elif len({names for entry in entries if (names := _names(entry)[:1])}) > 1:
        raise InvalidValue(f"{blobs.name} has several images", hint=_those(entries))
    found: dict[str, _Json] = {}
    for entry in entries:
        _collect(blobs, entry, found, depth=0)
    if not found:
        raise MachctlError(f"{blobs.name} has no image in it")
    if wanted not in found:
        raise _other_architecture(blobs, wanted, found)
    return _image(blobs, wanted, found[wanted])


def _collect(blobs: Blobs, descriptor: _Json, found: dict[str, _Json], *, depth: int) -> None:
    """Put the descriptors of the manifests that ``descriptor`` leads to under their architecture; the first counts."""
    if descriptor.get("mediaType") in _INDEXES:
        if depth > _DEPTH_MAX:
            raise MachctlError(f"{blobs.name} has indexes in indexes without end")
        index = _parsed(_blob(blobs, descriptor), blobs, str(descriptor.get("digest")))
        for entry in _list(index, "manifests", blobs):
            if isinstance(entry, dict):
                _collect(blobs, entry, found, depth=depth + 1)
        return
    platform = descriptor.get("platform")
    name = platform.get("architecture") if isinstance(platform, dict) else None
    if name is None:
        manifest = _parsed(_blob(blobs, descriptor), blobs, str(descriptor.get("digest")))
        config = _parsed(_blob(blobs, manifest.get("config")), blobs, "its config")
        name = config.get("architecture")
    # "unknown" is what attestations are for.
    if name != "unknown":
        found.setdefault(str(name), descriptor)


def _image(blobs: Blobs, wanted: str, descriptor: _Json) -> Image:
    digest = str(descriptor.get("digest"))
    manifest = _parsed(_blob(blobs, descriptor), blobs, digest)
    config = _parsed(_blob(blobs, manifest.get("config")), blobs, "its config")
    layers = []
    for entry in _list(manifest, "layers", blobs):
        path, name, size = _place(blobs, entry)
        kind = str(entry.get("mediaType"))
        if not _LAYERS.fullmatch(kind):
            raise Unsupported(
                f"{blobs.name} has a layer of a type that is not known here: {shown(kind)}",
                hint="have it converted: skopeo copy --format oci",
            )
        layers.append(Layer(path, name, size))
    total = sum(layer.size or 0 for layer in layers)
    return Image(blobs.name, digest, wanted, _config(config), tuple(layers), total, blobs)


def _from_docker(blobs: Blobs, wanted: str, tag: str | None) -> Image:
    """Read what docker save wrote before it wrote OCI layouts: layers by the digest of what is in them."""
    import json

    try:
        entries = json.loads(_read(blobs, "manifest.json", None))
        chosen = [entry for entry in entries if tag is None or tag in _docker_names(entry)]
        known = ", ".join(sorted(name for entry in entries for name in entry.get("RepoTags") or ()))
        if not chosen:
            raise NotFound(f"{blobs.name} has no image {tag!r}", hint=f"it has {known or 'no tags'}")
        if len(chosen) > 1:
            raise InvalidValue(f"{blobs.name} has several images", hint=f"name one of {known}")
        data = _read(blobs, chosen[0]["Config"], None)
        config = json.loads(data)
        digests, paths = config["rootfs"]["diff_ids"], chosen[0]["Layers"]
        layers = tuple(Layer(path, digest, None, unpacked=True) for path, digest in zip(paths, digests, strict=True))
        if not all(isinstance(layer.path, str) and _DIGEST.fullmatch(layer.digest) for layer in layers):
            raise ValueError
        name = str(config.get("architecture"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MachctlError(f"manifest.json in {blobs.name} is not as docker save writes it") from error
    if name != wanted:
        raise _other_architecture(blobs, wanted, [name])
    digest = "sha256:" + digest_of_chunks(iter([data]), "sha256")
    return Image(blobs.name, digest, wanted, _config(config), layers, 0, blobs)


def _docker_names(entry: _Json) -> list[str]:
    names = [str(name) for name in entry.get("RepoTags") or ()]
    return names + [name.rpartition(":")[2] for name in names]


def _verify(blobs: Blobs, layer: Layer, called: str, progress: Progress | None) -> None:
    with blobs.open(layer.path) as file:
        algorithm = layer.digest.partition(":")[0]
        if layer.unpacked:
            with open_archive(file, name=called) as stream:
                have = digest_of_chunks(chunks_of(stream), algorithm, progress=progress)
        else:
            have = digest_of_chunks(chunks_of(file), algorithm, progress=progress, total=layer.size)
            if layer.size is not None and file.seekable() and file.tell() != layer.size:
                raise MachctlError(f"{called} has {file.tell()} bytes, not {layer.size}", hint="get the image again")
    check_sum(called, f"{algorithm}:{have}", layer.digest)


def _place(blobs: Blobs, descriptor: object) -> tuple[str, str, int]:
    """Give the path, the digest and the size of what a descriptor names."""
    if isinstance(descriptor, dict):
        digest, size = descriptor.get("digest"), descriptor.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(size, int) and size >= 0:
            algorithm, _, digits = digest.partition(":")
            return f"blobs/{algorithm}/{digits}", digest, size
    raise MachctlError(f"{blobs.name} has a descriptor that cannot be read: {shown(str(descriptor))}")


def _blob(blobs: Blobs, descriptor: object) -> bytes:
    """Give a small blob, verified."""
    path, digest, size = _place(blobs, descriptor)
    data = _read(blobs, path, size)
    have = digest_of_chunks(iter([data]), digest.partition(":")[0])
    check_sum(f"blob {path} of {blobs.name}", f"{digest.partition(':')[0]}:{have}", digest)
    return data


def _read(blobs: Blobs, path: str, size: int | None) -> bytes:
    with blobs.open(path) as file:
        data = file.read(_JSON_MAX + 1)
    if len(data) > _JSON_MAX:
        raise MachctlError(f"{shown(path)} of {blobs.name} is too large for what it should be")
    if size is not None and len(data) != size:
        raise MachctlError(f"blob {path} of {blobs.name} has {len(data)} bytes, not {size}", hint="get the image again")
    return data


def _parsed(data: bytes, blobs: Blobs, what: str) -> _Json:
    import json

    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MachctlError(f"{what} of {blobs.name} is no JSON") from error
    if not isinstance(value, dict):
        raise MachctlError(f"{what} of {blobs.name} is no JSON object")
    return value


def _list(value: _Json, key: str, blobs: Blobs) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list):
        raise MachctlError(f"{blobs.name} is no OCI image: it has no list of {key}")
    return found


def _names(descriptor: _Json) -> tuple[str, ...]:
    notes = descriptor.get("annotations")
    if not isinstance(notes, dict):
        return ()
    names = [str(notes[key]) for key in (_REF_NAME, _FULL_NAME) if key in notes]
    return (*names, *(name.rpartition(":")[2] for name in names))


def _those(entries: Sequence[_Json]) -> str:
    names = sorted({_names(entry)[0] for entry in entries if _names(entry)})
    return f"name one of {', '.join(names)}" if names else "its images have no names"


def _other_architecture(blobs: Blobs, wanted: str, found: Sequence[str] | Mapping[str, object]) -> Unsupported:
    return Unsupported(
        f"{blobs.name} has no image for {wanted}, only for {', '.join(sorted(found))}",
        hint="take one that was made for this host, or for several kinds",
    )


def _config(config: _Json) -> OciConfig:
    inner = config.get("config")
    inner = inner if isinstance(inner, dict) else {}

    def words(key: str) -> tuple[str, ...]:
        value = inner.get(key)
        return tuple(str(word) for word in value) if isinstance(value, (list, dict)) else ()

    def text(key: str) -> str:
        return str(inner.get(key) or "")

    labels = inner.get("Labels")
    return OciConfig(
        entrypoint=words("Entrypoint"), cmd=words("Cmd"), env=words("Env"), user=text("User"),
        working_dir=text("WorkingDir"), ports=tuple(sorted(words("ExposedPorts"))), stop_signal=text("StopSignal"),
        labels={str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
    )  # fmt: skip
