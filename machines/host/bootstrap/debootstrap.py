# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian and Ubuntu trees with debootstrap(8): slower than mmdebstrap, but on every distribution."""

from __future__ import annotations

import os
from pathlib import Path

from machines.host import run
from machines.host.bootstrap import debian
from machines.host.bootstrap.causes import explain
from machines.host.bootstrap.debian import SCRIPTS
from machines.host.bootstrap.follow import follow
from machines.host.bootstrap.progress import DebootstrapProgress
from machines.host.interfaces import BootstrapRequest, Progress
from machines.model.request import debian_architecture

_NEWEST_SCRIPT = {"debian": "sid", "ubuntu": "gutsy"}


class Debootstrap:
    """debootstrap, made to check signatures also where it would go on without."""

    name = "debootstrap"

    def missing_tools(self) -> tuple[str, ...]:
        """Give the programs debootstrap needs that the host does not have."""
        lacking = run.missing(("debootstrap", "setpriv", "unshare"))
        # From 1.0.140 on it takes sqv as well, which Debian 13 has in gpgv's place.
        return lacking if run.which("gpgv") or run.which("sqv") else (*lacking, "gpgv")

    async def bootstrap(self, request: BootstrapRequest, progress: Progress) -> None:
        """Fill ``request.target``; see Bootstrapper.

        Raises CommandFailed naming the cause, and what debian.check and debian.archive_keyring raise.
        """
        debian.check(request)
        debian.check_mirror(request, known=(SCRIPTS / request.suite).exists())
        status, tail = 1, list[str]()
        try:
            with debian.readable_keyring(debian.archive_keyring(request)) as keyring:
                status, tail = await follow(command(request, keyring), DebootstrapProgress(), request, progress)
        finally:
            if status != 0:
                _keep_log(request)
        if status != 0:
            inner = debian.read_tail(_inner_log(request))
            raise explain([*inner, *tail], request, tool=self.name)
        debian.finish(request)


def command(request: BootstrapRequest, keyring: Path, *, scripts: Path = SCRIPTS) -> list[str]:
    """Give the argv that fills ``request.target``, trusting the keys in ``keyring`` and no other."""
    argv = [
        "debootstrap", "--force-check-gpg", f"--keyring={keyring}", f"--variant={request.variant}",
    ]  # fmt: skip
    if run.which("dpkg") is None:
        # It asks dpkg, which is not on every distribution.
        argv.append(f"--arch={debian_architecture(os.uname().machine)}")
    if components := debian.COMPONENTS.get(request.distribution):
        argv.append(f"--components={components}")
    if request.packages:
        argv.append(f"--include={','.join(request.packages)}")
    argv += [request.suite, os.fspath(request.target.absolute())]
    if request.mirror is not None:
        argv.append(request.mirror)
        script = scripts / _NEWEST_SCRIPT.get(request.distribution, "sid")
        # Suites younger than the host's debootstrap have no script there; the newest one does for them.
        if not (scripts / request.suite).exists() and script.exists():
            argv.append(str(script))
    return argv


def _inner_log(request: BootstrapRequest) -> Path:
    return request.target / "debootstrap/debootstrap.log"


def _keep_log(request: BootstrapRequest) -> None:
    """Append debootstrap's own log to ours: what dpkg said is only there, and the tree will be removed."""
    if lines := debian.read_tail(_inner_log(request)):
        with request.log.open("a") as log:
            log.write("".join(f"{line}\n" for line in ("+ the end of debootstrap.log", *lines)))
