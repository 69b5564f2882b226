# SPDX-License-Identifier: LGPL-2.1-or-later
"""What OCI and Debian call this host's processor."""

from __future__ import annotations

import os

_OCI = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i586": "386",
    "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64", "mips64": "mips64le",
}  # fmt: skip
_DEBIAN = {"arm": "armhf", "386": "i386", "ppc64le": "ppc64el", "mips64le": "mips64el"}


def architecture() -> str:
    """Give the host's architecture as OCI has it (Go's GOARCH): amd64, arm64, ..."""
    machine = os.uname().machine
    return _OCI.get(machine, machine)


def debian_architecture() -> str:
    """Give the host's architecture as dpkg-architecture(1) has it: amd64, arm64, armhf, ..."""
    name = architecture()
    return _DEBIAN.get(name, name)
