# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a pacman repository of a bootable Debian tree: python3 - TREE REPOSITORY [KEY] < this file, in a throwaway host.

Its packages are called as those of Arch Linux are: ``base`` depends on all but ``greeting``, which is a package to ask
for. With KEY every file is signed by a new key, and its public half written there. Run it needs zstd, and gpg to sign.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

SKIPPED = (
    "dev/", "proc/", "sys/", "run/", "tmp/", "etc/apt/", "etc/dpkg/",
    "var/lib/dpkg/", "var/lib/apt/", "var/cache/", "var/log/",
)  # fmt: skip

PARTS = {
    "systemd": ("usr/lib/systemd", "usr/bin/systemd"),
    "dbus": ("usr/bin/dbus", "usr/share/dbus"),
    "bash": ("usr/bin/bash",),
}
"""The packages whose files are known by how their paths begin; ``filesystem`` has the rest."""

OS_RELEASE = 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n'


def main(tree: str, repository: str, key: str = "") -> None:
    """Fill ``repository`` with packages of all files in ``tree`` and the database ``core.db``."""
    place = Path(repository)
    place.mkdir(parents=True)
    left = set(paths(Path(tree)))
    database = {}
    for name, starts in PARTS.items():
        mine = {path for path in left if path.startswith(starts)}
        left -= mine
        database[name] = pack(place, name, Path(tree), mine, depends=["filesystem"])
    own = {"usr/lib/os-release": OS_RELEASE}
    database["filesystem"] = pack(place, "filesystem", Path(tree), left - set(own), texts=own)
    database["base"] = pack(place, "base", Path(tree), (), depends=["filesystem", *PARTS])
    database["greeting"] = pack(place, "greeting", Path(tree), (), texts={"usr/share/greeting": "hello\n"})
    with tarfile.open(place / "core.db", "w:gz") as archive:
        for name, text in database.items():
            add_text(archive, f"{name}-1-1/desc", text)
    if key:
        sign([*place.glob("*.zst"), place / "core.db"], Path(key))


def paths(tree: Path) -> Iterable[str]:
    """Give all paths in ``tree`` that belong into packages, relative to it."""
    for directory, directories, files in os.walk(tree):
        inside = os.path.relpath(directory, tree)
        below = "" if inside == "." else f"{inside}/"
        directories[:] = [name for name in directories if not f"{below}{name}/".startswith(SKIPPED)]
        yield from (below + name for name in (*directories, *files))


def pack(
    place: Path,
    name: str,
    tree: Path,
    files: Iterable[str],
    *,
    depends: Iterable[str] = (),
    texts: Mapping[str, str] | None = None,
) -> str:
    """Make the package ``name`` of ``files`` in ``tree`` and of ``texts`` by path; give its entry in the database."""
    file = place / f"{name}-1-1-any.pkg.tar.zst"
    size = sum((tree / path).lstat().st_size for path in files)
    fields = [("pkgname", name), ("pkgver", "1-1"), ("pkgdesc", name), ("size", size), ("arch", "any")]
    fields += [("depend", other) for other in depends]
    with file.open("wb") as output, subprocess.Popen(
        ["zstd", "-q", "-1"], stdin=subprocess.PIPE, stdout=output
    ) as zstd:  # fmt: skip
        assert zstd.stdin is not None
        with tarfile.open(fileobj=zstd.stdin, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            add_text(archive, ".PKGINFO", "".join(f"{key} = {value}\n" for key, value in fields))
            for path in sorted(files):
                archive.add(tree / path, path, recursive=False, filter=numeric)
            for path, text in (texts or {}).items():
                add_text(archive, path, text)
        zstd.stdin.close()
        assert zstd.wait() == 0
    entry = {
        "FILENAME": file.name, "NAME": name, "VERSION": "1-1", "CSIZE": str(file.stat().st_size), "ISIZE": str(size),
        "SHA256SUM": hashlib.sha256(file.read_bytes()).hexdigest(), "ARCH": "any", "DEPENDS": "\n".join(depends),
    }  # fmt: skip
    return "".join(f"%{key}%\n{value}\n\n" for key, value in entry.items() if value)


def numeric(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Drop the names of the owners: the users of the host are not those of the tree."""
    member.uname = member.gname = ""
    return member


def add_text(archive: tarfile.TarFile, path: str, text: str) -> None:
    """Add a file of root's with ``text`` in it."""
    member = tarfile.TarInfo(path)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


def sign(files: Iterable[Path], key: Path) -> None:
    """Sign ``files`` with a key made for it, FILE to FILE.sig, and write its public half to ``key``."""
    with tempfile.TemporaryDirectory() as home:
        gpg = [
            "gpg",
            "--homedir",
            home,
            "--batch",
            "--quiet",
            "--yes",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ]
        user = "Repository <repository@example.org>"
        subprocess.run([*gpg, "--quick-generate-key", user, "ed25519", "sign", "never"], check=True)
        for file in files:
            subprocess.run([*gpg, "--output", f"{file}.sig", "--detach-sign", file], check=True)
        subprocess.run([*gpg, "--output", key, "--export"], check=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
