# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arch Linux trees with pacstrap(8), on any host that has pacman: with a configuration and a keyring of our own."""

from __future__ import annotations

import os
import re
import shutil
import stat
from itertools import pairwise
from pathlib import Path

from machines.errors import InvalidValue, Unsupported
from machines.host import guest, run
from machines.host.bootstrap import checks
from machines.host.bootstrap.causes import HOST, KEYRING, NETWORK, NO_SPACE, SPELLING, cause, explain
from machines.host.bootstrap.follow import follow
from machines.host.bootstrap.progress import PacmanProgress
from machines.host.bootstrap.scratch import clean, scratch
from machines.host.interfaces import BootstrapRequest, Progress

MIRRORLIST = Path("/etc/pacman.d/mirrorlist")
KEYRINGS = (Path("/usr/share/pacman/keyrings/archlinux.gpg"), Path("/usr/share/keyrings/archlinux.gpg"))
KEY_SCRIPTS = Path("/usr/share/makepkg/util")
REPOSITORIES = ("core", "extra")

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+:/=-]*")
_MIRROR = re.compile(r"(?:https?|ftp|file):/[^\s\"\\]+")

_LEFTOVERS = (
    "dev/*", "run/*", "tmp/*", "etc/pacman.d/gnupg/S.*", "var/cache/ldconfig/aux-cache", "var/cache/pacman/pkg/*",
    "var/lib/pacman/db.lck", "var/lib/pacman/sync/*", "var/log/pacman.log",
)  # fmt: skip

# The sockets of gpg-agent(1), which cannot be copied, and the lock files of gpg(1).
_NOT_COPIED = ("S.*", ".#lk*", "*.lock")

_NOT_SIGNED = (
    "{0} is not signed",
    "a repository of your own is signed with gpg --detach-sign, or taken without signatures by --insecure",
)

CAUSES = (
    *HOST,
    cause(r"Partition \S+ too full|Write failed", *NO_SPACE),
    cause(r"error: (\S+): missing required signature", *_NOT_SIGNED),
    cause(
        r"(?:signature from \"(.*)\" is (?:unknown|marginal|never) trust|key \"(\w+)\" (?:is unknown|could not be)|"
        r"(required key missing from keyring))",
        "a package or database is signed by a key that is not in the keyring ({0})",
        KEYRING,
    ),
    cause(
        r"error: (\S+): signature from \".*\" is invalid|(\S+) .*invalid or corrupted \w+ \(PGP signature\)",
        "the signature of {0} is wrong",
        "the mirror may be broken or tampered with: try another one",
    ),
    cause(r"error: (\S+): signature .* is expired|key \"(.*)\" is (?:expired|disabled)", "expired key: {0}", KEYRING),
    *NETWORK,
    cause(r"failed retrieving file '([^']+)\.sig'", *_NOT_SIGNED),
    cause(r"target not found: (\S+)", "unknown package: {0}", SPELLING, several=True),
    cause(
        r"failed retrieving file '([^']+)' from \S+ : (?:The requested URL .* error: 404|Could(?:n't| not) open file)",
        "{mirror} has no {0}",
        "check the mirror's address; $repo and $arch in it stand for the repository and the architecture",
    ),
    cause(
        r"file '(\S+)' .* Exceeded the maximum allowed file size|(\S+) is corrupted|"
        r"invalid or corrupted (package|database)",
        "a file of the mirror is damaged: {0}",
        "try again, or try another mirror",
    ),
    cause(
        r"failed retrieving file ('.*)",
        "a file could not be fetched: {0}",
        "try again, or try another mirror",
    ),
)
"""What pacman says of a failure; its exit status is 1 for all of them."""


