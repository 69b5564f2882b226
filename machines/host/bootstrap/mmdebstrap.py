# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian and Ubuntu trees with mmdebstrap(1): apt does the work, fast and with errors that name the cause."""

from __future__ import annotations

import os
import re
from pathlib import Path

from machines.host import run
from machines.host.bootstrap import debian
from machines.host.bootstrap.causes import explain
from machines.host.bootstrap.follow import follow
from machines.host.bootstrap.progress import AptProgress
from machines.host.interfaces import BootstrapRequest, Progress


class Mmdebstrap:
    """mmdebstrap, in root mode and without its own progress bars."""

    name = "mmdebstrap"

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs mmdebstrap needs that the host does not have."""
        return run.missing(("mmdebstrap", "apt-get", "dpkg", "setpriv", "unshare"))

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; see Bootstrapper.

        Raises CommandFailed naming the cause, and what debian.check and debian.archive_keyring raise.
        """
        debian.check(request)
        debian.check_mirror(request, known=knows_ubuntu(request.suite))
        with debian.readable_keyring(debian.archive_keyring(request)) as keyring:
            status, tail = await follow(command(request, keyring), AptProgress(), request, progress)
        if status != 0:
            raise explain(tail, request, tool=self.name)
        debian.finish(request)


def command(request: BootstrapRequest, keyring: Path) -> list[str]:
    """Give the argv that fills ``request.target``, trusting the keys in ``keyring`` and no other.

    ``keyring`` is alone in its directory: named as a file it takes the place of the host's trusted.gpg, its
    directory that of trusted.gpg.d, and without check/signed-by mmdebstrap adds no third one.
    """
    argv = [
        "mmdebstrap", "--verbose", "--mode=root", "--format=directory",
        "--variant", request.variant,
        f"--keyring={keyring}", f"--keyring={keyring.parent}", "--skip=check/signed-by",
        # The tree is synced as a whole at its end; the file this makes in it is removed by then.
        "--dpkgopt=force-unsafe-io",
    ]  # fmt: skip
    if components := debian.COMPONENTS.get(request.distribution):
        argv.append(f"--components={components}")
    if request.packages:
        argv.append(f"--include={','.join(request.packages)}")
    argv += [request.suite, os.fspath(request.target.absolute())]
    if request.mirror is not None:
        # With file: apt leaves the packages where they are: outside the chroot that installs them.
        argv.append(re.sub(r"^file:/+", "copy:///", request.mirror))
    return argv


def knows_ubuntu(suite: str, *, suites: Path = debian.UBUNTU_SUITES, scripts: Path = debian.SCRIPTS) -> bool:
    """Tell whether mmdebstrap knows a mirror of a suite of Ubuntu: from distro-info-data, or debootstrap's scripts."""
    try:
        # version,codename,series,created,...
        listed = {line.split(",")[2] for line in suites.read_text().splitlines() if line.count(",") > 2}
    except FileNotFoundError:
        listed = set()
    script = scripts / suite
    return suite in listed or (script.is_symlink() and script.readlink().name == "gutsy")
