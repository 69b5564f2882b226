# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a pacman repository of a bootable Debian tree: python3 - TREE REPOSITORY [KEY] < this file, in a throwaway host.

Its packages are called as those of Arch Linux are: ``base`` depends on all but ``greeting``, which is a package to ask
for. ``pacman`` is that of the host, with what it needs. With KEY every file is signed by a new key, and its public half
written there. Run it needs zstd, and gpg to sign. With the words --offer REPOSITORY KEY VERSION SCRIPT CONF the
repository has packages ``thing`` and ``archlinux-keyring`` then, which is empty, in that version alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
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

PROGRAMS = ("pacman", "pacman-conf", "gpg", "gpgconf", "gpg-agent")

# As Arch Linux has it, but for the user who fetches, which Debian has no other of.
PACMAN_CONF = """\
[options]
HoldPkg = pacman glibc
Architecture = auto
CheckSpace
DownloadUser = daemon
SigLevel = Required DatabaseOptional
LocalFileSigLevel = Optional
[core]
Include = /etc/pacman.d/mirrorlist
"""

UNIT = """\
[Service]
ExecStart=/usr/lib/thing/keeper /usr/lib/thing/script
[Install]
WantedBy=multi-user.target
"""

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
    database["pacman"] = pack(
        place, "pacman", Path("/"), needed(left), depends=["filesystem"], texts={"etc/pacman.conf": PACMAN_CONF}
    )
    own = {"usr/lib/os-release": OS_RELEASE}
    database["filesystem"] = pack(place, "filesystem", Path(tree), left - set(own), texts=own)
    database["base"] = pack(place, "base", Path(tree), (), depends=["filesystem", "pacman", *PARTS])
    database["greeting"] = pack(place, "greeting", Path(tree), (), texts={"usr/share/greeting": "hello\n"})
    write_database(place, {f"{name}-1-1": text for name, text in database.items()})
    if key:
        make_key(Path(key))
        sign([*place.glob("*.zst"), place / "core.db"], Path(key))
    # Whoever fetches is not root.
    place.chmod(0o755)


def offer(repository: str, key: str, version: str, script: str, conf: str) -> None:
    """Have ``repository`` offer a version of thing, whose service runs ``script`` and whose settings are ``conf``."""
    place = Path(repository)
    with tarfile.open(place / "core.db") as archive:
        names = [name for name in archive.getnames() if not name.startswith(("thing-", "archlinux-keyring-"))]
        entries = {name.removesuffix("/desc"): archive.extractfile(name).read().decode() for name in names}  # type: ignore[union-attr]
    texts = {
        "usr/lib/systemd/system/thing.service": UNIT,
        "usr/lib/thing/script": script,
        "etc/thing.conf": conf,
    }
    programs = {"usr/lib/thing/keeper": Path("/usr/bin/dash").read_bytes()}
    entry = pack(
        place, "thing", Path("/"), (), version=version, texts=texts, programs=programs, backup="etc/thing.conf"
    )
    keyring = pack(place, "archlinux-keyring", Path("/"), (), version=version)
    write_database(place, {**entries, f"thing-{version}": entry, f"archlinux-keyring-{version}": keyring})
    sign([*place.glob(f"*-{version}-any.pkg.tar.zst"), place / "core.db"], Path(key))


def needed(there: Iterable[str]) -> list[str]:
    """Give the paths of PROGRAMS on this host and of the libraries they need, but for those that are ``there``."""
    found = {f"usr/bin/{name}" for name in PROGRAMS}
    for name in PROGRAMS:
        said = subprocess.run(["ldd", f"/usr/bin/{name}"], stdout=subprocess.PIPE, check=True, text=True).stdout
        for path in re.findall(r"=> /(?:usr/)?(lib\S+)", said):
            # The name that is asked for, and the file it is a link to.
            found |= {f"usr/{path}", os.path.realpath(f"/usr/{path}")[1:]}
    return sorted(found - set(there))


def write_database(place: Path, entries: Mapping[str, str]) -> None:
    """Write the database of the repository, of what it has of each package by NAME-VERSION."""
    with tarfile.open(place / "core.db", "w:gz") as archive:
        for name, text in entries.items():
            add_text(archive, f"{name}/desc", text)


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
    programs: Mapping[str, bytes] | None = None,
    version: str = "1-1",
    backup: str = "",
) -> str:
    """Make the package ``name`` of ``files`` in ``tree`` and of ``texts`` and ``programs`` by path.

    Gives its entry in the database. Of the file ``backup`` what its user wrote is kept.
    """
    file = place / f"{name}-{version}-any.pkg.tar.zst"
    size = sum((tree / path).lstat().st_size for path in files)
    fields = [("pkgname", name), ("pkgver", version), ("pkgdesc", name), ("size", size), ("arch", "any")]
    fields += [("depend", other) for other in depends]
    fields += [("backup", backup)] if backup else []
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
            for path, data in (programs or {}).items():
                add_bytes(archive, path, data, mode=0o755)
        zstd.stdin.close()
        assert zstd.wait() == 0
    entry = {
        "FILENAME": file.name, "NAME": name, "VERSION": version, "CSIZE": str(file.stat().st_size), "ISIZE": str(size),
        "SHA256SUM": hashlib.sha256(file.read_bytes()).hexdigest(), "ARCH": "any", "DEPENDS": "\n".join(depends),
    }  # fmt: skip
    return "".join(f"%{key}%\n{value}\n\n" for key, value in entry.items() if value)


def numeric(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Drop the names of the owners: the users of the host are not those of the tree."""
    member.uname = member.gname = ""
    return member


def add_text(archive: tarfile.TarFile, path: str, text: str) -> None:
    """Add a file of root's with ``text`` in it."""
    add_bytes(archive, path, text.encode(), mode=0o644)


def add_bytes(archive: tarfile.TarFile, path: str, data: bytes, *, mode: int) -> None:
    """Add a file of root's with ``data`` in it."""
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


def gpg(key: Path, *words: str | Path) -> None:
    """Run gpg with the keys that are kept beside ``key``, and nothing of it afterwards."""
    home = Path(f"{key}.home")
    home.mkdir(mode=0o700, exist_ok=True)
    mute = ("--batch", "--quiet", "--yes", "--passphrase", "", "--pinentry-mode", "loopback")
    subprocess.run(["gpg", "--homedir", home, *mute, *words], check=True)


def make_key(key: Path) -> None:
    """Make a key, and write its public half to ``key``."""
    gpg(key, "--quick-generate-key", "Repository <repository@example.org>", "ed25519", "sign", "never")
    gpg(key, "--output", key, "--export")


def sign(files: Iterable[Path], key: Path) -> None:
    """Sign ``files`` with the key whose public half is ``key``, FILE to FILE.sig."""
    for file in files:
        gpg(key, "--output", f"{file}.sig", "--detach-sign", file)
    subprocess.run(["gpgconf", "--homedir", f"{key}.home", "--kill", "all"], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "--offer":
        offer(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