class Pacstrap:
    """pacstrap, which runs pacman with the new tree as its root."""

    name = "pacstrap"

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs pacstrap needs that the host does not have."""
        return run.missing(("pacstrap", "pacman", "setpriv", "unshare"))

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; see Bootstrapper.

        Raises CommandFailed naming the cause, Unsupported where the host has no mirror or no keys, and what
        checks.check raises.
        """
        checks.check(request, package=_PACKAGE, mirror=_MIRROR)
        found = repositories(request.mirror)
        if not request.insecure:
            check_keyring(request)
        with scratch("pacman") as directory:
            keyring = None if request.insecure else directory / "gnupg"
            if keyring is not None:
                await _make_keyring(keyring, request, progress)
                _copy_keyring(keyring, request.target)
            conf = directory / "pacman.conf"
            # A comment by which to know the copies that pacstrap makes of it.
            conf.write_text(f"# {directory}\n{configuration(found, keyring=keyring)}")
            try:
                # libarchive refuses names beyond ASCII in a locale that is none of UTF-8.
                locale = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
                status, tail = await follow(
                    command(request, conf), PacmanProgress(), request, progress, env=locale
                )  # fmt: skip
            finally:
                remove_copies(f"# {directory}\n")
        if status != 0:
            raise explain(tail, request, tool=self.name, causes=CAUSES)
        finish(request, found)


def repositories(mirror: str | None, *, mirrorlist: Path = MIRRORLIST) -> dict[str, str]:
    """Give the line that says where each repository is, by its name, as pacman.conf(5) takes it.

    ``mirror`` is the top of a mirror, an address with ``$repo`` in it, or the directory of local databases
    (``file:///DIR`` with NAME.db); without one the host's own ``mirrorlist`` counts. Raises Unsupported where that
    has no server.
    """
    if mirror is None:
        if not mirrorlist.is_file() or not re.search(r"^\s*Server\s*=", mirrorlist.read_text(), re.MULTILINE):
            raise Unsupported(
                "no mirror of Arch Linux is known on this host",
                hint=f"name one with --mirror URL, or uncomment a server in {mirrorlist}",
            )
        return dict.fromkeys(REPOSITORIES, f"Include = {mirrorlist}")
    url = re.sub(r"^file:/+", "file:///", mirror).rstrip("/")
    if "$repo" in url:
        return dict.fromkeys(REPOSITORIES, f"Server = {url}")
    if url.startswith("file:"):
        names = sorted(
            (path.name.removesuffix(".db") for path in Path(url.removeprefix("file://")).glob("*.db")),
            key=lambda name: (name not in REPOSITORIES, name),
        )
        if wrong := [name for name in names if name in {"local", "options"} or not re.fullmatch(r"[\w@.+-]+", name)]:
            raise InvalidValue(f"{wrong[0]!r} cannot be the name of a repository", hint=f"rename {wrong[0]}.db")
        if names:
            return dict.fromkeys(names, f"Server = {url}")
    return dict.fromkeys(REPOSITORIES, f"Server = {url}/$repo/os/$arch")


def configuration(found: dict[str, str], *, keyring: Path | None) -> str:
    """Give the pacman.conf(5) of a bootstrap; without ``keyring`` signatures are not asked for.

    It has no DownloadUser=: the host's pacman would want that user to be able to write into the tree.
    """
    lines = ["[options]", "Architecture = auto", "CheckSpace", "ParallelDownloads = 5"]
    if keyring is None:
        lines.append("SigLevel = Never")
    else:
        lines += [f"GPGDir = {keyring}", "SigLevel = Required DatabaseOptional"]
    for name, server in found.items():
        lines += ["", f"[{name}]", server]
    return "".join(f"{line}\n" for line in lines)


def command(request: BootstrapRequest, conf: Path) -> list[str]:
    """Give the argv that fills ``request.target``: no mirrorlist and no keyring of the host's is copied into it."""
    packages = dict.fromkeys(("base", *request.packages))
    return ["pacstrap", "-C", os.fspath(conf), "-G", "-M", os.fspath(request.target.absolute()), *packages]


