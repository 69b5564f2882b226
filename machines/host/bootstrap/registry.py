# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bootstrappers by name, and which of them to take for a Debian-like tree."""

from __future__ import annotations

from collections.abc import Callable

from machines.errors import InvalidValue, Unsupported
from machines.host.bootstrap.debootstrap import Debootstrap
from machines.host.bootstrap.mmdebstrap import Mmdebstrap
from machines.host.interfaces import Bootstrapper
from machines.host.run import PACKAGES

BOOTSTRAPPERS: dict[str, Callable[[], Bootstrapper]] = {
    "mmdebstrap": Mmdebstrap,
    "debootstrap": Debootstrap,
}
"""In the order in which ``auto`` tries them."""


def bootstrapper(name: str) -> Bootstrapper:
    """Give the bootstrapper called ``name``, installed or not; raises InvalidValue where there is none."""
    if name not in BOOTSTRAPPERS:
        raise InvalidValue(
            f"there is no bootstrapper {name!r}", hint=f"choose one of {', '.join(('auto', *BOOTSTRAPPERS))}"
        )
    return BOOTSTRAPPERS[name]()


def choose(preference: str = "auto") -> Bootstrapper:
    """Give the bootstrapper to use: the one named, or with ``auto`` the first that can run on this host.

    Raises InvalidValue for another word, Unsupported where what is asked for is not installed.
    """
    names = tuple(BOOTSTRAPPERS) if preference == "auto" else (preference,)
    candidates = [bootstrapper(name) for name in names]
    for candidate in candidates:
        if not candidate.missing_tools():
            return candidate
    if preference == "auto":
        raise Unsupported(
            "no tool to make a root tree with is installed",
            hint="apt install mmdebstrap (debootstrap does as well)",
        )
    lacking = candidates[0].missing_tools()
    packages = dict.fromkeys(PACKAGES.get(tool, tool) for tool in lacking)
    raise Unsupported(
        f"{preference} cannot run, the host lacks {', '.join(lacking)}", hint=f"apt install {' '.join(packages)}"
    )
