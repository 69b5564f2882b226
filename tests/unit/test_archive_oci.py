# SPDX-License-Identifier: LGPL-2.1-or-later
"""OCI images: layers and their whiteouts, what is refused, and what we write is what we read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from machines.errors import Conflict, InvalidValue, MachctlError, NotFound, Unsupported
from machines.host.archive.entries import Entry
from machines.host.archive.oci import OciConfig, read_image, unpack_image, write_image

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layer(*members: str) -> bytes:
    """Make a layer of paths: ``dir/``, ``link>target`` or ``file=text``."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            name, _, text = member.partition("=")
            link, arrow, target = name.partition(">")
            info = tarfile.TarInfo(link)
            if arrow:
                info.type, info.linkname = tarfile.SYMTYPE, target
            elif name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(file.getvalue(), mtime=0)


def put(layout: Path, data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def put_json(layout: Path, value: object, kind: str = MANIFEST) -> dict[str, Any]:
    return put(layout, json.dumps(value).encode(), kind)


def put_image(layout: Path, *layers: bytes, architecture: str = "amd64", kind: str = GZIP) -> dict[str, Any]:
    inner = {"Entrypoint": ["/x"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}, "User": "7", "Labels": None}
    config = {"architecture": architecture, "os": "linux", "config": inner, "rootfs": {}}
    manifest = {
        "schemaVersion": 2,
        "config": put_json(layout, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layout, data, kind) for data in layers],
    }
    return put_json(layout, manifest)


def finish(layout: Path, *descriptors: dict[str, Any]) -> str:
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": descriptors}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(layout)


def tagged(descriptor: dict[str, Any], name: str) -> dict[str, Any]:
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}


def unpacked(tmp_path: Path, *layers: bytes) -> list[str]:
    """Give the files and links that layers make."""
    image = read_image(finish(tmp_path / "l", put_image(tmp_path / "l", *layers)), architecture="amd64")
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    try:
        unpack_image(image, fd)
    finally:
        os.close(fd)
    found = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found.append(f"{name}>{path.readlink()}")
        else:
            found.append(f"{name}/" if path.is_dir() else f"{name}={path.read_text()}")
    return found


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([["a=1", "b=2"], [".wh.a", "c=3"]], ["b=2", "c=3"]),
        ([["d/", "d/x=1", "d/e/y=1"], [".wh.d"]], []),
        # Taken away and made again by one layer, in either order.
        ([["d/", "d/x=1"], [".wh.d", "d/", "d/y=2"]], ["d/", "d/y=2"]),
        ([["d/", "d/x=1"], ["d/", "d/y=2", ".wh.d"]], ["d/", "d/y=2"]),
        ([["f=1"], ["f=2", ".wh.f"]], ["f=2"]),
        ([["d/x=1", "d/e/z=1"], ["d/", "d/.wh..wh..opq", "d/y=2"]], ["d/", "d/y=2"]),
        ([["d/x=1", "d/e/z=1"], ["d/", "d/y=2", "d/e/n=2", "d/.wh..wh..opq"]], ["d/", "d/e/", "d/e/n=2", "d/y=2"]),
        ([["a=1"], [".wh..wh..opq", "b=1"]], ["b=1"]),
        ([["a=1"], ["a=2"], [".wh.a"], ["a/", "a/b=4"]], ["a/", "a/b=4"]),
        # A file in the place of a directory, a directory in that of a symlink.
        ([["d/x=1", "l>d"], ["d=2", "l/", "l/n=1"]], ["d=2", "l/", "l/n=1"]),
        # /lib is a symlink below: the layer above writes and takes away through it.
        ([["u/l/", "u/l/a=1", "l>u/l"], ["l/b=2", "l/.wh.a"]], ["l>u/l", "u/", "u/l/", "u/l/b=2"]),
        ([["a=1"], [".wh.none", "no/.wh.x", "a/.wh.x", ".wh..wh.plnk"]], ["a=1"]),
    ],
)  # fmt: skip
def test_whiteouts(layers: list[list[str]], wanted: list[str], tmp_path: Path) -> None:
    assert unpacked(tmp_path, *(layer(*members) for members in layers)) == wanted