def check_keyring(request: BootstrapRequest) -> None:
    """Raise Unsupported where signatures cannot be checked: nothing is ever installed unverified unasked."""
    lacking = run.missing(("pacman-key", "gpg"))
    # Debian has the half of pacman-key(8) that does the work in another package.
    packages = ["makepkg"] if "pacman-key" in lacking or not KEY_SCRIPTS.is_dir() else []
    packages += ["gnupg"] if "gpg" in lacking else []
    if packages:
        raise Unsupported(
            "pacman-key, which signatures are checked with, cannot run on this host",
            hint=f"apt install {' '.join(packages)}",
        )
    if request.keyring is None and not any(path.is_file() for path in KEYRINGS):
        raise Unsupported(
            "the keyring to check the signatures of Arch Linux with is not installed",
            hint="apt install archlinux-keyring, or name a keyring file",
        )


def fingerprints(listing: str) -> list[str]:
    """Give the fingerprints of the primary keys in what ``gpg --with-colons --show-keys`` printed."""
    records = [line.split(":") for line in listing.splitlines()]
    return [record[9] for before, record in pairwise(records) if before[0] == "pub" and record[0] == "fpr"]


def remove_copies(start: str, *, directory: Path = Path("/tmp")) -> None:
    """Remove the files that begin with ``start`` from ``directory``.

    From version 32 on pacstrap works with a copy of its configuration, which it leaves there when it fails. TMPDIR
    would move that, but the packages' own scripts would see it as well, without the directory.
    """
    for path in directory.glob("pacman.conf.*"):
        # Anybody may write there: no link is followed, no fifo opened.
        found = path.lstat()
        mine = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if mine and path.read_text(errors="replace").startswith(start):
            path.unlink()


def finish(request: BootstrapRequest, found: dict[str, str]) -> None:
    """Make the new tree ready to be kept: no leftovers, and a pacman that knows where it came from."""
    clean(request.target, _LEFTOVERS)
    line = next(iter(found.values()))
    text = MIRRORLIST.read_text() if request.mirror is None else f"{line}\n"
    guest.write_file(os.fspath(request.target), "/etc/pacman.d/mirrorlist", text)


async def _make_keyring(keyring: Path, request: BootstrapRequest, progress: Progress) -> None:
    """Make the directory that pacman-key(8) keeps trusted keys in, with those of ``request`` or Arch's.

    The agents that gpg(1) starts for it die with the PID namespace that it runs in.
    """
    progress("preparing the keyring", 0, None)
    pacman_key = ["pacman-key", "--gpgdir", os.fspath(keyring)]
    try:
        await _succeed([*pacman_key, "--init"], request, progress)
        if request.keyring is None:
            await _succeed([*pacman_key, "--populate", "archlinux"], request, progress)
            return
        file = os.fspath(request.keyring.absolute())
        show = ["gpg", "--homedir", os.fspath(keyring), "--batch", "--with-colons", "--show-keys", file]
        keys = fingerprints(run.run(show, check=False).stdout)
        if not keys:
            raise InvalidValue(f"{file} is not a keyring", hint="gpg --export KEY... makes one")
        await _succeed([*pacman_key, "--add", file], request, progress)
        await _succeed([*pacman_key, "--lsign-key", *keys], request, progress)
    finally:
        # Beside a login session gpg has its sockets in /run/user.
        if run.which("gpgconf") and keyring.is_dir():
            run.run(["gpgconf", "--homedir", os.fspath(keyring), "--remove-socketdir"], check=False)


async def _succeed(argv: list[str], request: BootstrapRequest, progress: Progress) -> None:
    status, tail = await follow(argv, None, request, progress)
    if status != 0:
        raise explain(tail, request, tool=argv[0], causes=CAUSES)


def _copy_keyring(keyring: Path, target: Path) -> None:
    """Copy ``keyring`` to its place in the tree, which is still empty: so no link can be in the way."""
    place = target / "etc/pacman.d"
    for directory in (place.parent, place):
        directory.mkdir()
        directory.chmod(0o755)
    shutil.copytree(keyring, place / "gnupg", symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
