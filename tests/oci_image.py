# SPDX-License-Identifier: LGPL-2.1-or-later
"""An OCI image in a folder of a throwaway host, without a tool for such images (OCI image-layout)."""

from __future__ import annotations

import json

from throwaway import Host

_WRITE = r"""
import hashlib, io, json, pathlib, sys, tarfile

place, settings, trees = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
blobs = place / "layout/blobs/sha256"
blobs.mkdir(parents=True)

def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

def layer(tree):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(place / tree, ".")
    return blob(data.getvalue(), "layer.v1.tar")

layers = [layer(tree) for tree in trees]
config = {
    "architecture": "amd64", "os": "linux", "config": settings,
    "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
}
manifest = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": layers,
}
index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
(place / "layout/index.json").write_text(json.dumps(index))
(place / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
"""


def write_layout(host: Host, place: str, *trees: str, **config: object) -> None:
    """Make an image of trees in ``place``, the lowest layer first, in the folder layout there."""
    host.run("python3", "-", place, json.dumps(config), *trees, stdin=_WRITE)
