# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images without an init: what they run in place of one, and what is run in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from throwaway import Host, Roads, until

# A shell and a few programs, in $1/$2 or, where that is bin, in a tree that has no /usr: "FROM scratch".
IMAGE = r"""
set -e
tree=$1/tree
rm -rf "$1"
mkdir -p "$tree/$2" "$tree/etc" "$tree/tmp"
for program in sh cat true sleep id; do cp -L "/bin/$program" "$tree/$2"; done
ldd "$tree/$2"/* | grep -oE '/[^ ]+ \(' | tr -d ' (' | sort -u |
    while read -r library; do mkdir -p "$tree${library%/*}"; cp -L "$library" "$tree${library%/*}"; done
echo 'root:x:0:0::/:/bin/sh' >"$tree/etc/passwd"
"""
LAYOUT = r"""
import hashlib, io, json, pathlib, sys, tarfile

place = pathlib.Path(sys.argv[1])
blobs = place / "layout/blobs/sha256"
blobs.mkdir(parents=True)

def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as archive:
    archive.add(place / "tree", ".")
layer = blob(data.getvalue(), "layer.v1.tar")
config = {
    "architecture": "amd64", "os": "linux", "config": json.loads(sys.argv[2]),
    "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
}
manifest = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": [layer],
}
index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
(place / "layout/index.json").write_text(json.dumps(index))
(place / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
"""
SOURCE = "oci:/root/small/layout"


def make_image(host: Host, *, programs: str = "usr/bin", **config: object) -> None:
    """Make an image that lies at SOURCE."""
    host.sh(IMAGE, "/root/small", programs)
    settings = {"Env": [f"PATH=/{programs}", "GREETING=good day"], **config}
    host.run("python3", "-", "/root/small", json.dumps(settings), stdin=LAYOUT)


@pytest.fixture(params=["trixie", "bookworm"])
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host that is in the end as it was, but for bases."""
    with roads.get(request.param).ready().host.only_debian() as found:
        yield found
        found.run("rm", "-rf", "/root/small")


def test_an_image_that_has_no_usr_runs(host: Host) -> None:
    make_image(host, programs="bin", Cmd=["sleep", "600"])
    assert not host.exists("/root/small/tree/usr")
    host.machctl("create", SOURCE, "web", "--start")
    assert until(lambda: host.inside("web", "id -u"), bool) == "0"
    root, usr = host.sh("cd $1 && stat -c %u . && stat -c '%u %a' usr", host.tree("web")).split("\n")
    assert usr == f"{root} 755"