def test_whiteouts_touch_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("")
    first = layer(f"up>{outside}", "rel>../outside", "dot>..", "d/", f"d/l>{outside}")
    unpacked(
        tmp_path, first, layer("up/.wh.keep", "rel/.wh.keep", "up/.wh..wh..opq", "rel/.wh..wh..opq"),
        layer("dot/.wh.outside", "d/.wh..wh..opq", ".wh.d", ".wh.up"),
    )  # fmt: skip
    assert (outside / "keep").exists()
    for name in (".wh.", ".wh..", ".wh..."):
        shutil.rmtree(tmp_path / "tree")
        with pytest.raises(MachctlError, match="has no name"):
            unpacked(tmp_path, first, layer(f"d/{name}"))
    assert (outside / "keep").exists()


def test_config(tmp_path: Path) -> None:
    image = read_image(finish(tmp_path, put_image(tmp_path, layer("a=1"))), architecture="amd64")
    assert image.config == OciConfig(entrypoint=("/x",), env=("A=b",), user="7", ports=("80/tcp",))
    assert len(image.layers) == 1
    assert image.size == image.layers[0].size


@pytest.mark.parametrize("victim", ["manifest", "config", "layer", "layer size"])
def test_wrong_digest(victim: str, tmp_path: Path) -> None:
    descriptor = put_image(tmp_path, layer("a=1"))
    path = finish(tmp_path, descriptor)
    blobs = tmp_path / "blobs/sha256"
    manifest = json.loads((blobs / descriptor["digest"][7:]).read_text())
    digest = {"manifest": descriptor, "config": manifest["config"]}.get(victim, manifest["layers"][0])["digest"][7:]
    data = bytearray((blobs / digest).read_bytes())
    data[20] ^= 1
    (blobs / digest).write_bytes(data + b"x" if victim == "layer size" else data)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(MachctlError, match=digest[:8] if "layer" in victim else digest):
            unpack_image(read_image(path, architecture="amd64"), fd)
    finally:
        os.close(fd)
    (blobs / digest).unlink()
    with pytest.raises(NotFound):
        unpack_image(read_image(path, architecture="amd64"), 0)


def test_unknown_layer_type(tmp_path: Path) -> None:
    path = finish(tmp_path, put_image(tmp_path, b"x", kind="application/vnd.example.wasm"))
    with pytest.raises(Unsupported, match=r"application/vnd\.example\.wasm"):
        read_image(path, architecture="amd64")


def test_manifest_lists(tmp_path: Path) -> None:
    entries = []
    for name in ("amd64", "arm64"):
        descriptor = put_image(tmp_path, layer(f"{name}=1"), architecture=name)
        entries.append({**descriptor, "platform": {"architecture": name, "os": "linux"}})
    entries.append({**put_json(tmp_path, {}), "platform": {"architecture": "unknown", "os": "unknown"}})
    index = put_json(tmp_path, {"manifests": entries}, "application/vnd.oci.image.index.v1+json")
    path = finish(tmp_path, tagged(index, "latest"))
    assert read_image(path, architecture="arm64").digest == entries[1]["digest"]
    with pytest.raises(Unsupported, match="no image for riscv64, only for amd64, arm64"):
        read_image(path, architecture="riscv64")
    single = finish(tmp_path, put_image(tmp_path, architecture="arm64"))
    with pytest.raises(Unsupported, match="only for arm64"):
        read_image(single, architecture="amd64")
    index["digest"] = "sha256:../../../etc/passwd"
    with pytest.raises(MachctlError, match="cannot be read"):
        read_image(finish(tmp_path, index), architecture="amd64")


