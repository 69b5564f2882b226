# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fedora trees with dnf(8) or dnf5(8) and --installroot, as the examples of systemd-nspawn(1) have it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from machines.errors import InvalidValue, Unsupported
from machines.host import run
from machines.host.bootstrap import checks
from machines.host.bootstrap.causes import HOST, KEYRING, NETWORK, NO_SPACE, SPELLING, cause, explain
from machines.host.bootstrap.follow import follow
from machines.host.bootstrap.progress import DnfProgress
from machines.host.bootstrap.scratch import clean, scratch
from machines.host.interfaces import BootstrapRequest, Progress

HOST_REPOSITORIES = Path("/etc/yum.repos.d")
KEYS = (Path("/etc/pki/rpm-gpg"), Path("/usr/share/distribution-gpg-keys/fedora"))

# Where Fedora's rpm looks for its database; Debian's puts it elsewhere.
RPM_MACROS = "%_dbpath /usr/lib/sysimage/rpm\n"

_RELEASE = re.compile(r"[0-9]+|rawhide")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:~^-]*")
_MIRROR = re.compile(r"(?:https?|ftp|file):/[^\s\"\\,]+")

_LEFTOVERS = (
    "dev/*", "run/*", "tmp/*", "var/cache/dnf/*", "var/cache/libdnf5/*", "var/cache/ldconfig/aux-cache",
    "var/log/dnf*", "var/log/hawkey.log",
)  # fmt: skip

CAUSES = (
    *HOST,
    cause(r"more space needed on the \S+ filesystem|needs \S+ \w+ more space", *NO_SPACE),
    cause(
        r"Public key for (\S+) is not installed|Package (\S+) is not signed|"
        r"OpenPGP check for package \"(\S+)\" .*failed|GPG check FAILED",
        "the signature of {0} could not be checked",
        KEYRING,
    ),
    *NETWORK,
    cause(r"No match for argument: (\S+)", "unknown package in {suite}: {0}", SPELLING, several=True),
    cause(
        r"Status code: 40\d for |Curl error \(37\)|Cannot download repomd\.xml|Usable URL not found",
        "the release {suite} is not known at {mirror}",
        "check the number of the release, and that the mirror carries it; old ones move to the archive",
    ),
    cause(r"Failed to download metadata .*: (.*)", "no package lists could be got: {0}", "try another mirror"),
)


class Dnf:
    """dnf5, or dnf where that is not installed."""

    name = "dnf"

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs dnf needs that the host does not have."""
        lacking = run.missing(("setpriv", "unshare"))
        return lacking if run.which("dnf5") or run.which("dnf") else ("dnf", *lacking)

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; see Bootstrapper.

        Raises CommandFailed naming the cause, Unsupported where the host has no mirror or no keys, and what
        checks.check raises.
        """
        checks.check(request, package=_PACKAGE, mirror=_MIRROR)
        if not _RELEASE.fullmatch(request.suite):
            raise InvalidValue(f"{request.suite!r} is not a release of Fedora", hint="use its number, or rawhide")
        own = repositories(request)
        with scratch("dnf") as directory:
            (directory / ".rpmmacros").write_text(RPM_MACROS)
            if own is not None:
                (directory / "dnf.conf").write_text("[main]\nplugins=False\n")
                (directory / "machctl.repo").write_text(own)
            argv = command(
                request, tool="dnf5" if run.which("dnf5") else "dnf", configuration=directory if own else None
            )
            status, tail = await follow(argv, DnfProgress(), request, progress, env={"HOME": os.fspath(directory)})
        if status != 0:
            raise explain(tail, request, tool=self.name, causes=CAUSES)
        clean(request.target, _LEFTOVERS)


def repositories(
    request: BootstrapRequest, *, host: Path = HOST_REPOSITORIES, keys: tuple[Path, ...] = KEYS
) -> str | None:
    """Give the .repo file (dnf.conf(5)) of the mirror of ``request``, None where the host's own repositories do.

    The mirror is the top of one of Fedora's, an address with variables like ``$basearch`` in it, or a local
    directory with repodata. Raises Unsupported without a mirror on a host that is not Fedora, and without keys.
    """
    if request.mirror is None:
        if not list(host.glob("fedora*.repo")):
            raise Unsupported(
                "no mirror of Fedora is known on this host",
                hint=f"name one with --mirror URL; only Fedora has its own in {host}",
            )
        return None
    url = re.sub(r"^file:/+", "file:///", request.mirror).rstrip("/")
    if "$" in url or (url.startswith("file:") and Path(url.removeprefix("file://"), "repodata").is_dir()):
        found = {"fedora": url}
    elif request.suite == "rawhide":
        found = {"fedora": f"{url}/development/rawhide/Everything/$basearch/os/"}
    else:
        found = {
            "fedora": f"{url}/releases/$releasever/Everything/$basearch/os/",
            "updates": f"{url}/updates/$releasever/Everything/$basearch/",
        }
    check = "gpgcheck=0" if request.insecure else f"gpgcheck=1\ngpgkey={_key(request, keys).as_uri()}"
    return "\n".join(f"[{name}]\nname={name}\nbaseurl={address}\n{check}\n" for name, address in found.items())


def command(request: BootstrapRequest, *, tool: str, configuration: Path | None) -> list[str]:
    """Give the argv that fills ``request.target``, with the host's repositories or those in ``configuration``.

    Paths on the command line are the host's (dnf5-installroot(7)); without any, dnf5 reads the tree's own
    configuration, which is not there yet, and dnf falls back to the host's.
    """
    argv = [
        tool, "-y", f"--installroot={request.target.absolute()}", f"--releasever={request.suite}",
        "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs", "--setopt=keepcache=False",
    ]  # fmt: skip
    if configuration is not None:
        argv += [f"--config={configuration / 'dnf.conf'}", f"--setopt=reposdir={configuration}"]
    else:
        argv += ["--use-host-config"] if tool == "dnf5" else [f"--setopt=reposdir={HOST_REPOSITORIES}"]
        argv.append("--setopt=*.gpgcheck=0" if request.insecure else "--setopt=*.gpgcheck=1")
    return [*argv, "install", *request.packages]


def _key(request: BootstrapRequest, keys: tuple[Path, ...]) -> Path:
    """Give the file with the keys that may sign packages."""
    if request.keyring is not None:
        return request.keyring.absolute()
    name = f"RPM-GPG-KEY-fedora-{request.suite}-primary"
    for directory in keys:
        if (directory / name).is_file():
            return directory / name
    raise Unsupported(
        f"the key to check the signatures of Fedora {request.suite} with is not installed",
        hint="apt install distribution-gpg-keys, or name a keyring file",
    )