def test_tags(tmp_path: Path) -> None:
    one, two = put_image(tmp_path, layer("a=1")), put_image(tmp_path, layer("b=1"))
    path = finish(tmp_path, tagged(one, "v1"), tagged(two, "v2"))
    assert read_image(path, architecture="amd64", tag="v2").digest == two["digest"]
    with pytest.raises(InvalidValue, match="several") as caught:
        read_image(path, architecture="amd64")
    assert "v1, v2" in caught.value.hint
    with pytest.raises(NotFound, match="'v3'"):
        read_image(path, architecture="amd64", tag="v3")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"manifests": [{}]}', '{"manifests": [{"digest": 3}]}', "[" * 100_000]
)
def test_no_image(text: str, tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(MachctlError):
        read_image(str(tmp_path), architecture="amd64")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_archives_of_docker_save(suffix: str, tmp_path: Path) -> None:
    inner = gzip.decompress(layer("a=1"))
    config = {
        "architecture": "amd64", "config": {"Cmd": ["sh"]},
        "rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(inner).hexdigest()] * 2},
    }  # fmt: skip
    manifest = [{"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    path = tmp_path / f"saved.tar{suffix}"
    with tarfile.open(path, "w:gz" if suffix else "w") as tar:
        for name, data in (
            ("c.json", json.dumps(config).encode()), ("manifest.json", json.dumps(manifest).encode()),
            ("1/layer.tar", inner),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("2/layer.tar")
        info.type, info.linkname = tarfile.SYMTYPE, "../1/layer.tar"
        tar.addfile(info)
    image = read_image(str(path), architecture="amd64", tag="web:1")
    assert image.config.cmd == ("sh",)
    (tmp_path / "tree").mkdir()
    fd = os.open(tmp_path / "tree", os.O_RDONLY)
    try:
        unpack_image(image, fd)
        with pytest.raises(MachctlError, match="not what was wanted"):
            unpack_image(image._replace(layers=(image.layers[0]._replace(digest="sha256:" + "0" * 64),)), fd)
    finally:
        os.close(fd)
    assert (tmp_path / "tree/a").read_text() == "1"


@pytest.mark.parametrize(("out", "compression"), [("l", "gzip"), ("l", "zstd"), ("l.tar", "gzip"), ("l.tar", "none")])
def test_written_and_read_again(out: str, compression: str, tmp_path: Path) -> None:
    config = OciConfig(("/e",), ("c",), ("A=b",), "u", "/w", ("80/tcp",), "SIGTERM", {"k": "v"})
    entries = [
        Entry("", "directory", 0o755, mtime=1_000_000_000),
        Entry("f", "file", 0o4755, mtime=5_500_000_000, xattrs={"user.x": b"\xff"}),
    ]

    def write(path: Path) -> str:
        return write_image(entries, str(path), config=config, name="web:1", compression=compression)  # type: ignore[arg-type]

    digest = write(tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out]
    image = read_image(str(tmp_path / out), tag="web:1")
    assert (image.digest, image.config) == (f"{digest}", config)
    assert write(tmp_path / f"again{out}") == digest
    (tmp_path / "tree").mkdir()
    fd = os.open(tmp_path / "tree", os.O_RDONLY)
    try:
        unpack_image(image, fd)
    finally:
        os.close(fd)
    assert (tmp_path / "tree/f").stat().st_mode & 0o7777 == 0o4755
    if out == "l":
        with pytest.raises(Conflict):
            write(tmp_path / out)
    if shutil.which("skopeo"):
        where = f"oci-archive:{tmp_path / out}:web:1" if out.endswith(".tar") else f"oci:{tmp_path / out}:web:1"
        said = subprocess.run(["skopeo", "inspect", where], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout)["Labels"] == {"k": "v"}


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    def entries() -> Any:
        yield Entry("", "directory")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image(entries(), str(tmp_path / "l"), config=OciConfig(), name="x")
    assert list(tmp_path.iterdir()) == []
